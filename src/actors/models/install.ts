/**
 * Brings one model's files into the cache and records them: order of checks, disk space, staging, manifest, promotion. Part of
 * ModelCache, which owns it.
 *
 * Invariants: one install of a model at a time across processes; nothing is promoted before every file is there, hashed and
 * durable; what was there before stays until then.
 */

import fs from "node:fs"
import { Clock, Effect, Redacted, Result } from "effect"
import { CredentialNotFound, ModelInstallFailed, ModelNotFound } from "../../domain/errors/model.ts"
import { DiskFull } from "../../domain/errors/store.ts"
import { fileFilter } from "../../domain/glob.ts"
import { type ModelEntry, ModelEvent, ModelManifest, type ModelName, parseModelName } from "../../domain/model/model.ts"
import { drop, type InUse, type OnStep, promote, settle, stage } from "../../models/installDirectory.ts"
import { readManifest, sortFiles, writeManifest, wrongSize } from "../../models/manifest.ts"
import type { ModelSource, ResolvedModel, SourceError, Wanted } from "../../models/source.ts"
import { Database, type DatabaseError } from "../../store/database/Database.ts"
import { findModel, recordInstall, usersOfInstall } from "../../store/database/models.ts"
import { attemptFile, ensureDirectory } from "../../store/files/files.ts"
import { fileLock, tryFileLock } from "../../store/files/lock.ts"
import { type ModelCachePaths, Paths } from "../../store/files/Paths.ts"

/** Where models and secrets come from; the doors' layer binds these. */
export interface ModelSources {
  /** Checks a source without asking it for anything. */
  readonly open: (wanted: Wanted) => Effect.Effect<ModelSource, SourceError>
  /** The secret that an alias names; undefined when there is none. */
  readonly secret: (alias: string) => Effect.Effect<Redacted.Redacted<string> | undefined>
  /** Hears of each step that a crash could come after; for tests. */
  readonly onStep?: OnStep
}

export interface PullRequest {
  readonly name: string
  readonly fixtureDir?: string
  readonly sourceDir?: string
  readonly credentialAlias?: string
}

type Emit = (event: ModelEvent) => void

/** Shortest time between two progress events, in milliseconds. */
const progressEveryMs = 100
/** Room that must be free beyond the bytes of the files: one part in this many. */
const spareParts = 20

/** The environment variable that holds an alias's secret. */
export const credentialVariable = (alias: string): string =>
  `BUNKER_HF_TOKEN_${alias.toUpperCase().replace(/[^A-Z0-9]/g, "_")}`

