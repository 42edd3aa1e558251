/** Takes file locks that end with their process, for work that only one process at a time may do. Never blocks the thread. */

import fs from "node:fs"
import { Effect, Option, Schedule, type Scope } from "effect"
import { tryLockExclusive } from "../ffi/posix.ts"
import { attemptFile, type FileError } from "./files.ts"

const openLock = (file: string): Effect.Effect<number, FileError, Scope.Scope> =>
  Effect.acquireRelease(
    attemptFile("open lock", file, () => fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600)),
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )

/** Tries once; the lock, if won, is held until the scope closes. The lock file stays: removing it would race. */
export const tryFileLock = Effect.fnUntraced(function* (
  file: string
): Effect.fn.Return<boolean, FileError, Scope.Scope> {
  const fd = yield* openLock(file)
  return yield* attemptFile("lock", file, () => tryLockExclusive(fd))
})

/** Waits, asking again every 50 ms, until the lock is won; it is held until the scope closes. */
export const fileLock = Effect.fnUntraced(function* (file: string): Effect.fn.Return<void, FileError, Scope.Scope> {
  const fd = yield* openLock(file)
  yield* attemptFile("lock", file, () => tryLockExclusive(fd)).pipe(
    Effect.map((won) => (won ? Option.some(undefined) : Option.none())),
    Effect.repeat({ until: Option.isSome, schedule: Schedule.spaced("50 millis") })
  )
})

/** True while another open description holds the lock; a missing file is not locked. */
export const isLocked = (file: string): boolean => {
  let fd: number
  try {
    fd = fs.openSync(file, fs.constants.O_RDWR)
  } catch {
    return false
  }
  try {
    return !tryLockExclusive(fd)
  } finally {
    fs.closeSync(fd)
  }
}
