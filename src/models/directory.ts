/**
 * Takes a model from a directory of this machine: regular files, and links to regular files inside the directory. Hidden files
 * are left. Never hard-links: whoever edits the source later must not change the cache.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect, Result } from "effect"
import { ModelDirectoryInvalid } from "../domain/errors/model.ts"
import { DiskFull } from "../domain/errors/store.ts"
import type { ModelFile } from "../domain/model.ts"
import { type FileJobFailed, processFiles } from "../store/fileWorkers.ts"
import { filesMax, isSafePath } from "./manifest.ts"
import { FetchFailed, type ModelSource, type ResolvedModel, type Wanted } from "./source.ts"

interface Found {
  /** Relative to the source. */
  readonly path: string
  /** Where the bytes are: the file itself or what a link leads to. */
  readonly file: string
  readonly sizeBytes: number
}

const inside = (root: string, file: string): boolean => file.startsWith(root === "/" ? "/" : `${root}/`)

/** Every file to take. The failure says which entry can not be taken and why. */
const walk = (root: string, takes: (path: string) => boolean): Result.Result<ReadonlyArray<Found>, string> => {
  const found: Array<Found> = []
  const waiting = [""]
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    for (const entry of fs.readdirSync(path.join(root, next), { withFileTypes: true })) {
      if (entry.name.startsWith(".")) continue
      const name = next === "" ? entry.name : `${next}/${entry.name}`
      if (entry.isDirectory()) {
        waiting.push(name)
        continue
      }
      if (!(entry.isFile() || entry.isSymbolicLink()) || !takes(name)) continue
      if (!isSafePath(name)) return Result.fail(`"${name}" has a name that can not be stored`)
      let file = path.join(root, name)
      if (entry.isSymbolicLink()) {
        try {
          file = fs.realpathSync(file)
        } catch {
          return Result.fail(`"${name}" is a link that leads nowhere`)
        }
        if (!inside(root, file)) return Result.fail(`"${name}" is a link that leaves the directory`)
      }
      const stat = fs.lstatSync(file)
      if (!stat.isFile()) return Result.fail(`"${name}" is a link to something else than a regular file`)
      if (found.length === filesMax) return Result.fail(`it has more than ${filesMax} files`)
      found.push({ path: name, file, sizeBytes: stat.size })
    }
  }
  return Result.succeed(found)
}

/** Words for a file that could not be copied. */
const explainFailure = ({ path: file, code, reason }: FileJobFailed): FetchFailed | DiskFull =>
  code === "ENOSPC" || code === "EDQUOT"
    ? new DiskFull({ path: file })
    : new FetchFailed({
        reason: `"${file}" can not be copied: ${code === "CHANGED" ? `${reason}; it was changed meanwhile` : code || reason}`
      })

/** A directory that is there. */
export const directorySource = Effect.fn("Models.directory")(function* (
  directory: string,
  wanted: Pick<Wanted, "revision" | "takes">
): Effect.fn.Return<ModelSource, ModelDirectoryInvalid> {
  const invalid = (reason: string) => new ModelDirectoryInvalid({ directory, reason })
  if (!path.isAbsolute(directory)) return yield* invalid("its path is not absolute")
  const root = yield* Effect.try({
    try: () => {
      const real = fs.realpathSync(directory)
      if (!fs.statSync(real).isDirectory()) throw Object.assign(new Error(), { code: "ENOTDIR" })
      return real
    },
    catch: (cause) => {
      const { code } = cause as NodeJS.ErrnoException
      if (code === "ENOENT") return invalid("there is no such directory")
      return invalid(code === "ENOTDIR" ? "it is no directory" : String(code))
    }
  })
  const resolve = Effect.gen(function* () {
    const walked = yield* Effect.try({
      try: () => walk(root, wanted.takes),
      catch: (cause) => new FetchFailed({ reason: `${directory} can not be read: ${(cause as Error).message}` })
    })
    if (Result.isFailure(walked)) return yield* new FetchFailed({ reason: `of ${directory}, ${walked.failure}` })
    const files = walked.success
    if (files.length === 0) return yield* new FetchFailed({ reason: `${directory} contains no files to install` })
    return {
      resolvedRevision: wanted.revision,
      immutable: false,
      files: files.length,
      totalSizeBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
      fetch: (payload, report) => copyAll(files, payload, report)
    } satisfies ResolvedModel as ResolvedModel
  })
  return { resolve }
})

const copyAll = Effect.fn("Models.copy")(function* (
  files: ReadonlyArray<Found>,
  payload: string,
  report: (files: number, bytes: number) => void
) {
  yield* makeDirectories(
    payload,
    files.map((file) => file.path)
  )
  const jobs = files.map((file) => ({
    source: file.file,
    target: `${payload}/${file.path}`,
    sizeBytes: file.sizeBytes
  }))
  const hashes = yield* processFiles(jobs, report).pipe(Effect.mapError(explainFailure))
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
