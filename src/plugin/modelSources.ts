/** Binds where models and their secrets come from to this process's settings. Asks nobody until a pull does. */
import { Effect, Schema } from "effect"
import { credentialVariable, type ModelSources } from "../actors/models/install.ts"
import type { Settings } from "../domain/settings.ts"
import { findSecret, systemKeyring } from "../models/credentials.ts"
import { openSource } from "../models/open.ts"
import { firstCredential } from "../oci/registry/credentials.ts"
import { standingCredentials } from "./imageSources.ts"
import { ModelOptions } from "./models.ts"
import type { LoadedConfig } from "./userConfig.ts"

const decodeOptions = Schema.decodeUnknownEffect(ModelOptions)

/** The sources of a process. The owner's config is read only when a secret is found nowhere else. */
export const modelSources = <E>(settings: Settings, config: Effect.Effect<LoadedConfig, E>): ModelSources => ({
  open: (wanted) =>
    openSource(wanted, { ...settings, registryCredentials: firstCredential(standingCredentials(settings)) }),
  secret: (alias) =>
    findSecret(alias, {
      variable: credentialVariable,
      env: process.env,
      keyring: systemKeyring,
      reference: (each) =>
        config.pipe(
          Effect.flatMap(({ options }) => decodeOptions(options["models"] ?? {})),
          Effect.map(({ credentials = {} }) => (Object.hasOwn(credentials, each) ? credentials[each] : undefined)),
          Effect.orElseSucceed(() => undefined)
        )
    })
})
