/**
 * What ModelCache does with its messages. Fetches through `modelInstall.ts`; runs no model and boots nothing.
 *
 * Invariants: an install is visible only whole; one install, drop or update of a model at a time across processes; what a live
 * sandbox mounts keeps its files; no secret is stored, logged or answered.
 */

import { Clock, Effect } from "effect"
import { Rpc } from "effect/rpc"
import { ModelInUse, ModelNameMismatch, ModelNotFound, ModelNotInstalled } from "../../domain/errors/model.ts"
import {
  ModelDropped,
  type ModelEntry,
  type ModelEvent,
  ModelList,
  type ModelName,
  ModelRemoved,
  type ModelReplacement,
  type ModelSpec,
  parseModelName,
  withDefaults
} from "../../domain/model/model.ts"
import type { SafeName } from "../../domain/name.ts"
import { inspectModel } from "../../models/inspect.ts"
import { drop, settle } from "../../models/installDirectory.ts"
import { Database } from "../../store/database/Database.ts"
import {
  deleteModel,
  findModel,
  insertModel,
  listModels,
  recordDrop,
  replaceModel,
  usersOfModel
} from "../../store/database/models.ts"
import { fileLock, tryFileLock } from "../../store/files/lock.ts"
import { Paths } from "../../store/files/Paths.ts"
import { events } from "../kit/Actor.ts"
import { Sweeper } from "../sandboxes/Sweeper.ts"
import { type ModelSources, makeModelInstaller, type PullRequest } from "./install.ts"
import { ModelProtocol } from "./protocol.ts"
import { settleModels } from "./recovery.ts"

export const modelBehaviour = (sources: ModelSources) =>
  Effect.gen(function* () {
    const db = yield* Database
    const paths = yield* Paths
    const sweeper = yield* Sweeper
    const installer = yield* makeModelInstaller(sources)
    const { cacheOf, inUse, inPlace, onStep } = installer

    // Also at start: what a crash left comes back, or goes.
    yield* Effect.ignore(settleModels(db, paths))

    const get = Effect.fnUntraced(function* (text: string) {
      const name = yield* parseModelName(text)
      const entry = yield* findModel(db, name)
      return entry ?? (yield* new ModelNotFound({ model: name }))
    })

    /** Runs as the only one who changes the model. */
    const alone = <A, E, R>(name: ModelName, effect: Effect.Effect<A, E, R>) =>
      Effect.scoped(Effect.andThen(fileLock(paths.modelLock(name)), effect))

    const add = Effect.fn("ModelCache.add")(function* (spec: ModelSpec) {
      yield* insertModel(db, spec.name, withDefaults(spec), yield* Clock.currentTimeMillis)
      return (yield* findModel(db, spec.name))!
    })

    const replace = Effect.fn("ModelCache.replace")(function* (spec: ModelReplacement) {
      const { target, name = target, ...rest } = spec
      if (name !== target) return yield* new ModelNameMismatch({ model: target, body: name })
      return yield* alone(
        target,
        Effect.gen(function* () {
          const known = yield* replaceModel(db, target, withDefaults(rest), yield* Clock.currentTimeMillis)
          if (!known) return yield* new ModelNotFound({ model: target })
          return (yield* findModel(db, target))!
        })
      )
    })

    /** Live sandboxes that mount the model; one whose process is gone is put right first. */
    const users = Effect.fnUntraced(function* (name: ModelName) {
      const found = yield* usersOfModel(db, name)
      if (found.length === 0) return found
      yield* Effect.forEach(found, (each) => Effect.ignore(sweeper.Reconcile({ name: each as SafeName })))
      return yield* usersOfModel(db, name)
    })

    /** Takes the files away where they were recorded to be. The caller is alone with the model. */
    const dropFiles = Effect.fnUntraced(function* (entry: ModelEntry) {
      const { name } = entry
      const removed = yield* inPlace(name, drop(cacheOf(entry), name, inUse, onStep))
      if (cacheOf(entry).root !== paths.models.root) yield* inPlace(name, drop(paths.models, name, inUse, onStep))
      yield* recordDrop(db, name, yield* Clock.currentTimeMillis)
      onStep("recorded")
      return removed
    })

    const dropCache = Effect.fn("ModelCache.drop")(function* (text: string) {
      const { name } = yield* get(text)
      const removed = yield* alone(name, Effect.flatMap(get(name), dropFiles))
      return new ModelDropped({ ok: true, name, removed, status: "registered" })
    })

    const remove = Effect.fn("ModelCache.remove")(function* (text: string) {
      const { name } = yield* get(text)
      const removed = yield* alone(
        name,
        Effect.gen(function* () {
          const entry = yield* get(name)
          const sandboxes = yield* users(name)
          if (sandboxes.length > 0) return yield* new ModelInUse({ model: name, sandboxes })
          const gone = yield* dropFiles(entry)
          yield* deleteModel(db, name)
          return gone
        })
      )
      return new ModelRemoved({ ok: true, name, removed })
    })

    const status = Effect.fn("ModelCache.status")(function* (text: string, full: boolean) {
      const entry = yield* get(text)
      const { name } = entry
      const cache = cacheOf(entry)
      const look = inspectModel(cache, name, paths.modelPlaceLock(name), full)
      const found = yield* look
      if (found.status !== "missing") return found
      // A crash between two renames left the old install aside.
      const settled = yield* Effect.scoped(
        Effect.gen(function* () {
          if (!(yield* tryFileLock(paths.modelLock(name)))) return false
          yield* inPlace(name, settle(cache, name, inUse))
          return true
        })
      )
      return settled ? yield* look : found
    })

    const ensure = Effect.fn("ModelCache.ensure")(function* (text: string, emit: (event: ModelEvent) => void) {
      const entry = yield* get(text)
      const found = yield* status(text, false)
      if (entry.pullPolicy === "always") return yield* installer.pull({ name: text }, emit)
      if (found.status === "installed") return
      if (entry.pullPolicy === "if_missing") return yield* installer.pull({ name: text }, emit)
      const detail = found.status === "missing" ? "it is not in the cache" : (found.detail ?? "it is unhealthy")
      const policy = 'its pull_policy "never" forbids fetching it'
      return yield* new ModelNotInstalled({ model: text, detail: `${detail}, and ${policy}` })
    })

    return ModelProtocol.of({
      Add: add,
      List: () => Effect.map(listModels(db), (models) => new ModelList({ ok: true, count: models.length, models })),
      Get: ({ name }) => get(name),
      Replace: (spec) => Rpc.fork(replace(spec)),
      Remove: ({ name }) => Rpc.fork(remove(name)),
      Pull: (request: PullRequest) => Rpc.fork(events((emit) => installer.pull(request, emit))),
      Status: ({ name, verify }) => Rpc.fork(status(name, verify === "full")),
      Drop: ({ name }) => Rpc.fork(dropCache(name)),
      Ensure: ({ name }) => Rpc.fork(events((emit) => ensure(name, emit)))
    })
  })