export const makeModelInstaller = Effect.fnUntraced(function* (sources: ModelSources) {
  const db = yield* Database
  const paths = yield* Paths
  const onStep: OnStep = sources.onStep ?? (() => undefined)

  const inUse: InUse<DatabaseError> = (installId) =>
    Effect.map(usersOfInstall(db, installId), (users) => users.length > 0)

  /** Moves of a model's files: shut out only whoever is about to open them. */
  const inPlace = <A, E, R>(name: ModelName, effect: Effect.Effect<A, E, R>) =>
    Effect.scoped(Effect.andThen(fileLock(paths.modelPlaceLock(name)), effect))

  const secretOf = Effect.fnUntraced(function* (alias: string | null | undefined) {
    if (alias === null || alias === undefined) return undefined
    const secret = yield* sources.secret(alias)
    if (secret !== undefined && Redacted.value(secret) !== "") return secret
    return yield* new CredentialNotFound({ alias, variable: credentialVariable(alias) })
  })

  const pull = Effect.fn("ModelCache.pull")(function* (request: PullRequest, emit: Emit) {
    const askedAt = yield* Clock.currentTimeMillis
    const name = yield* parseModelName(request.name)
    const entry = yield* findModel(db, name)
    if (entry === undefined) return yield* new ModelNotFound({ model: name })
    const token = yield* secretOf(request.credentialAlias ?? entry.credentialAlias)
    const directory = request.fixtureDir ?? request.sourceDir
    const wanted: Wanted = {
      name,
      source: directory === undefined ? entry.source : `dir:${directory}`,
      revision: entry.revision,
      token,
      takes: fileFilter(entry.allowPatterns ?? undefined, entry.ignorePatterns ?? undefined)
    }
    const source = yield* sources.open(wanted)
    const done = yield* Effect.scoped(
      Effect.gen(function* () {
        const waited = !(yield* tryFileLock(paths.modelLock(name)))
        if (waited) yield* fileLock(paths.modelLock(name))
        // Whoever had the lock may have changed or removed it.
        const now = yield* findModel(db, name)
        if (now === undefined) return yield* new ModelNotFound({ model: name })
        yield* inPlace(name, settle(paths.models, name, inUse))
        const usable = usableInstall(paths.models, now, wanted.source)
        if (waited && usable !== undefined && usable.installedAtUnixMs >= askedAt) return asDone(now, usable)
        return yield* install(now, wanted, source, usable, emit)
      })
    )
    emit(done)
  })

  const install = Effect.fn("ModelCache.install")(function* (
    entry: ModelEntry,
    wanted: Wanted,
    source: ModelSource,
    usable: ModelManifest | undefined,
    emit: Emit
  ) {
    const { name } = entry
    const failed = (reason: string) => Effect.fail(new ModelInstallFailed({ model: name, reason }))
    const resolved = yield* source.resolve.pipe(Effect.catchTag("FetchFailed", ({ reason }) => failed(reason)))
    const { resolvedRevision, totalSizeBytes } = resolved
    emit(
      ModelEvent.cases.Resolved.make({
        name,
        source: wanted.source,
        resolvedRevision,
        files: resolved.files,
        totalSizeBytes
      })
    )
    if (usable !== undefined && resolved.immutable && usable.resolvedRevision === resolvedRevision) {
      return asDone(entry, usable)
    }
    yield* checkSpace(paths.models, totalSizeBytes)
    const staged = yield* stage(paths.models, name)
    onStep("staged")
    const files = yield* resolved.fetch(staged.payload, progress(resolved, emit)).pipe(
      Effect.catchTag("FetchFailed", ({ reason }) => failed(reason)),
      Effect.catchTag("DiskFull", () =>
        Effect.fail(new DiskFull({ path: paths.models.root, neededBytes: totalSizeBytes }))
      )
    )
    onStep("fetched")
    const installedAtUnixMs = yield* Clock.currentTimeMillis
    const manifest = new ModelManifest({
      name,
      source: wanted.source,
      revision: wanted.revision,
      resolvedRevision,
      task: entry.task,
      engine: entry.engine,
      dimensions: entry.dimensions,
      installedAtUnixMs,
      totalSizeBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
      files: sortFiles(files)
    })
    yield* writeManifest(staged.directory, manifest)
    onStep("manifest written")
    yield* inPlace(name, promote(paths.models, name, staged, inUse, onStep))
    yield* record(name, manifest)
    onStep("recorded")
    yield* forgetOldRoot(entry)
    return asDone({ ...entry, cacheDir: paths.models.model(name).directory }, manifest)
  })

  const record = (name: ModelName, manifest: ModelManifest) =>
    recordInstall(
      db,
      name,
      {
        cacheDir: paths.models.model(name).directory,
        installedAtMs: manifest.installedAtUnixMs,
        sizeBytes: manifest.totalSizeBytes,
        resolvedRevision: manifest.resolvedRevision
      },
      manifest.installedAtUnixMs
    )

  /** An install below another cache root than today's has no record any more. */
  const forgetOldRoot = Effect.fnUntraced(function* (entry: ModelEntry) {
    const before = cacheOf(entry)
    if (before.root === paths.models.root) return
    yield* inPlace(entry.name, drop(before, entry.name, inUse, onStep))
  })

  /** The cache that holds a model: the recorded one, which need not be today's. */
  const cacheOf = (entry: Pick<ModelEntry, "name" | "cacheDir">): ModelCachePaths => {
    if (entry.cacheDir === null) return paths.models
    const recorded = paths.modelCacheHolding(entry.cacheDir)
    return recorded.model(entry.name).directory === entry.cacheDir ? recorded : paths.models
  }

  return { pull, cacheOf, inUse, inPlace, onStep }
})

/** The install that is in place, when it is of this source and its files are there. */
const usableInstall = (cache: ModelCachePaths, entry: ModelEntry, source: string): ModelManifest | undefined => {
  if (entry.status !== "installed") return undefined
  const { directory } = cache.model(entry.name)
  const read = readManifest(directory)
  if (Result.isFailure(read) || read.success.source !== source) return undefined
  return wrongSize(directory, read.success) === undefined ? read.success : undefined
}

const asDone = (entry: Pick<ModelEntry, "name" | "cacheDir">, manifest: ModelManifest): ModelEvent =>
  ModelEvent.cases.Done.make({
    ok: true,
    name: entry.name,
    status: "installed",
    cacheDir: entry.cacheDir ?? "",
    manifest
  })

/** Fails before the first byte when what is needed, and a little more, is not free. */
const checkSpace = Effect.fnUntraced(function* (cache: ModelCachePaths, neededBytes: number) {
  yield* ensureDirectory(cache.root)
  const free = yield* attemptFile("look at free space of", cache.root, () => {
    const { bavail, bsize } = fs.statfsSync(cache.root)
    return bavail * bsize
  })
  if (free < neededBytes + Math.ceil(neededBytes / spareParts)) {
    return yield* new DiskFull({ path: cache.root, neededBytes })
  }
})

/** Adds progress up and tells of it now and then. */
const progress = (resolved: ResolvedModel, emit: Emit) => {
  let [files, bytes, last] = [0, 0, 0]
  return (moreFiles: number, moreBytes: number): void => {
    files += moreFiles
    bytes += moreBytes
    const now = performance.now()
    if (now - last < progressEveryMs && files !== resolved.files) return
    last = now
    emit(ModelEvent.cases.Progress.make({ files, bytes, totalSizeBytes: resolved.totalSizeBytes }))
  }
}
