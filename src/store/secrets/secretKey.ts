/**
 * Keeps the key that encrypts secrets: in the keyring of the operating system where there is one, else in a file of mode 0600 in the
 * home. Encrypts nothing itself (see secretFile.ts).
 *
 * Invariant: a home has one key; where it was once put, it is looked for.
 */
import crypto from "node:crypto"
import fs from "node:fs"
import { Context, Effect, type Scope } from "effect"
import { SecretsUnreadable } from "../../domain/errors/secret.ts"
import { attemptFile, type FileError, writeAtomic } from "../files/files.ts"
import { fileLock } from "../files/lock.ts"

const keyBytes = 32
/** A locked keyring may ask its owner; a background process does not wait for that for ever. */
const keyringTimeout = "5 seconds"

/** The operating system's keyring, as far as it is used here. */
export interface SecretKeyring {
  /** Rejects where there is no keyring. */
  readonly get: (name: string) => Promise<string | null>
  readonly set: (name: string, value: string) => Promise<void>
}

/** Libsecret, through Bun. */
export const SecretKeyring = Context.Reference<SecretKeyring>("bunker/SecretKeyring", {
  defaultValue: () => ({
    get: (name) => Bun.secrets.get({ service: "bunker", name }),
    set: (name, value) => Bun.secrets.set({ service: "bunker", name, value })
  })
})

/** Where the key of a home is. */
export interface SecretKeyPlace {
  /** Holds the key, or the word `keyring`. */
  readonly file: string
  readonly lock: string
}

const inKeyring = "keyring"

const nameFor = (file: string): string =>
  `secrets/${crypto.createHash("sha256").update(file).digest("hex").slice(0, 32)}`

const decode = (text: string): Buffer | undefined => {
  const key = Buffer.from(text.trim(), "base64url")
  return key.length === keyBytes ? key : undefined
}

const fromKeyring = Effect.fnUntraced(function* (file: string): Effect.fn.Return<Buffer, SecretsUnreadable> {
  const keyring = yield* SecretKeyring
  const text = yield* Effect.tryPromise(() => keyring.get(nameFor(file))).pipe(
    Effect.timeout(keyringTimeout),
    Effect.orElseSucceed(() => null)
  )
  const key = decode(text ?? "")
  if (key !== undefined) return key
  const reason =
    "their key is in the keyring of this system, which does not give it; unlock it, and let this program see it"
  return yield* new SecretsUnreadable({ path: file, reason })
})

/** True when the keyring took the key and gives it back. */
const offerKeyring = Effect.fnUntraced(function* (name: string, text: string): Effect.fn.Return<boolean> {
  const keyring = yield* SecretKeyring
  return yield* Effect.tryPromise(async () => {
    await keyring.set(name, text)
    return (await keyring.get(name)) === text
  }).pipe(
    Effect.timeout(keyringTimeout),
    Effect.orElseSucceed(() => false)
  )
})

/** The key of this home, made where there is none. */
export const secretKey = Effect.fn("Secrets.key")(function* ({
  file,
  lock
}: SecretKeyPlace): Effect.fn.Return<Buffer, FileError | SecretsUnreadable, Scope.Scope> {
  yield* fileLock(lock)
  const text = yield* attemptFile("read", file, () => (fs.existsSync(file) ? fs.readFileSync(file, "utf8").trim() : ""))
  if (text === inKeyring) return yield* fromKeyring(file)
  if (text !== "") {
    const key = decode(text)
    if (key !== undefined) return key
    const reason = `${file} holds no key; put the right one back, or remove it with the secrets and set them again`
    return yield* new SecretsUnreadable({ path: file, reason })
  }
  const fresh = crypto.randomBytes(keyBytes)
  const kept = yield* offerKeyring(nameFor(file), fresh.toString("base64url"))
  yield* writeAtomic(file, kept ? `${inKeyring}\n` : `${fresh.toString("base64url")}\n`)
  return fresh
}, Effect.scoped)
