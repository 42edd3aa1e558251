/** Names every way in which secrets fail. Holds no behaviour; no field ever holds a value. */
import { Schema } from "effect"

/** The store has no secret of this name, or a sandbox has no value for it. */
export class SecretNotFound extends Schema.TaggedError<SecretNotFound>()("SecretNotFound", { name: Schema.String }) {
  override get message(): string {
    return `there is no secret "${this.name}"; 'bunker secret ls' lists them, 'bunker secret set ${this.name}' makes one`
  }
}

/** Secrets that are there can not be decrypted. */
export class SecretsUnreadable extends Schema.TaggedError<SecretsUnreadable>()("SecretsUnreadable", {
  path: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the secrets in ${this.path} can not be read: ${this.reason}`
  }
}
