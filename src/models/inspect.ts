/**
 * Says what is in the cache of one model: nothing, a whole install, or one that something is wrong with. Changes nothing.
 *
 * Invariant: what it says is of one install, the old or the new, also while another one is being put in place.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect, Result } from "effect"
import { ModelCacheReport, type ModelName } from "../domain/model/model.ts"
import { isLocked } from "../store/files/lock.ts"
import type { ModelCachePaths } from "../store/files/Paths.ts"
import { entriesOf, parseEntry } from "./installDirectory.ts"
import { readManifest, survey, wrongHash, wrongSize } from "./manifest.ts"

/** Which install stands in a model's place: its directory's inode. */
const inodeOf = (directory: string): number | undefined => fs.statSync(directory, { throwIfNoEntry: false })?.ino

const isReplaced = (cache: ModelCachePaths, name: ModelName): boolean =>
  entriesOf(cache.purge).some((entry) => {
    const parsed = parseEntry(entry)
    return parsed?.name === name && !parsed.dropped
  })

/** How often an install that changes under our eyes is looked at again, and how long is waited for one to appear. */
const looksMax = 10
const waitsMax = 250

export const inspectModel = Effect.fn("Models.inspect")(function* (
  cache: ModelCachePaths,
  name: ModelName,
  placeLock: string,
  full: boolean
): Effect.fn.Return<ModelCacheReport> {
  const { directory } = cache.model(name)
  const report = { ok: true, name, cacheDir: directory } as const
  let looks = 0
  for (let waits = 0; ; ) {
    const before = inodeOf(directory)
    // Between the two renames of a promotion there is nothing for an instant.
    if (before === undefined && isReplaced(cache, name) && isLocked(placeLock) && waits < waitsMax) {
      waits += 1
      yield* Effect.sleep("20 millis")
      continue
    }
    if (before === undefined) return new ModelCacheReport({ ...report, status: "missing", footprintBytes: 0 })
    const found = yield* examine(directory, full)
    looks += 1
    if (inodeOf(directory) !== before && looks < looksMax) continue
    return new ModelCacheReport({ ...report, ...found }, { disableChecks: true })
  }
})

const examine = Effect.fnUntraced(function* (directory: string, full: boolean) {
  const found = survey(directory)
  const { footprintBytes } = found
  const read = readManifest(directory)
  if (Result.isFailure(read)) return { status: "unhealthy", detail: read.failure, footprintBytes } as const
  const manifest = read.success
  if (manifest.name !== path.basename(directory)) {
    const detail = `manifest.json is of a model "${manifest.name}"`
    return { status: "unhealthy", detail, footprintBytes } as const
  }
  const detail = wrongSize(directory, manifest, found) ?? (full ? yield* wrongHash(directory, manifest) : undefined)
  if (detail !== undefined) return { status: "unhealthy", manifest, detail, footprintBytes } as const
  return { status: "installed", manifest, footprintBytes } as const
})
