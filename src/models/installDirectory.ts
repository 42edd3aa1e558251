/**
 * Puts an install in place of another one, takes one away, and clears up after crashes. Every function wants the model's lock to
 * be held by its caller. Fetches nothing and writes no records.
 *
 * Invariants: `<root>/<name>` is a whole install or not there; an install moves, it is never written to; one in `.purge` comes
 * back only while nothing stands in its place and nobody dropped it; one that a live sandbox mounts is not deleted.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect, Result } from "effect"
import type { ModelName } from "../domain/model/model.ts"
import { attemptFile, ensureDirectory, type FileError, fileError, removeBelow } from "../store/files/files.ts"
import { syncFileSystem } from "../store/files/fileWorkers.ts"
import { installPaths, type ModelCachePaths } from "../store/files/Paths.ts"
import { readManifest } from "./manifest.ts"

/** True while a live sandbox mounts the install. */
export type InUse<E> = (installId: string) => Effect.Effect<boolean, E>

/** Hears of each step that a crash could come after; for tests. */
export type OnStep = (step: string) => void

/** An install that is being put together. */
export interface Staged {
  readonly installId: string
  readonly directory: string
  readonly payload: string
}

const entryPattern = /^([A-Za-z_][A-Za-z0-9_-]{0,127})-([0-9a-f]{16})(\.dropped)?$/

/** Whose install an entry of `.staging` or `.purge` is; undefined for what is none of ours. */
export const parseEntry = (entry: string) => {
  const match = entryPattern.exec(entry)
  if (match === null) return undefined
  return { name: match[1] as ModelName, installId: match[2]!, dropped: match[3] !== undefined }
}

/** Names in a directory, none when it is missing. */
export const entriesOf = (directory: string): ReadonlyArray<string> => {
  try {
    return fs.readdirSync(directory)
  } catch {
    return []
  }
}

const exists = (file: string): boolean => fs.lstatSync(file, { throwIfNoEntry: false }) !== undefined

const syncDirectory = (directory: string): void => {
  const fd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
  try {
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

/** Renames and makes both directories' entries durable. */
const move = (from: string, to: string): Effect.Effect<void, FileError> =>
  attemptFile("move", from, () => {
    fs.renameSync(from, to)
    syncDirectory(path.dirname(to))
    if (path.dirname(from) !== path.dirname(to)) syncDirectory(path.dirname(from))
  })

/** The id of an install, by which mounts name it; undefined when its file is gone. */
export const installIdOf = (directory: string): string | undefined => {
  try {
    const text = fs.readFileSync(installPaths(directory).installId, "utf8").trim()
    return /^[0-9a-f]{16}$/.test(text) ? text : undefined
  } catch {
    return undefined
  }
}

const newInstallId = (): string => crypto.randomUUID().replaceAll("-", "").slice(0, 16)

/** Begins an install. Whatever of it is not promoted goes with the scope. */
export const stage = Effect.fnUntraced(function* (cache: ModelCachePaths, name: ModelName) {
  yield* Effect.forEach([cache.root, cache.staging, cache.purge], ensureDirectory, { discard: true })
  const installId = newInstallId()
  const directory = cache.model(name).staged(installId)
  yield* Effect.addFinalizer(() => Effect.ignore(removeBelow(cache.staging, directory)))
  const parts = installPaths(directory)
  yield* attemptFile("create", directory, () => {
    fs.mkdirSync(directory, { mode: 0o700 })
    fs.mkdirSync(parts.payload, { mode: 0o755 })
    fs.writeFileSync(parts.installId, `${installId}\n`, { mode: 0o600, flag: "wx" })
  })
  return { installId, directory, payload: parts.payload } satisfies Staged as Staged
})

/**
 * Makes a whole staged install the model's: durable first, then the old one aside, the new one in, the old one gone unless it is
 * mounted. A failure puts the old one back.
 */
export const promote = Effect.fn("Models.promote")(
  function* <E>(cache: ModelCachePaths, name: ModelName, staged: Staged, inUse: InUse<E>, onStep: OnStep) {
    const own = cache.model(name)
    yield* syncFileSystem(staged.directory).pipe(
      Effect.mapError((failed) => fileError("sync", staged.directory, failed))
    )
    onStep("synced")
    if (!exists(own.directory)) {
      yield* move(staged.directory, own.directory)
      onStep("new in place")
      return
    }
    const oldId = installIdOf(own.directory) ?? newInstallId()
    const aside = own.replaced(oldId)
    yield* move(own.directory, aside)
    onStep("old aside")
    yield* move(staged.directory, own.directory).pipe(Effect.onError(() => Effect.ignore(move(aside, own.directory))))
    onStep("new in place")
    yield* move(aside, own.dropped(oldId))
    onStep("old dropped")
    yield* deleteUnused(cache, name, oldId, inUse)
    onStep("old gone")
  },
  // Between the two renames nobody may leave.
  Effect.uninterruptible
)

/** Takes the model's install away; what is mounted goes at a later sweep. Answers false when there was none. */
export const drop = Effect.fn("Models.drop")(function* <E>(
  cache: ModelCachePaths,
  name: ModelName,
  inUse: InUse<E>,
  onStep: OnStep
) {
  yield* settle(cache, name, inUse)
  const own = cache.model(name)
  if (!exists(own.directory)) return false
  yield* ensureDirectory(cache.purge)
  const installId = installIdOf(own.directory) ?? newInstallId()
  yield* move(own.directory, own.dropped(installId))
  onStep("moved")
  yield* deleteUnused(cache, name, installId, inUse)
  onStep("gone")
  return true
}, Effect.uninterruptible)

const deleteUnused = Effect.fnUntraced(function* <E>(
  cache: ModelCachePaths,
  name: ModelName,
  installId: string,
  inUse: InUse<E>
) {
  if (yield* inUse(installId)) return
  const directory = cache.model(name).dropped(installId)
  if (!(yield* removeBelow(cache.purge, directory))) yield* Effect.logWarning(`${directory} could not be removed`)
})

/**
 * Puts right what a crash left of one model: unfinished installs go; a replaced one comes back when nothing took its place, else it
 * goes too, as dropped ones do, unless they are mounted.
 */
export const settle = Effect.fn("Models.settle")(function* <E>(
  cache: ModelCachePaths,
  name: ModelName,
  inUse: InUse<E>
) {
  const own = cache.model(name)
  for (const entry of entriesOf(cache.staging)) {
    if (parseEntry(entry)?.name === name) yield* removeBelow(cache.staging, path.join(cache.staging, entry))
  }
  for (const entry of entriesOf(cache.purge)) {
    const parsed = parseEntry(entry)
    if (parsed?.name !== name) continue
    const { installId, dropped } = parsed
    if (!dropped) {
      const aside = own.replaced(installId)
      if (!exists(own.directory) && Result.isSuccess(readManifest(aside))) {
        yield* move(aside, own.directory)
        continue
      }
      yield* move(aside, own.dropped(installId))
    }
    yield* deleteUnused(cache, name, installId, inUse)
  }
}, Effect.uninterruptible)

/** Models that left something in `.staging` or `.purge` of a cache. */
export const unsettled = (cache: ModelCachePaths): ReadonlySet<ModelName> =>
  new Set(
    [...entriesOf(cache.staging), ...entriesOf(cache.purge)].flatMap((entry) => {
      const parsed = parseEntry(entry)
      return parsed === undefined ? [] : [parsed.name]
    })
  )
