/** Takes a stream of bytes into a private file for as long as a scope lasts, for work that must read them twice. Looks at none of them. */
import fs from "node:fs"
import { Effect, type Scope } from "effect"
import { attemptFile, type FileError, fileError, temporaryName } from "./files.ts"

export interface SpoolOptions {
  /** For bytes that others send: ends as on a full disk while there is still room for everything else. Default false. */
  readonly keepsRoom?: boolean
}

/** Bytes after which the disk is looked at again. */
const lookEveryBytes = 16 * 1024 * 1024
/** Room that is kept: a twentieth of the disk, at most this many bytes. */
const roomBytesMax = 1024 ** 3

const isNearlyFull = (directory: string): boolean => {
  const { bavail, blocks, bsize } = fs.statfsSync(directory)
  return bavail * bsize < Math.min(roomBytesMax, (blocks * bsize) / 20)
}

/** A file below `directory` with the bytes of `source`, mode 0600; a sweep takes it when this process dies. */
export const spool = Effect.fn("Store.spool")(function* (
  directory: string,
  source: AsyncIterable<Uint8Array>,
  options: SpoolOptions = {}
): Effect.fn.Return<string, FileError, Scope.Scope> {
  const file = yield* Effect.acquireRelease(
    Effect.sync(() => temporaryName(directory, "spool")),
    (file) => Effect.sync(() => fs.rmSync(file, { force: true }))
  )
  const fd = yield* Effect.acquireRelease(
    attemptFile("make", file, () => fs.openSync(file, "wx", 0o600)),
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )
  yield* Effect.tryPromise({
    try: async (signal) => {
      let unlooked = lookEveryBytes
      for await (const bytes of source) {
        if (signal.aborted) return
        unlooked += bytes.length
        if (options.keepsRoom === true && unlooked >= lookEveryBytes) {
          if (isNearlyFull(directory)) throw Object.assign(new Error("nearly full"), { code: "ENOSPC" })
          unlooked = 0
        }
        for (let done = 0; done < bytes.length; ) done += fs.writeSync(fd, bytes, done)
      }
    },
    catch: (cause) => fileError("receive into", directory, cause)
  })
  return file
})
