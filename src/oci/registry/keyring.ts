/**
 * Keeps registry passwords in the keyring of the operating system, where there is one (libsecret, through `Bun.secrets`).
 * A machine without one, or with a locked one, knows nothing and stores nothing; that is no error.
 */
import { Effect, Redacted, Schema } from "effect"
import { basicCredential, type Credential, type CredentialSource, registryKey } from "./credentials.ts"

export interface Keyring extends CredentialSource {
  /** Answers whether it was stored. */
  readonly set: (domain: string, credential: Credential & { readonly kind: "basic" }) => Effect.Effect<boolean>
  /** Answers whether there was something to remove. */
  readonly remove: (domain: string) => Effect.Effect<boolean>
}

const service = "bunker"
/** A locked keyring may ask its owner; a pull does not wait for that. */
const readTimeout = "3 seconds"
const writeTimeout = "60 seconds"

const Stored = Schema.fromJsonString(Schema.Struct({ username: Schema.String, password: Schema.String }))

/** The keyring of this user. */
export const osKeyring: Keyring = {
  get: (domain) =>
    Effect.tryPromise(() => Bun.secrets.get({ service, name: registryKey(domain) })).pipe(
      Effect.timeout(readTimeout),
      Effect.flatMap((text) => Schema.decodeEffect(Stored)(text ?? "")),
      Effect.map(({ password, username }): Credential | undefined => basicCredential(username, password)),
      Effect.orElseSucceed(() => undefined)
    ),
  set: (domain, { password, username }) =>
    Effect.tryPromise(() =>
      Bun.secrets.set({
        service,
        name: registryKey(domain),
        value: JSON.stringify({ username, password: Redacted.value(password) })
      })
    ).pipe(
      Effect.timeout(writeTimeout),
      Effect.as(true),
      Effect.orElseSucceed(() => false)
    ),
  remove: (domain) =>
    Effect.tryPromise(() => Bun.secrets.delete({ service, name: registryKey(domain) })).pipe(
      Effect.timeout(writeTimeout),
      Effect.orElseSucceed(() => false)
    )
}
