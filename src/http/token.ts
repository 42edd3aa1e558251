/** Keeps the bearer token of network listeners: made at the first use, one for a home directory, its owner's alone. */

import fs from "node:fs"
import { Effect, Redacted, type Scope } from "effect"
import { StoreFailed } from "../domain/errors/store.ts"
import { attemptFile, type FileError, writeAtomic } from "../store/files/files.ts"
import { fileLock } from "../store/files/lock.ts"
import { foreignFile } from "../store/files/ownership.ts"

/** Bytes of randomness in a token. */
const tokenBytes = 32

const pattern = /^[A-Za-z0-9_-]{43,512}$/

/** The token in a file; a missing one is made. Two servers that start at once end with one token. */
export const serverToken = Effect.fn("Http.token")(function* (
  file: string
): Effect.fn.Return<Redacted.Redacted<string>, FileError, Scope.Scope> {
  yield* fileLock(`${file}.lock`)
  const text = yield* attemptFile("read", file, () => (fs.existsSync(file) ? fs.readFileSync(file, "utf8").trim() : ""))
  if (text !== "") {
    const wrong = foreignFile(file)
    if (wrong !== undefined) {
      const reason = `${wrong}; what others may have written is no secret: remove it, and the next start makes a new one`
      return yield* new StoreFailed({ operation: "read", path: file, reason })
    }
    if (!pattern.test(text)) {
      return yield* new StoreFailed({
        operation: "read",
        path: file,
        reason: "it holds no token; remove it, and the next start makes a new one"
      })
    }
    yield* attemptFile("protect", file, () => fs.chmodSync(file, 0o600))
    return Redacted.make(text)
  }
  const fresh = Buffer.from(crypto.getRandomValues(new Uint8Array(tokenBytes))).toString("base64url")
  yield* writeAtomic(file, `${fresh}\n`)
  return Redacted.make(fresh)
}, Effect.scoped)
