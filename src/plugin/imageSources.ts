/** Binds where images come from to this process's settings: registries with their credentials, archives, root file systems. */
import path from "node:path"
import { Effect, Redacted } from "effect"
import type { ImageSources, Login } from "../actors/images/install.ts"
import type { Settings } from "../domain/settings.ts"
import { openArchive } from "../oci/archive/archive.ts"
import { importSource } from "../oci/archive/importRootfs.ts"
import * as Credentials from "../oci/registry/credentials.ts"
import { type Keyring, osKeyring } from "../oci/registry/keyring.ts"
import { checkLogin, forgetLogin, storeLogin } from "../oci/registry/login.ts"
import { registrySource } from "../oci/registry/registry.ts"
import { portableXattrs } from "../store/files/xattrs.ts"

const explicit = (domain: string, { password, username }: Login) =>
  Credentials.explicitCredential(domain, Credentials.basicCredential(username, Redacted.value(password)))

/** What is known of registries without a request's own login: environment, then Docker's config with helpers and keyring. */
export const standingCredentials = (
  settings: Settings,
  keyring: Keyring = osKeyring
): ReadonlyArray<Credentials.CredentialSource> => {
  const { dockerAuth, login } = settings.registry
  return [
    ...(login === undefined ? [] : [explicit(login.domain, login)]),
    ...(dockerAuth === undefined ? [] : [Credentials.textCredentials("DOCKER_AUTH_CONFIG", dockerAuth)]),
    Credentials.dockerCredentials({ directory: settings.dockerConfig, searchPath: settings.path, keyring })
  ]
}

/** The sources of a process. Credentials: given with the request, then environment, then Docker's config with helpers and keyring, then none. */
export const imageSources = (settings: Settings, keyring: Keyring = osKeyring): ImageSources => {
  const docker = { directory: settings.dockerConfig, searchPath: settings.path }
  const standing = standingCredentials(settings, keyring)
  return {
    registry: (reference, { login, ...request }) => {
      const own = login === undefined ? [] : [explicit(reference.domain, login)]
      return registrySource(reference, {
        ...request,
        credentials: Credentials.firstCredential([...own, ...standing])
      })
    },
    rootfs: (file, config) => importSource(path.resolve(file), config, portableXattrs),
    archive: (file, options) => openArchive(path.resolve(file), options),
    login: (domain, { password, username }, insecure) => {
      const credential = Credentials.basicCredential(username, Redacted.value(password))
      return Effect.andThen(
        checkLogin(domain, credential, insecure),
        storeLogin(domain, credential, { ...docker, keyring })
      )
    },
    logout: (domain) => forgetLogin(domain, { ...docker, keyring })
  }
}
