/**
 * Finds the files of the models that a sandbox mounts, and keeps them in place until its VM has opened them. Part of the keeper of
 * a VM; fetches nothing.
 *
 * Invariant: the mount is recorded before the VM opens the files, and until then nobody moves them; afterwards the record keeps
 * them wherever they are moved to.
 */
import { Clock, Effect, Result, Scope } from "effect"
import { ModelNotFound, ModelNotInstalled } from "../../domain/errors/model.ts"
import { parseModelName } from "../../domain/model/model.ts"
import type { Mount, SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Database } from "../../store/database/Database.ts"
import { findModel, recordMount } from "../../store/database/models.ts"
import { sharedFileLock } from "../../store/files/lock.ts"
import { installPaths, Paths } from "../../store/files/Paths.ts"

/**
 * Boots with the mounts of a sandbox's models, read-only. Promotions and drops of these models wait until the boot is done; its
 * scope is the caller's.
 */
export const withModels = <A, E, R>(
  info: Pick<SandboxInfo, "id" | "config">,
  boot: (models: ReadonlyArray<Mount>) => Effect.Effect<A, E, R>
) =>
  Effect.acquireUseRelease(
    Scope.make(),
    (held) => Effect.flatMap(Scope.provide(holdModels(info), held), boot),
    (held, exit) => Scope.close(held, exit)
  )

const holdModels = Effect.fn("Keeper.models")(function* (info: Pick<SandboxInfo, "id" | "config">) {
  const db = yield* Database
  const paths = yield* Paths
  const mounts: Array<Mount> = []
  // By name, so that no two boots wait for each other.
  const wanted = (info.config.models ?? []).toSorted((a, b) => (a.name < b.name ? -1 : 1))
  if (wanted.length === 0) return mounts
  const { installIdOf, readManifest, wrongSize } = yield* Effect.promise(() => import("../../models/installed.ts"))
  for (const { name: text, target } of wanted) {
    const name = yield* parseModelName(text)
    yield* sharedFileLock(paths.modelPlaceLock(name))
    const entry = yield* findModel(db, name)
    if (entry === undefined) return yield* new ModelNotFound({ model: name })
    const recorded = entry.cacheDir === null ? paths.models : paths.modelCacheHolding(entry.cacheDir)
    const { directory } = recorded.model(name)
    const read = readManifest(directory)
    const wrong = Result.isFailure(read) ? read.failure : wrongSize(directory, read.success)
    const installId = installIdOf(directory)
    if (wrong !== undefined || installId === undefined) {
      return yield* new ModelNotInstalled({ model: name, detail: wrong ?? "its install has no id" })
    }
    yield* recordMount(db, { sandboxId: info.id, model: name, installId }, yield* Clock.currentTimeMillis)
    mounts.push({ source: installPaths(directory).payload, target, readOnly: true })
  }
  return mounts
})
