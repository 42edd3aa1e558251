/**
 * Writes, publishes and removes files so that a crash leaves the old or the new, never a part.
 * Order is always: write to a temporary name, check, fsync, rename, fsync the directory. Joins no paths of the home (see Paths).
 */

import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { DiskFull, HomeUnusable, StoreFailed } from "../domain/errors/store.ts"

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

/** Makes a directory (and its parents) that only the owner can enter. */
export const ensureDirectory = (directory: string): Effect.Effect<void, FileError> =>
  attemptFile("make directory", directory, () => {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  })

/** Makes the directory entry of a created, renamed or removed file durable. */
export const fsyncDirectory = (directory: string): void => {
  const fd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
  try {
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

const fsyncFile = (file: string): void => {
  const fd = fs.openSync(file, "r+")
  try {
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

let sequence = 0

/** A name in `directory` that no other call of any process uses. */
export const temporaryName = (directory: string, stem: string): string => {
  sequence += 1
  const unique = `${process.pid.toString(36)}-${sequence.toString(36)}-${crypto.randomUUID().slice(0, 8)}`
  return path.join(directory, `${stem}.${unique}.tmp`)
}

/**
 * Ingests a file: `write` fills a temporary file and answers once its content is checked; then it is fsynced, renamed to
 * `destination` and the directory fsynced. Whatever fails or interrupts `write` removes the temporary file.
 */
export const ingest = <A, E, R>(
  temporaryDirectory: string,
  destination: string,
  write: (temporaryFile: string) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | FileError, R> =>
  Effect.suspend(() => {
    const temporary = temporaryName(temporaryDirectory, path.basename(destination))
    return write(temporary).pipe(
      Effect.tap(() =>
        attemptFile("publish", destination, () => {
          fsyncFile(temporary)
          fs.renameSync(temporary, destination)
          fsyncDirectory(path.dirname(destination))
        })
      ),
      Effect.onExit((exit) =>
        exit._tag === "Failure" ? Effect.sync(() => fs.rmSync(temporary, { force: true })) : Effect.void
      )
    )
  })

/** Replaces a small file whole: temporary file beside it, fsync, rename, fsync of the directory. Default mode 0600. */
export const writeAtomic = (file: string, content: string | Uint8Array, mode = 0o600): Effect.Effect<void, FileError> =>
  ingest(path.dirname(file), file, (temporary) =>
    attemptFile("write", temporary, () => fs.writeFileSync(temporary, content, { mode, flag: "wx" }))
  )

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
    return Effect.sync(() => {
      try {
        // rmSync unlinks a symbolic link instead of following it, at the top and below.
        fs.rmSync(directory, { recursive: true, force: true })
        return !fs.existsSync(directory)
      } catch {
        return false
      }
    })
  })

/** Bytes that a file or tree occupies on the disk (blocks, not lengths); symbolic links are not followed; 0 when missing. */
export const diskUsage = (file: string): number => {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  let total = stat.blocks * 512
  if (stat.isDirectory()) for (const entry of fs.readdirSync(file)) total += diskUsage(path.join(file, entry))
  return total
}
