/**
 * Finds sandboxes whose process is gone and ephemeral ones that have ended, and puts records and directories right. Bounded in
 * rows and time, never fails its caller, starts and stops no VM that lives.
 *
 * Invariants: every update is conditional on the status that was read; a directory goes before its row, so that a crash leaves
 * something for the next sweep to find.
 */
import { Clock, Context, Effect, type Result, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { DatabaseErrors } from "../domain/errors/groups.ts"
import { SafeName } from "../domain/name.ts"
import { isLive, isTerminal, type SandboxInfo } from "../domain/sandbox.ts"
import { Database, type DatabaseError } from "../store/Database.ts"
import { removeBelow } from "../store/files.ts"
import { isLocked } from "../store/lock.ts"
import { Paths } from "../store/Paths.ts"
import { isAlive } from "../store/processes.ts"
import {
  deleteEphemeral,
  endedEphemeral,
  findSandbox,
  type SandboxRecord,
  sandboxesInStatus,
  type Termination,
  terminate
} from "../store/sandboxes.ts"
import { type Address, layerLocal } from "./Actor.ts"
import { LeaseManager } from "./LeaseManager.ts"

/** Bounds of one sweep: rows of each phase, and wall clock in milliseconds. */
export const defaultBounds = { activeRows: 250, endedRows: 250, wallMs: 250 } as const

export class SweepReport extends Schema.Class<SweepReport>("SweepReport")({
  reconciled: Schema.Int,
  removed: Schema.Int,
  errors: Schema.Int,
  timed_out: Schema.Boolean
}) {}

export const Cleanup = Schema.Literals([
  "removed",
  "dir_remove_failed",
  "already_gone",
  "already_claimed",
  "skipped_persistent",
  "skipped_active",
  "skipped_live_pid"
])
export type Cleanup = typeof Cleanup.Type

export class SweeperProtocol extends RpcGroup.make(
  /** Sweeps if the maintenance lease is free (or `force`); null when another process swept or sweeps. Never fails. */
  Rpc.make("Sweep", { payload: { force: Schema.Boolean }, success: Schema.NullOr(SweepReport) }),
  /** Puts one sandbox right whose process may be gone; answers whether it changed. */
  Rpc.make("Reconcile", { payload: { name: SafeName }, success: Schema.Boolean, error: DatabaseErrors }),
  /** Removes one ephemeral sandbox that has ended: directory first, then the row. */
  Rpc.make("Clean", { payload: { name: SafeName }, success: Cleanup, error: DatabaseErrors })
) {}

/** The lease that makes one process sweep per window. */
const maintenance = { name: "sandbox_lifecycle_maintenance", durationMs: 10_000, minIntervalMs: 30_000 } as const

/** A start that has no process after this long was given up by somebody who died, in milliseconds. */
const startingMaxMs = 10_000

const crashed: Termination = {
  exitCode: null,
  exitSignal: null,
  reason: "internal_error",
  detail: "its process is gone"
}

const behaviour = Effect.gen(function* () {
  const db = yield* Database
  const paths = yield* Paths
  const leases = yield* LeaseManager

  /** Puts one row right; answers whether it changed. Newest running run decides. */
  const reconcile = Effect.fnUntraced(function* (record: SandboxRecord): Effect.fn.Return<boolean, DatabaseError> {
    const { info } = record
    const now = yield* Clock.currentTimeMillis
    // Whoever keeps it will record the end, with a better reason.
    if (isLocked(paths.run(info.id).keeperLock)) return false
    if (!record.hasRunningRun) {
      if (info.status === "starting" && now - info.updatedAt > startingMaxMs) {
        return yield* terminate(db, info.id, ["starting"], "crashed", { ...crashed, reason: "boot_failed" }, now)
      }
      if (info.status !== "draining") return false
      return yield* terminate(
        db,
        info.id,
        ["draining"],
        "stopped",
        { ...crashed, reason: "shutdown_requested", detail: null },
        now
      )
    }
    if (record.process !== undefined && isAlive(record.process)) return false
    return info.status === "draining"
      ? yield* terminate(db, info.id, ["draining"], "stopped", { ...crashed, reason: "shutdown_requested" }, now)
      : yield* terminate(db, info.id, [info.status], "crashed", crashed, now)
  })

  const clean = Effect.fnUntraced(function* (
    info: SandboxInfo,
    record: SandboxRecord
  ): Effect.fn.Return<Cleanup, DatabaseError> {
    if (!info.ephemeral) return "skipped_persistent"
    if (!isTerminal(info.status)) return "skipped_active"
    if (record.process !== undefined && isAlive(record.process)) return "skipped_live_pid"
    const gone = yield* removeDirectories(paths, info)
    if (!gone) return "dir_remove_failed"
    return (yield* deleteEphemeral(db, info.id)) ? "removed" : "already_claimed"
  })

  const sweepOnce = Effect.fnUntraced(function* () {
    const deadline = (yield* Clock.currentTimeMillis) + defaultBounds.wallMs
    const report = { reconciled: 0, removed: 0, errors: 0, timed_out: false }
    const late = Effect.map(Clock.currentTimeMillis, (now) => (report.timed_out ||= now >= deadline))
    const each = Effect.fnUntraced(function* <E>(
      rows: ReadonlyArray<Result.Result<SandboxRecord, E>>,
      handle: (record: SandboxRecord) => Effect.Effect<void, DatabaseError>
    ) {
      for (const row of rows) {
        if (yield* late) return
        const record = Effect.fromResult(row)
        const failure = yield* Effect.flatMap(record, handle).pipe(Effect.as(undefined), Effect.catch(Effect.succeed))
        if (failure === undefined) continue
        report.errors += 1
        yield* Effect.logWarning("sweep: one row was left as it is", failure)
      }
    })
    for (const status of ["running", "draining", "starting", "paused"] as const) {
      const rows = yield* sandboxesInStatus(db, status, defaultBounds.activeRows)
      yield* each(rows, (record) =>
        Effect.map(reconcile(record), (changed) => void (report.reconciled += changed ? 1 : 0))
      )
    }
    const ended = yield* endedEphemeral(db, defaultBounds.endedRows)
    yield* each(ended, (record) =>
      Effect.map(clean(record.info, record), (outcome) => void (report.removed += outcome === "removed" ? 1 : 0))
    )
    return new SweepReport(report)
  })

  const sweep = Effect.fn("Sweeper.sweep")(function* (force: boolean) {
    const lease = yield* leases.TryAcquire({ ...maintenance, minIntervalMs: force ? 0 : maintenance.minIntervalMs })
    if (lease === null) return null
    const report = yield* sweepOnce()
    yield* leases.Complete({ lease })
    return report
  })

  return SweeperProtocol.of({
    Sweep: ({ force }) =>
      sweep(force).pipe(
        Effect.catchCause((cause) => Effect.as(Effect.logWarning("sweep failed and was put off", cause), null))
      ),
    Reconcile: Effect.fn("Sweeper.reconcile")(function* ({ name }: { readonly name: SafeName }) {
      const record = yield* findSandbox(db, name)
      if (record === undefined || !isLive(record.info.status)) return false
      const changed = yield* reconcile(record)
      const after = changed ? yield* findSandbox(db, name) : undefined
      if (after?.info.ephemeral === true) yield* clean(after.info, after)
      return changed
    }),
    Clean: Effect.fn("Sweeper.clean")(function* ({ name }: { readonly name: SafeName }) {
      const record = yield* findSandbox(db, name)
      return record === undefined ? ("already_gone" as const) : yield* clean(record.info, record)
    })
  })
})

/** Removes the directory and the sockets of a sandbox, following no symbolic link. Answers false when something stayed. */
export const removeDirectories = (paths: Paths["Service"], info: { readonly id: number; readonly name: SafeName }) =>
  Effect.all([
    removeBelow(paths.runs, paths.run(info.id).directory),
    removeBelow(paths.sandboxes, paths.sandbox(info.name).directory)
  ]).pipe(
    Effect.map(([run, directory]) => run && directory),
    Effect.orDie
  )

export class Sweeper extends Context.Service<Sweeper, Address<RpcGroup.Rpcs<typeof SweeperProtocol>>>()(
  "bunker/Sweeper"
) {
  static readonly layer = layerLocal(Sweeper, SweeperProtocol, behaviour)
}
