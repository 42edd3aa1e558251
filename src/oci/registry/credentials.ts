/**
 * Finds the credentials for a registry: an explicit one, then those of a configuration text, then Docker's config.json with its
 * credential helpers, then none. Reads no environment of its own and writes nothing (see login.ts); secrets stay `Redacted`.
 */

import fs from "node:fs/promises"
import path from "node:path"
import { Effect, Redacted, Schema } from "effect"

/** What proves who is asking. */
export type Credential =
  | { readonly kind: "basic"; readonly username: string; readonly password: Redacted.Redacted<string> }
  /** OAuth2 refresh token, traded for access tokens at the registry's token server. */
  | { readonly kind: "identity"; readonly token: Redacted.Redacted<string> }
  /** Ready bearer token for the registry itself. */
  | { readonly kind: "bearer"; readonly token: Redacted.Redacted<string> }

/** Answers for a registry's domain as references write it (`docker.io`, `localhost:5000`); undefined means anonymous. */
export interface CredentialSource {
  readonly get: (domain: string) => Effect.Effect<Credential | undefined>
}

/** Most bytes in Docker's config.json or a helper's answer. */
const configBytesMax = 1024 * 1024
const helperAnswerBytesMax = 64 * 1024
const helperTimeout = "30 seconds"

/** The key under which Docker Hub's credentials are kept. */
export const hubKey = "https://index.docker.io/v1/"

export const anonymous: CredentialSource = { get: () => Effect.succeed(undefined) }

/** One credential for one registry; others get nothing, so a mirror never sees the origin's password. */
export const explicitCredential = (domain: string, credential: Credential): CredentialSource => ({
  get: (asked) => Effect.succeed(registryKey(asked) === registryKey(domain) ? credential : undefined)
})

export const basicCredential = (username: string, password: string): Credential & { readonly kind: "basic" } => ({
  kind: "basic",
  username,
  password: Redacted.make(password, { label: "registry password" })
})

/** The first source that knows the registry wins. */
export const firstCredential = (sources: ReadonlyArray<CredentialSource>): CredentialSource => ({
  get: Effect.fn("oci.credential")(function* (domain) {
    for (const source of sources) {
      const found = yield* source.get(domain)
      if (found !== undefined) return found
    }
    return undefined
  })
})

const AuthEntry = Schema.Struct({
  auth: Schema.optionalKey(Schema.NullOr(Schema.String)),
  username: Schema.optionalKey(Schema.NullOr(Schema.String)),
  password: Schema.optionalKey(Schema.NullOr(Schema.String)),
  identitytoken: Schema.optionalKey(Schema.NullOr(Schema.String)),
  registrytoken: Schema.optionalKey(Schema.NullOr(Schema.String))
})

/** The part of Docker's config.json that concerns registries (docker/cli `cli/config/configfile`). */
const DockerConfig = Schema.Struct({
  auths: Schema.optionalKey(Schema.NullOr(Schema.Record(Schema.String, AuthEntry))),
  credHelpers: Schema.optionalKey(Schema.NullOr(Schema.Record(Schema.String, Schema.String))),
  credsStore: Schema.optionalKey(Schema.NullOr(Schema.String))
})

const HelperAnswer = Schema.Struct({ Username: Schema.String, Secret: Schema.String })

/** Host part of a key of config.json or of a domain, so that `https://ghcr.io/v2/` and `ghcr.io` meet. */
export const registryKey = (key: string): string => {
  const host = key.replace(/^https?:\/\//, "").split("/")[0] ?? ""
  return ["docker.io", "index.docker.io", "registry-1.docker.io"].includes(host) ? "docker.io" : host.toLowerCase()
}

const fromPair = (username: string, secret: string): Credential | undefined => {
  if (secret === "") return undefined
  return username === "<token>" ? { kind: "identity", token: Redacted.make(secret) } : basicCredential(username, secret)
}

const fromEntry = (entry: typeof AuthEntry.Type): Credential | undefined => {
  if (entry.registrytoken) return { kind: "bearer", token: Redacted.make(entry.registrytoken) }
  if (entry.identitytoken) return { kind: "identity", token: Redacted.make(entry.identitytoken) }
  if (entry.auth) {
    const text = Buffer.from(entry.auth, "base64").toString("utf8").replace(/\0+$/, "")
    const colon = text.indexOf(":")
    return colon < 0 ? undefined : fromPair(text.slice(0, colon), text.slice(colon + 1))
  }
  return entry.username && entry.password ? fromPair(entry.username, entry.password) : undefined
}

const readConfig = (file: string) =>
  Effect.tryPromise({
    try: async () => {
      const stat = await fs.stat(file)
      if (!stat.isFile() || stat.size > configBytesMax) throw new Error("it is not a file of at most 1 MiB")
      return JSON.parse(await fs.readFile(file, "utf8")) as unknown
    },
    catch: (cause) => cause as { readonly code?: unknown }
  }).pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(DockerConfig)),
    // The cause may quote the file's content, so it is not shown.
    Effect.catch((error) =>
      ("code" in error && error.code === "ENOENT"
        ? Effect.void
        : Effect.logWarning(`${file} is not a readable Docker configuration; going on without its credentials`)
      ).pipe(Effect.as<typeof DockerConfig.Type>({}))
    )
  )

