/** Takes a stream of bytes into a private file for as long as a scope lasts, for work that must read them twice. Looks at none of them. */
import fs from "node:fs"
import { Effect, type Scope } from "effect"
import { attemptFile, type FileError, fileError, temporaryName } from "./files.ts"

/** A file below `directory` with the bytes of `source`, mode 0600; a sweep takes it when this process dies. */
export const spool = Effect.fn("Store.spool")(function* (
  directory: string,
  source: AsyncIterable<Uint8Array>
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
      for await (const bytes of source) {
        if (signal.aborted) return
        for (let done = 0; done < bytes.length; ) done += fs.writeSync(fd, bytes, done)
      }
    },
    catch: (cause) => fileError("receive into", directory, cause)
  })
  return file
})
