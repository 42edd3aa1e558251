/**
 * Puts models right after crashes: files that an install or a drop left half-way, and records that do not say what the files are.
 * Part of ModelCache and Sweeper. Leaves alone every model that somebody is busy with.
 */
import { Clock, Effect, Result } from "effect"
import type { ModelEntry } from "../../domain/model/model.ts"
import { settle, unsettled } from "../../models/installDirectory.ts"
import { readManifest } from "../../models/manifest.ts"
import type { Service as Database } from "../../store/database/Database.ts"
import {
  listModels,
  recordDrop,
  recordedCacheDirs,
  recordInstall,
  usersOfInstall
} from "../../store/database/models.ts"
import { tryFileLock } from "../../store/files/lock.ts"
import type { ModelCachePaths, Paths } from "../../store/files/Paths.ts"

/** Files first, then records that do not fit them. */
export const sweepModels = Effect.fn("ModelCache.sweep")(function* (db: Database, paths: Paths["Service"]) {
  yield* settleModels(db, paths)
  for (const entry of yield* listModels(db)) yield* Effect.scoped(setRight(db, paths, entry))
})

/** Settles every cache that is used or recorded. Costs next to nothing where nothing was left. */
export const settleModels = Effect.fn("ModelCache.settle")(function* (db: Database, paths: Paths["Service"]) {
  const inUse = (installId: string) => Effect.map(usersOfInstall(db, installId), (users) => users.length > 0)
  const recorded = (yield* recordedCacheDirs(db)).map(paths.modelCacheHolding)
  const caches = new Map([paths.models, ...recorded].map((cache) => [cache.root as string, cache]))
  for (const cache of caches.values()) {
    for (const name of unsettled(cache)) {
      const work = Effect.gen(function* () {
        if (!(yield* tryFileLock(paths.modelLock(name))) || !(yield* tryFileLock(paths.modelPlaceLock(name)))) return
        yield* settle(cache, name, inUse)
      })
      yield* Effect.scoped(work)
    }
  }
})

/** Makes the record say what the files are, as after a crash between the two. */
const setRight = Effect.fnUntraced(function* (db: Database, paths: Paths["Service"], entry: ModelEntry) {
  const cache = paths.models
  if (!isOff(cache, entry) || !(yield* tryFileLock(paths.modelLock(entry.name)))) return
  const { directory } = cache.model(entry.name)
  const read = readManifest(directory)
  if (Result.isSuccess(read)) {
    const { installedAtUnixMs, totalSizeBytes, resolvedRevision } = read.success
    const installed = {
      cacheDir: directory,
      installedAtMs: installedAtUnixMs,
      sizeBytes: totalSizeBytes,
      resolvedRevision
    }
    yield* recordInstall(db, entry.name, installed, installedAtUnixMs)
  } else if (entry.cacheDir === directory) yield* recordDrop(db, entry.name, yield* Clock.currentTimeMillis)
})

/** True when an install is newer than the entry knows, or one that it knows is gone. */
const isOff = (cache: ModelCachePaths, entry: ModelEntry): boolean => {
  const { directory } = cache.model(entry.name)
  const read = readManifest(directory)
  if (Result.isFailure(read)) return entry.cacheDir === directory && read.failure.endsWith("ENOENT")
  return (
    read.success.installedAtUnixMs > (entry.installedAtUnixMs ?? 0) &&
    read.success.installedAtUnixMs >= entry.updatedAtUnixMs
  )
}
