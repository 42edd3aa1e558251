/**
 * Takes a model from a directory of this machine: regular files, and links to regular files inside the directory. Hidden files
 * are left. Never hard-links: whoever edits the source later must not change the cache.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { ModelDirectoryInvalid } from "../domain/errors/model.ts"
import { DiskFull } from "../domain/errors/store.ts"
import type { ModelFile } from "../domain/model/model.ts"
import { type FileJobFailed, processFiles } from "../store/files/fileWorkers.ts"
import { closing, entryPath, openPlace, pathBelow } from "../store/files/openBelow.ts"
import { filesMax, isSafePath } from "./manifest.ts"
import { FetchFailed, type ModelSource, type ResolvedModel, type Wanted } from "./source.ts"

interface Found {
  /** Relative to the source. */
  readonly path: string
  /** Where the bytes are, relative to the source and without links: the file itself or what a link leads to. */
  readonly file: string
  readonly sizeBytes: number
}

/** Directories that are open at a time, from the source down. */
const depthMax = 128

class Untakable extends Error {}

/** Every file to take of an open directory. Throws `Untakable` for an entry that can not be taken. */
const walk = (root: number, takes: (path: string) => boolean): ReadonlyArray<Found> => {
  const found: Array<Found> = []
  const take = (name: string, place: number, linked: boolean) => {
    const file = pathBelow(root, place)
    if (file === undefined) throw new Untakable(`"${name}" is a link that leaves the directory`)
    const stat = fs.fstatSync(place)
    if (!stat.isFile()) throw new Untakable(`"${name}" is a link to something else than a regular file`)
    if (found.length === filesMax) throw new Untakable(`it has more than ${filesMax} files`)
    found.push({ path: name, file: linked ? file : name, sizeBytes: stat.size })
  }
  const follow = (name: string, entry: Buffer) => {
    let place: number
    try {
      place = openPlace(entry, true)
    } catch {
      throw new Untakable(`"${name}" is a link that leads nowhere`)
    }
    closing(place, (fd) => take(name, fd, true))
  }
  const look = (directory: number, prefix: string, depth: number) => {
    if (depth > depthMax) throw new Untakable(`"${prefix}" is deeper than ${depthMax} directories`)
    for (const entry of fs.readdirSync(`/proc/self/fd/${directory}`, { withFileTypes: true })) {
      if (entry.name.startsWith(".")) continue
      const name = `${prefix}${entry.name}`
      if (!entry.isDirectory() && (!(entry.isFile() || entry.isSymbolicLink()) || !takes(name))) continue
      if (!entry.isDirectory() && !isSafePath(name)) throw new Untakable(`"${name}" has a name that can not be stored`)
      const place = entryPath(directory, entry.name)
      closing(openPlace(place, false), (fd) => {
        const stat = fs.fstatSync(fd)
        if (stat.isDirectory()) look(fd, `${name}/`, depth + 1)
        else if (stat.isSymbolicLink()) follow(name, place)
        else if (stat.isFile()) take(name, fd, false)
      })
    }
  }
  look(root, "", 0)
  return found
}

/** Words for a file that could not be copied. */
const explainFailure = ({ path: file, code, reason }: FileJobFailed): FetchFailed | DiskFull =>
  code === "ENOSPC" || code === "EDQUOT"
    ? new DiskFull({ path: file })
    : new FetchFailed({
        reason: `"${file}" can not be copied: ${code === "CHANGED" ? `${reason}; it was changed meanwhile` : code || reason}`
      })

/** The source, by its path and by what it was when it was first opened. */
interface Root {
  readonly directory: string
  readonly identity: string
}

const openDirectory = (directory: string): { readonly fd: number; readonly identity: string } => {
  const fd = openPlace(directory, true)
  const stat = fs.fstatSync(fd, { bigint: true })
  if (stat.isDirectory()) return { fd, identity: `${stat.dev}:${stat.ino}` }
  fs.closeSync(fd)
  throw Object.assign(new Error("it is no directory"), { code: "ENOTDIR" })
}

/** Runs `use` with the source open; another directory in its place is refused. */
const withRoot = <A, E>({ directory, identity }: Root, use: (fd: number) => Effect.Effect<A, E>) =>
  Effect.acquireUseRelease(
    Effect.try({
      try: () => {
        const opened = openDirectory(directory)
        if (opened.identity === identity) return opened.fd
        fs.closeSync(opened.fd)
        throw new Error("another directory has taken its place")
      },
      catch: (cause) => new FetchFailed({ reason: `${directory} can not be read: ${(cause as Error).message}` })
    }),
    use,
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )

/** A directory that is there. */
export const directorySource = Effect.fn("Models.directory")(function* (
  directory: string,
  wanted: Pick<Wanted, "revision" | "takes">
): Effect.fn.Return<ModelSource, ModelDirectoryInvalid> {
  const invalid = (reason: string) => new ModelDirectoryInvalid({ directory, reason })
  if (!path.isAbsolute(directory)) return yield* invalid("its path is not absolute")
  const root: Root = yield* Effect.try({
    try: () => {
      const { fd, identity } = openDirectory(directory)
      fs.closeSync(fd)
      return { directory, identity }
    },
    catch: (cause) => {
      const { code } = cause as NodeJS.ErrnoException
      if (code === "ENOENT") return invalid("there is no such directory")
      return invalid(code === "ENOTDIR" ? "it is no directory" : String(code))
    }
  })
  const resolve = Effect.gen(function* () {
    const files = yield* withRoot(root, (fd) =>
      Effect.try({
        try: () => walk(fd, wanted.takes),
        catch: (cause) => {
          const { message } = cause as Error
          const reason =
            cause instanceof Untakable ? `of ${directory}, ${message}` : `${directory} can not be read: ${message}`
          return new FetchFailed({ reason })
        }
      })
    )
    if (files.length === 0) return yield* new FetchFailed({ reason: `${directory} contains no files to install` })
    return {
      resolvedRevision: wanted.revision,
      immutable: false,
      files: files.length,
      totalSizeBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
      fetch: (payload, report) => copyAll(root, files, payload, report)
    } satisfies ResolvedModel as ResolvedModel
  })
  return { resolve }
})

const copyAll = Effect.fn("Models.copy")(function* (
  root: Root,
  files: ReadonlyArray<Found>,
  payload: string,
  report: (files: number, bytes: number) => void
) {
  yield* makeDirectories(
    payload,
    files.map((file) => file.path)
  )
  const hashes = yield* withRoot(root, (below) => {
    const jobs = files.map((file) => ({
      source: file.file,
      below,
      target: `${payload}/${file.path}`,
      sizeBytes: file.sizeBytes
    }))
    return processFiles(jobs, report).pipe(Effect.mapError(explainFailure))
  })
  return files.map((file, index): ModelFile => ({ path: file.path, sha256: hashes[index]!, sizeBytes: file.sizeBytes }))
})

/** Makes the directories of relative paths below a payload. The guest may read them: mode 0755. */
export const makeDirectories = (
  payload: string,
  paths: ReadonlyArray<string>
): Effect.Effect<void, FetchFailed | DiskFull> =>
  Effect.try({
    try: () => {
      for (const directory of new Set(paths.map((each) => path.posix.dirname(each)))) {
        fs.mkdirSync(path.join(payload, directory), { recursive: true, mode: 0o755 })
      }
    },
    catch: (cause) => {
      const { code = "" } = cause as NodeJS.ErrnoException
      if (code === "ENOSPC" || code === "EDQUOT") return new DiskFull({ path: payload })
      return new FetchFailed({ reason: `its directories can not be made: ${code}` })
    }
  })
