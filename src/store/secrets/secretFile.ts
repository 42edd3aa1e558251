/**
 * Keeps the values of secrets encrypted (AES-256-GCM), each with its name bound to it: those of the home's store, and those that one
 * sandbox was given. Lists names and times, never values; who reads a value holds it redacted.
 *
 * Invariant: no value is on the disk in plain text, not in a temporary file either.
 */
import crypto from "node:crypto"
import fs from "node:fs"
import { Clock, Effect, Redacted, Schema, type Scope } from "effect"
import { SecretNotFound, SecretsUnreadable } from "../../domain/errors/secret.ts"
import { attemptFile, type FileError, writeAtomic } from "../files/files.ts"
import { fileLock } from "../files/lock.ts"
import { type SecretKeyPlace, secretKey } from "./secretKey.ts"

const algorithm = "aes-256-gcm"
const nonceBytes = 12
const tagBytes = 16

/** What a file of secrets holds. */
const SecretFile = Schema.fromJsonString(
  Schema.Struct({
    version: Schema.Literal(1),
    secrets: Schema.Record(
      Schema.String,
      Schema.Struct({
        /** Unix milliseconds of the last change. */
        updatedAt: Schema.Int,
        /** Nonce, ciphertext and tag, base64. */
        sealed: Schema.String
      })
    )
  })
)
type SecretFile = typeof SecretFile.Type

/** A file of secrets and the key that they are sealed with. */
export interface SecretPlace {
  readonly file: string
  readonly lock: string
  readonly key: SecretKeyPlace
}

export type SecretError = FileError | SecretsUnreadable

/** What may be shown of a secret. */
export interface SecretEntry {
  readonly name: string
  /** Unix milliseconds. */
  readonly updatedAt: number
}

const seal = (key: Buffer, name: string, value: string): string => {
  const nonce = crypto.randomBytes(nonceBytes)
  const cipher = crypto.createCipheriv(algorithm, key, nonce).setAAD(Buffer.from(name, "utf8"))
  return Buffer.concat([nonce, cipher.update(value, "utf8"), cipher.final(), cipher.getAuthTag()]).toString("base64")
}

/** Throws for what was changed, belongs to another name or another key. */
const unseal = (key: Buffer, name: string, sealed: string): string => {
  const bytes = Buffer.from(sealed, "base64")
  const nonce = bytes.subarray(0, nonceBytes)
  const decipher = crypto.createDecipheriv(algorithm, key, nonce).setAAD(Buffer.from(name, "utf8"))
  decipher.setAuthTag(bytes.subarray(bytes.length - tagBytes))
  const body = bytes.subarray(nonceBytes, bytes.length - tagBytes)
  return Buffer.concat([decipher.update(body), decipher.final()]).toString("utf8")
}

const read = Effect.fnUntraced(function* (file: string): Effect.fn.Return<SecretFile, SecretError> {
  const text = yield* attemptFile("read", file, () => (fs.existsSync(file) ? fs.readFileSync(file, "utf8") : undefined))
  if (text === undefined) return { version: 1, secrets: {} }
  return yield* Effect.mapError(
    Schema.decodeEffect(SecretFile)(text),
    () => new SecretsUnreadable({ path: file, reason: "it is no file of secrets; remove it and set them again" })
  )
})

const write = (file: string, content: SecretFile): Effect.Effect<void, FileError> =>
  writeAtomic(file, `${JSON.stringify(content)}\n`)

/** Changes the file while no other process does. */
const change = <A, E>(
  place: SecretPlace,
  edit: (before: SecretFile) => Effect.Effect<readonly [SecretFile, A], E, Scope.Scope>
) =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* fileLock(place.lock)
      const [after, result] = yield* edit(yield* read(place.file))
      yield* write(place.file, after)
      return result
    })
  )

/** Sets secrets; those of other names stay. */
export const setSecrets = Effect.fn("Secrets.set")(function* (
  place: SecretPlace,
  values: ReadonlyMap<string, Redacted.Redacted<string>>
): Effect.fn.Return<void, SecretError> {
  const updatedAt = yield* Clock.currentTimeMillis
  yield* change(place, (before) =>
    Effect.map(secretKey(place.key), (key) => {
      const fresh = [...values].map(
        ([name, value]) => [name, { updatedAt, sealed: seal(key, name, Redacted.value(value)) }] as const
      )
      return [{ ...before, secrets: { ...before.secrets, ...Object.fromEntries(fresh) } }, undefined] as const
    })
  )
})

/** Fails when there is none of the name. */
export const removeSecret = Effect.fn("Secrets.remove")(function* (
  place: SecretPlace,
  name: string
): Effect.fn.Return<void, SecretError | SecretNotFound> {
  yield* change(place, (before) => {
    const { [name]: gone, ...secrets } = before.secrets
    return gone === undefined
      ? Effect.fail(new SecretNotFound({ secret: name }))
      : Effect.succeed([{ ...before, secrets }, undefined] as const)
  })
})

/** Names in their order, without values. */
export const listSecrets = Effect.fn("Secrets.list")(function* (
  place: Pick<SecretPlace, "file">
): Effect.fn.Return<ReadonlyArray<SecretEntry>, SecretError> {
  const { secrets } = yield* read(place.file)
  return Object.entries(secrets)
    .map(([name, { updatedAt }]) => ({ name, updatedAt }))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
})

/** The values of those names that are there. */
export const readSecrets = Effect.fn("Secrets.read")(function* (
  place: SecretPlace,
  names: ReadonlyArray<string>
): Effect.fn.Return<ReadonlyMap<string, Redacted.Redacted<string>>, SecretError> {
  const { secrets } = yield* read(place.file)
  const found = names.flatMap((name) => {
    const entry = Object.hasOwn(secrets, name) ? secrets[name] : undefined
    return entry === undefined ? [] : [[name, entry.sealed] as const]
  })
  if (found.length === 0) return new Map()
  const key = yield* secretKey(place.key)
  return yield* Effect.try({
    try: () => new Map(found.map(([name, sealed]) => [name, Redacted.make(unseal(key, name, sealed))] as const)),
    catch: () =>
      new SecretsUnreadable({
        path: place.file,
        reason: "they were changed, or sealed with another key; set them again"
      })
  })
})
