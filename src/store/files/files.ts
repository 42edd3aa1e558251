/**
 * Writes, publishes and removes files so that a crash leaves the old or the new, never a part.
 * Order is always: write to a temporary name, check, fsync, rename, fsync the directory. Joins no paths of the home (see Paths).
 */

import fs from "node:fs"
import path from "node:path"
import { Effect, Schedule } from "effect"
import { hasPassed } from "../../domain/elapsed.ts"
import { DiskFull, HomeUnusable, StoreFailed } from "../../domain/errors/store.ts"
import { publishing } from "../../domain/failpoint.ts"
import { punchHole } from "../../ffi/posix.ts"
import { currentBootId, identify, isAlive } from "../processes/processes.ts"

export type FileError = DiskFull | HomeUnusable | StoreFailed

/** Turns what node:fs throws into a typed error that says what to do. */
export const fileError = (operation: string, file: string, cause: unknown): FileError => {
  const code = (cause as { readonly code?: unknown })?.code
  if (code === "ENOSPC" || code === "EDQUOT") return new DiskFull({ path: file })
  if (code === "EACCES" || code === "EROFS" || code === "EPERM") {
    return new HomeUnusable({
      path: file,
      reason: code === "EROFS" ? "the file system is read-only" : "permission denied"
    })
  }
  const reason = typeof code === "string" ? code : cause instanceof Error ? cause.message : String(cause)
  return new StoreFailed({ operation, path: file, reason })
}

/** Runs one synchronous file operation; whatever it throws becomes a typed error. */
export const attemptFile = <A>(operation: string, file: string, run: () => A): Effect.Effect<A, FileError> =>
  Effect.try({ try: run, catch: (cause) => fileError(operation, file, cause) })

/** The text of a small file, undefined when it can not be read. */
export const readText = (file: string): string | undefined => {
  try {
    return fs.readFileSync(file, "utf8")
  } catch {
    return undefined
  }
}

/** Makes a directory (and its parents) that only the owner can enter. */
export const ensureDirectory = (directory: string): Effect.Effect<void, FileError> =>
  attemptFile("make directory", directory, () => {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  })

/** Syncs an open file or directory on a thread of the pool. */
const fsync = (fd: number): Promise<void> =>
  new Promise((resolve, reject) => fs.fsync(fd, (cause) => (cause ? reject(cause) : resolve())))