/** The program of a helper; null when there is none of that name. */
export const helperCommand = (helper: string, searchPath: string | undefined): string | null =>
  /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(helper)
    ? Bun.which(`docker-credential-${helper}`, searchPath === undefined ? {} : { PATH: searchPath })
    : null

/** Runs `docker-credential-NAME get` (protocol of docker/docker-credential-helpers); undefined when it knows nothing. */
const askHelper = Effect.fn("oci.credentialHelper")(function* (
  helper: string,
  serverUrl: string,
  searchPath: string | undefined
) {
  const command = helperCommand(helper, searchPath)
  const skip = (why: string) =>
    Effect.logWarning(`credential helper ${JSON.stringify(helper.slice(0, 64))} for ${serverUrl} ${why}`).pipe(
      Effect.as(undefined)
    )
  if (command === null) return yield* skip("is not installed; going on without it")
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      Bun.spawn([command, "get"], {
        stdin: Buffer.from(serverUrl),
        stdout: "pipe",
        stderr: "ignore",
        killSignal: "SIGKILL"
      })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const answer = yield* Effect.tryPromise(async () => {
    const chunks: Array<Uint8Array> = []
    let length = 0
    for await (const chunk of child.stdout) {
      length += chunk.length
      if (length > helperAnswerBytesMax) throw new Error("too long")
      chunks.push(chunk)
    }
    return { code: await child.exited, text: Buffer.concat(chunks).toString("utf8") }
  }).pipe(
    Effect.timeout(helperTimeout),
    Effect.orElseSucceed(() => undefined)
  )
  if (answer === undefined) return yield* skip("gave no usable answer")
  if (answer.code !== 0) {
    return /credentials not found/i.test(answer.text) ? undefined : yield* skip(`failed (exit code ${answer.code})`)
  }
  const decoded = yield* Schema.decodeEffect(Schema.fromJsonString(HelperAnswer))(answer.text).pipe(
    Effect.orElseSucceed(() => undefined)
  )
  return decoded === undefined
    ? yield* skip("gave an answer that is not JSON")
    : fromPair(decoded.Username, decoded.Secret)
}, Effect.scoped)

const isNamed = (auths: object | null | undefined, domain: string): boolean =>
  Object.keys(auths ?? {}).some((name) => registryKey(name) === registryKey(domain))

const entryFor = (auths: (typeof DockerConfig.Type)["auths"], domain: string): Credential | undefined => {
  const key = registryKey(domain)
  const entry = Object.entries(auths ?? {}).find(([name]) => registryKey(name) === key)?.[1]
  return entry === undefined ? undefined : fromEntry(entry)
}

/** Credentials of a text in the form of Docker's config.json (`DOCKER_AUTH_CONFIG`); a broken one is logged and knows nothing. */
export const textCredentials = (what: string, text: Redacted.Redacted<string>): CredentialSource => ({
  get: (domain) =>
    Schema.decodeEffect(Schema.fromJsonString(DockerConfig))(Redacted.value(text)).pipe(
      Effect.map((config) => entryFor(config.auths, domain)),
      // The cause may quote the text, so it is not shown.
      Effect.catch(() =>
        Effect.as(Effect.logWarning(`${what} is not a Docker configuration; going on without it`), undefined)
      )
    )
})

/** Options of `dockerCredentials`. */
export interface DockerCredentialOptions {
  /** Directory that holds `config.json`: `$DOCKER_CONFIG`, else `~/.docker`. */
  readonly directory: string
  /** Where helpers are looked for; the process's own `PATH` when absent. */
  readonly searchPath?: string
  /**
   * Asked only for registries that `auths` names without a password, as `bunker login` notes them: a locked keyring asks its
   * owner, and public images need none. Default: none.
   */
  readonly keyring?: CredentialSource
}

/**
 * Credentials as `docker login` left them: `credHelpers`, then `credsStore`, then `auths`, or what a keyring has for these. A broken file or helper is
 * logged and counts as knowing nothing, so that public images can still be pulled.
 */
export const dockerCredentials = (options: DockerCredentialOptions): CredentialSource => ({
  get: Effect.fn("oci.dockerCredential")(function* (domain) {
    const config = yield* readConfig(path.join(options.directory, "config.json"))
    const key = registryKey(domain)
    const helper =
      Object.entries(config.credHelpers ?? {}).find(([name]) => registryKey(name) === key)?.[1] ?? config.credsStore
    if (helper) {
      const found = yield* askHelper(helper, key === "docker.io" ? hubKey : domain, options.searchPath)
      if (found !== undefined) return found
    }
    const found = entryFor(config.auths, domain)
    return found === undefined && options.keyring !== undefined && isNamed(config.auths, domain)
      ? yield* options.keyring.get(domain)
      : found
  })
})
