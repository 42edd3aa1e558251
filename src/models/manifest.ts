/**
 * Reads and writes an install's `manifest.json`, and compares the files on disk with it. Promotes and removes nothing.
 *
 * Invariant: a path that comes out of here is relative, `/`-separated and without `..`, whoever wrote the manifest.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect, Result } from "effect"
import { type ModelFile, ModelManifest } from "../domain/model/model.ts"
import { toWire } from "../domain/wire.ts"
import { type FileError, writeAtomic } from "../store/files/files.ts"
import { type FileJobFailed, processFiles } from "../store/files/fileWorkers.ts"
import { installPaths } from "../store/files/Paths.ts"

/** Most bytes of a manifest: room for `filesMax` files with long names. */
const manifestBytesMax = 256 * 1024 * 1024
/** Most files of a model. */
export const filesMax = 1_000_000

/** True for a path that may stand below a payload directory. */
export const isSafePath = (text: string): boolean =>
  text.length > 0 &&
  text.length <= 4096 &&
  !text.includes("\0") &&
  !text.includes("\\") &&
  !/(^|\/)(\.{0,2})(\/|$)/.test(text)

/** True for a path that a pull leaves: some part of it begins with a dot. */
export const isHidden = (text: string): boolean => text.startsWith(".") || text.includes("/.")

export const sortFiles = (files: ReadonlyArray<ModelFile>): ReadonlyArray<ModelFile> =>
  files.toSorted((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))

/** Temporary name, fsync, rename, fsync of the directory. */
export const writeManifest = (directory: string, manifest: ModelManifest): Effect.Effect<void, FileError> =>
  writeAtomic(installPaths(directory).manifest, `${JSON.stringify(toWire(ModelManifest, manifest), null, 2)}\n`)

type Json = Readonly<Record<string, unknown>>

const isText = (value: unknown): value is string => typeof value === "string"
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** The first field that breaks the schema, in the names of the file. By hand: 20,000 files must be looked at in milliseconds. */
const wrongField = (json: Json): string | undefined => {
  for (const name of ["name", "source", "revision", "task", "engine"]) if (!isText(json[name])) return name
  if (json["resolved_revision"] !== null && !isText(json["resolved_revision"])) return "resolved_revision"
  if (json["dimensions"] !== null && !isCount(json["dimensions"])) return "dimensions"
  for (const name of ["installed_at_unix_ms", "total_size_bytes"]) if (!isCount(json[name])) return name
  const { files } = json
  if (!Array.isArray(files) || files.length === 0 || files.length > filesMax) return "files"
  let before = ""
  for (let index = 0; index < files.length; index++) {
    const file = files[index] as Json | null
    if (typeof file !== "object" || file === null) return `files[${index}]`
    const { path: name, sha256, size_bytes: size } = file
    if (!isText(name) || !isSafePath(name) || name <= before) return `files[${index}].path`
    if (!isText(sha256) || !/^[0-9a-f]{64}$/.test(sha256)) return `files[${index}].sha256`
    if (!isCount(size)) return `files[${index}].size_bytes`
    before = name
  }
  return undefined
}

/** Reads a manifest; the failure is what is wrong with it, in words. */
export const readManifest = (directory: string): Result.Result<ModelManifest, string> => {
  const file = installPaths(directory).manifest
  let text: string
  try {
    const { size } = fs.statSync(file)
    if (size > manifestBytesMax) return Result.fail(`manifest.json has more than ${manifestBytesMax} bytes`)
    text = fs.readFileSync(file, "utf8")
  } catch (cause) {
    return Result.fail(`manifest.json can not be read: ${(cause as NodeJS.ErrnoException).code ?? String(cause)}`)
  }
  let json: Json
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) throw new Error()
    json = parsed as Json
  } catch {
    return Result.fail("manifest.json is not a JSON object")
  }
  const wrong = wrongField(json)
  if (wrong !== undefined) return Result.fail(`manifest.json is not valid: ${wrong}`)
  const files = (json["files"] as ReadonlyArray<Json>).map(
    (each) => ({ path: each["path"], sha256: each["sha256"], sizeBytes: each["size_bytes"] }) as ModelFile
  )
  return Result.succeed(
    new ModelManifest(
      {
        name: json["name"] as string,
        source: json["source"] as string,
        revision: json["revision"] as string,
        resolvedRevision: json["resolved_revision"] as string | null,
        task: json["task"] as string,
        engine: json["engine"] as string,
        dimensions: json["dimensions"] as number | null,
        installedAtUnixMs: json["installed_at_unix_ms"] as number,
        totalSizeBytes: json["total_size_bytes"] as number,
        files
      },
      // Looked at above, field by field.
      { disableChecks: true }
    )
  )
}

/** The first file of a manifest that is missing or has another length, in words; undefined when all fit. */
export const wrongSize = (
  directory: string,
  manifest: ModelManifest,
  { lengths }: Pick<Survey, "lengths"> = survey(directory)
): string | undefined => {
  for (const { path: name, sizeBytes } of manifest.files) {
    const found = lengths.get(name)
    if (found === undefined) return `file "${name}" is missing`
    if (found !== sizeBytes) return `file "${name}" has ${found} bytes, expected ${sizeBytes}`
  }
  return undefined
}

/** The first file whose content is another, in words; undefined when all fit. Reads every byte. */
export const wrongHash = Effect.fn("Models.verify")(function* (directory: string, manifest: ModelManifest) {
  const { payload } = installPaths(directory)
  const jobs = manifest.files.map((file) => ({
    source: path.join(payload, file.path),
    target: undefined,
    sizeBytes: file.sizeBytes
  }))
  return yield* processFiles(jobs).pipe(
    Effect.map((hashes) => {
      const at = hashes.findIndex((hash, index) => hash !== manifest.files[index]!.sha256)
      if (at < 0) return undefined
      const { path: name, sha256 } = manifest.files[at]!
      return `file "${name}" has the sha256 ${hashes[at]}, expected ${sha256}`
    }),
    Effect.catchTag("FileJobFailed", (failed: FileJobFailed) =>
      Effect.succeed(`file "${path.relative(payload, failed.path)}" can not be read: ${failed.reason}`)
    )
  )
})

/** What is on the disk of an install. */
interface Survey {
  /** Lengths of the regular files of the payload, by path. */
  readonly lengths: ReadonlyMap<string, number>
  /** Bytes of all files, ours and strangers', as their lengths say. */
  readonly footprintBytes: number
}

/** Looks at every file once: 20,000 of them are to be looked at in milliseconds. */
export const survey = (directory: string): Survey => {
  const lengths = new Map<string, number>()
  let footprintBytes = 0
  const payload = `${installPaths(directory).payload}/`
  const waiting = [directory]
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    let entries: ReadonlyArray<fs.Dirent>
    try {
      entries = fs.readdirSync(next, { withFileTypes: true })
    } catch {
      continue
    }
    for (const entry of entries) {
      const inside = `${next}/${entry.name}`
      if (entry.isDirectory()) {
        waiting.push(inside)
        continue
      }
      const size = fs.lstatSync(inside, { throwIfNoEntry: false })?.size ?? 0
      footprintBytes += size
      if (entry.isFile() && inside.startsWith(payload)) lengths.set(inside.slice(payload.length), size)
    }
  }
  return { lengths, footprintBytes }
}