const syncDirectoryNow = async (directory: string): Promise<void> => {
  const fd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
  try {
    await fsync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

/** Syncs of directories that go on, and the one after it that has not begun. */
const syncing = new Map<string, { readonly now: Promise<void>; next?: Promise<void> }>()

/**
 * Makes the directory entry of a created, renamed or removed file durable. Who comes while a sync goes on shares the next one:
 * the one that goes on may have begun before the change.
 */
const syncDirectory = (directory: string): Promise<void> => {
  const begin = (): Promise<void> => {
    const now = syncDirectoryNow(directory).finally(() => {
      if (syncing.get(directory)?.next === undefined) syncing.delete(directory)
    })
    syncing.set(directory, { now })
    return now
  }
  const current = syncing.get(directory)
  if (current === undefined) return begin()
  return (current.next ??= current.now.then(begin, begin))
}

/** Makes a complete file durable and its owner's alone. */
const settleFile = async (file: string, mode: number): Promise<void> => {
  const fd = fs.openSync(file, "r+")
  try {
    fs.fchmodSync(fd, mode)
    await fsync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

let sequence = 0
let ownStart: number | undefined

/**
 * A name in `directory` that no other call of any process uses: `STEM.PID-START-SEQUENCE-RANDOM.tmp`, numbers in base 36, START
 * being the process's start time (`/proc/PID/stat`, field 22), so that `isLeftover` can tell whether its maker lives.
 */
export const temporaryName = (directory: string, stem: string): string => {
  sequence += 1
  ownStart ??= identify(process.pid)?.startTicks ?? 0
  const maker = `${process.pid.toString(36)}-${ownStart.toString(36)}`
  return path.join(directory, `${stem}.${maker}-${sequence.toString(36)}-${crypto.randomUUID().slice(0, 8)}.tmp`)
}

const temporaryPattern = /\.([0-9a-z]{1,7})-([0-9a-z]{1,12})-[0-9a-z]{1,12}-[0-9a-f]{8}\.tmp$/

/** True for a name that `temporaryName` made, whoever called it. */
export const isTemporaryName = (file: string): boolean => temporaryPattern.test(path.basename(file))

/** Age after which a temporary file counts as left over whoever made it, in milliseconds: one day. */
const temporaryAgeMaxMs = 86_400_000

/** True for a temporary file that nobody will finish: its maker is dead, or it is a day old. */
export const isLeftover = (file: string, nowMs: number): boolean => {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false })
  if (stat === undefined) return false
  if (hasPassed(stat.mtimeMs, temporaryAgeMaxMs, nowMs)) return true
  const made = temporaryPattern.exec(path.basename(file))
  if (made === null) return false
  const [pid, startTicks] = [Number.parseInt(made[1]!, 36), Number.parseInt(made[2]!, 36)]
  return !isAlive({ pid, startTicks, bootId: currentBootId() })
}

/** What `ingest` does besides publishing. */
export interface IngestOptions<A, E, R> {
  /**
   * Records what was published. No interruption comes between the two; when it fails, the file goes away again.
   * Default: nothing.
   */
  readonly record?: (written: A) => Effect.Effect<unknown, E, R>
  /** Permissions of the file, default 0600. */
  readonly mode?: number
  /** What a watcher of failpoints calls the file; default: it is not told. */
  readonly kind?: "layer" | "fsmeta" | "vmdk"
}

/**
 * Ingests a file: `write` fills a temporary file and answers once its content is checked; then it is fsynced, renamed to
 * `destination`, the directory fsynced, and `record` told. Whatever fails or interrupts `write` removes the temporary file.
 */
export const ingest = <A, E, R, E2 = never, R2 = never>(
  temporaryDirectory: string,
  destination: string,
  write: (temporaryFile: string) => Effect.Effect<A, E, R>,
  options: IngestOptions<A, E2, R2> = {}
): Effect.Effect<A, E | E2 | FileError, R | R2> =>
  Effect.uninterruptibleMask((restore) => {
    const temporary = temporaryName(temporaryDirectory, path.basename(destination))
    const remove = (file: string) => Effect.sync(() => fs.rmSync(file, { force: true }))
    const attempt = (run: () => Promise<void>) =>
      Effect.tryPromise({ try: run, catch: (cause) => fileError("publish", destination, cause) })
    const publish = attempt(() => settleFile(temporary, options.mode ?? 0o600)).pipe(
      Effect.andThen(publishing(options.kind, "synced")),
      Effect.andThen(attemptFile("publish", destination, () => fs.renameSync(temporary, destination))),
      Effect.andThen(publishing(options.kind, "renamed")),
      Effect.andThen(attempt(() => syncDirectory(path.dirname(destination)))),
      Effect.andThen(publishing(options.kind, "published"))
    )
    const record = (written: A) =>
      (options.record?.(written) ?? Effect.void).pipe(Effect.onError(() => remove(destination)))
    return restore(write(temporary)).pipe(
      Effect.tap(() => publish),
      Effect.onError(() => remove(temporary)),
      Effect.tap(record)
    )
  })

/**
 * Replaces a small file whole: temporary file (default: beside it), fsync, rename, fsync of the directory. Default mode 0600.
 */
export const writeAtomic = (
  file: string,
  content: string | Uint8Array,
  options: { readonly mode?: number; readonly temporaryDirectory?: string; readonly kind?: "vmdk" } = {}
): Effect.Effect<void, FileError> =>
  ingest(
    options.temporaryDirectory ?? path.dirname(file),
    file,
    (temporary) =>
      attemptFile("write", temporary, () => fs.writeFileSync(temporary, content, { mode: 0o600, flag: "wx" })),
    { mode: options.mode ?? 0o600, ...(options.kind === undefined ? {} : { kind: options.kind }) }
  )

/** A directory that somebody still writes into: milliseconds until the next try, and tries. */
const removeAgainMs = 50
const removeTimesMax = 40

/**
 * Removes a directory below `root` and all that is in it, following no symbolic link; a missing one counts as removed.
 * Answers false when something in it could not be removed.
 */
export const removeBelow = (root: string, directory: string): Effect.Effect<boolean, StoreFailed> =>
  Effect.suspend(() => {
    const inside = path.relative(root, directory)
    if (inside === "" || inside.startsWith("..") || path.isAbsolute(inside) || inside.includes(path.sep)) {
      return Effect.fail(
        new StoreFailed({ operation: "remove", path: directory, reason: `it is not a child of ${root}` })
      )
    }
    const attempt = Effect.sync((): boolean | "busy" => {
      try {
        // rmSync unlinks a symbolic link instead of following it, at the top and below.
        fs.rmSync(directory, { recursive: true, force: true })
        return !fs.existsSync(directory)
      } catch (cause) {
        return (cause as NodeJS.ErrnoException).code === "ENOTEMPTY" ? "busy" : false
      }
    })
    // Whoever still writes into it, like a keeper that ends, is done soon.
    const again = Effect.repeat(attempt, {
      while: (done) => done === "busy",
      schedule: Schedule.spaced(removeAgainMs),
      times: removeTimesMax
    })
    return Effect.map(again, (done) => done === true)
  })

/** Bytes that a file or tree occupies on the disk (blocks, not lengths); symbolic links are not followed; 0 when missing. */
export const diskUsage = (file: string): number => {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  let total = stat.blocks * 512
  if (stat.isDirectory()) for (const entry of fs.readdirSync(file)) total += diskUsage(path.join(file, entry))
  return total
}

/** Frees the room of the first `bytes` of an open file, which read as zeros from then on; throws where the file system can not. */
export const freeStart = (fd: number, bytes: number): void => punchHole(fd, 0, bytes)
