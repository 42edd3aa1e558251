/**
 * Takes file locks (flock(2)) that end with their process, for work that only one process at a time may do. Never blocks the thread.
 *
 * Invariant: whoever holds a lock holds the file that has the lock's name now, so a holder, and nobody else, may unlink it.
 */

import fs from "node:fs"
import { Effect, Schedule, type Scope } from "effect"
import { tryLockExclusive, tryLockShared } from "../../ffi/posix.ts"
import { attemptFile, type FileError } from "./files.ts"

const close = (fd: number) => Effect.sync(() => fs.closeSync(fd))

/** Tries once: the descriptor that holds the lock, undefined while another one does. */
const attempt = Effect.fnUntraced(function* (
  file: string,
  tryLock: (fd: number) => boolean = tryLockExclusive
): Effect.fn.Return<number | undefined, FileError> {
  while (true) {
    const fd = yield* attemptFile("open lock", file, () =>
      fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600)
    )
    const held = yield* attemptFile("lock", file, () => {
      if (!tryLock(fd)) return "by another"
      // Its last holder unlinked it between our open and our lock: the name may be another file's by now.
      return fs.fstatSync(fd).nlink > 0 ? "by us" : "stale"
    }).pipe(Effect.onError(() => close(fd)))
    if (held === "by us") return fd
    fs.closeSync(fd)
    if (held === "by another") return undefined
  }
})

const closeIfOpen = (fd: number | undefined) => (fd === undefined ? Effect.void : close(fd))

/** Tries once; the lock, if won, is held until the scope closes. The lock file stays. */
export const tryFileLock = Effect.fnUntraced(function* (
  file: string
): Effect.fn.Return<boolean, FileError, Scope.Scope> {
  return (yield* Effect.acquireRelease(attempt(file), closeIfOpen)) !== undefined
})

/** Waits, asking again every `intervalMs` (default 50), until the lock is won; it is held until the scope closes. */
export const fileLock = Effect.fnUntraced(function* (
  file: string,
  intervalMs = 50
): Effect.fn.Return<void, FileError, Scope.Scope> {
  yield* tryFileLock(file).pipe(Effect.repeat({ until: (won) => won, schedule: Schedule.spaced(intervalMs) }))
})

/** The same for a lock that is shared with others who ask for it this way, and excludes those of `fileLock`. */
export const sharedFileLock = Effect.fnUntraced(function* (
  file: string
): Effect.fn.Return<void, FileError, Scope.Scope> {
  const won = Effect.map(Effect.acquireRelease(attempt(file, tryLockShared), closeIfOpen), (fd) => fd !== undefined)
  yield* won.pipe(Effect.repeat({ until: (mine) => mine, schedule: Schedule.spaced("50 millis") }))
})

/** How often a lock is asked for of which any will do, in milliseconds. */
const anyIntervalMs = 100

/**
 * Runs `use` with one of the locks, whichever is free: as many at once as there are, over all processes. What waited for `waitMs` runs
 * without one, so that holders that hang hold nobody up for ever.
 */
export const withAnyLock = <A, E, R>(
  files: ReadonlyArray<string>,
  waitMs: number,
  use: Effect.Effect<A, E, R>
): Effect.Effect<A, E | FileError, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      let held: number | undefined
      for (let waited = 0; held === undefined && waited <= waitMs; waited += anyIntervalMs) {
        if (waited > 0) yield* restore(Effect.sleep(anyIntervalMs))
        for (const file of files) if (held === undefined) held = yield* attempt(file)
      }
      return yield* Effect.ensuring(restore(use), closeIfOpen(held))
    })
  )

/** Unlinks a lock's file. Only for the holder of the lock: whoever waits for it then locks a new file of that name. */
export const unlinkHeldLock = (file: string): Effect.Effect<void, FileError> =>
  attemptFile("remove lock", file, () => fs.rmSync(file, { force: true }))

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

/** The process that holds the lock of a file, as far as the kernel tells: undefined for one of another pid namespace. */
export const holderOf = (file: string): number | undefined => {
  try {
    const { ino } = fs.statSync(file)
    for (const line of fs.readFileSync("/proc/locks", "utf8").split("\n")) {
      const [, pid, inode] = /FLOCK +\S+ +\S+ +(\d+) +\S+:(\d+) /.exec(line) ?? []
      if (Number(inode) === ino && Number(pid) > 0) return Number(pid)
    }
  } catch {
    // Neither the file nor the list need be there.
  }
  return undefined
}
