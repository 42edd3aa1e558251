/** Names every way in which secrets fail. Holds no behaviour; no field ever holds a value. */
import { Schema } from "effect"
import { advised } from "./advice.ts"
import { taggedError } from "./base.ts"

/** The store has no secret of this name, or a sandbox has no value for it. */
export class SecretNotFound extends taggedError<SecretNotFound>()("SecretNotFound", { secret: Schema.String }) {
  override get message(): string {
    return `there is no secret "${this.secret}"; see 'bunker secret ls', or give it a value with 'bunker secret set'`
  }
}

/** Secrets that are there can not be decrypted. */
export class SecretsUnreadable extends taggedError<SecretsUnreadable>()("SecretsUnreadable", {
  path: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return advised(`the secrets in ${this.path} can not be read: `, this.reason, "put that right, or set them again")
  }
}
