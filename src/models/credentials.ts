/**
 * Finds the secret that an alias names: environment, then the system's keyring, then what a config file refers to. Keeps and logs
 * nothing; whoever gets the secret holds it redacted.
 */

import fs from "node:fs"
import { Effect, Redacted } from "effect"

/** Where a secret is: an environment variable or a file that holds nothing else. */
export type SecretReference = { readonly env: string } | { readonly file: string }

export interface SecretOptions {
  /** Name of the environment variable of an alias. */
  readonly variable: (alias: string) => string
  readonly env: Readonly<Record<string, string | undefined>>
  /** The keyring's word for a name of the service `bunker`. */
  readonly keyring: (name: string) => Promise<string | null>
  /** What the config file says of an alias; asked last, for it may be slow to load. */
  readonly reference: (alias: string) => Effect.Effect<SecretReference | undefined>
}

/** Most bytes of a file that holds a secret. */
const secretBytesMax = 64 * 1024
/** Longest time for the keyring, in milliseconds: one that asks its owner for a password must not hold a pull for ever. */
const keyringTimeoutMs = 10_000

/** The system's keyring; a system without one has no secrets. */
export const systemKeyring = (name: string): Promise<string | null> =>
  Bun.secrets.get({ service: "bunker", name }).catch(() => null)

const readSecretFile = (file: string): string | undefined => {
  try {
    return fs.statSync(file).size > secretBytesMax ? undefined : fs.readFileSync(file, "utf8").trim()
  } catch {
    return undefined
  }
}

const given = (text: string | null | undefined): string | undefined =>
  text === null || text === undefined || text.trim() === "" ? undefined : text.trim()

export const findSecret = Effect.fn("Models.secret")(function* (alias: string, options: SecretOptions) {
  const fromEnvironment = given(options.env[options.variable(alias)])
  if (fromEnvironment !== undefined) return Redacted.make(fromEnvironment)
  const fromKeyring = yield* Effect.promise(() => options.keyring(`hf/${alias}`)).pipe(
    Effect.timeoutOrElse({ duration: keyringTimeoutMs, orElse: () => Effect.succeed(null) })
  )
  if (given(fromKeyring) !== undefined) return Redacted.make(given(fromKeyring)!)
  const reference = yield* options.reference(alias)
  if (reference === undefined) return undefined
  const referred = given("env" in reference ? options.env[reference.env] : readSecretFile(reference.file))
  return referred === undefined ? undefined : Redacted.make(referred)
})
