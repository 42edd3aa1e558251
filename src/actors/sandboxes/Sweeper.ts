/**
 * Finds sandboxes whose process is gone and ephemeral ones that have ended, and puts records and directories right; clears away
 * what crashes left elsewhere (sweepLeftovers.ts). Bounded in rows and time, never fails its caller, starts and stops no VM that
 * lives.
 *
 * Invariants: every update is conditional on the status that was read; a directory goes before its row, so that a crash leaves
 * something for the next sweep to find; a VM that somebody keeps is that keeper's to record.
 */

import fs from "node:fs"
import { Clock, Context, Effect, Option, Result, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { hasPassed } from "../../domain/elapsed.ts"
import { DatabaseErrors } from "../../domain/errors/groups.ts"
import { SafeName } from "../../domain/name.ts"
import { isLive, isTerminal, type SandboxInfo, type Status, statusAfter } from "../../domain/sandbox/sandbox.ts"
import type { TerminationFields } from "../../domain/sandbox/termination.ts"
import { Database, type DatabaseError } from "../../store/database/Database.ts"
import { hasForgottenRoot } from "../../store/database/imageCollection.ts"
import {
  activeSandboxes,
  beginStart,
  deleteEphemeral,
  ephemeralInStatus,
  type Found,
  findSandbox,
  type SandboxRecord,
  sandboxesInStatus,
  terminate
} from "../../store/database/sandboxes.ts"
import { readTail } from "../../store/files/boundedFile.ts"
import { readText, removeBelow } from "../../store/files/files.ts"
import { isLocked } from "../../store/files/lock.ts"
import { Paths } from "../../store/files/Paths.ts"
import { savedEnd, savedEnding } from "../../store/files/runFile.ts"
import { isAlive } from "../../store/processes/processes.ts"
import { isLeft } from "../../store/processes/processToken.ts"
import { makeImageFiles } from "../images/cacheFiles.ts"
import { guestEnd } from "../keeper/guestEnd.ts"
import { type Address, layerLocal } from "../kit/Actor.ts"
import { LeaseManager, withLease } from "../leases/LeaseManager.ts"

const count = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100_000 }))

/** Bounds of one sweep. */
export const SweeperOptions = Schema.Struct({
  /** Stale active rows put right; default 250. */
  activeRows: Schema.optionalKey(count),
  /** Ended ephemeral sandboxes removed; default 250. */
  endedRows: Schema.optionalKey(count),
  /** Wall clock in milliseconds; default 250. */
  wallMs: Schema.optionalKey(count)
})
export type SweeperOptions = typeof SweeperOptions.Type
const defaults = { activeRows: 250, endedRows: 250, wallMs: 250 }

/** Rows read at once. */
const pageRows = 256

export class SweepReport extends Schema.Class<SweepReport>("SweepReport")({
  reconciled: Schema.Int,
  removed: Schema.Int,
  errors: Schema.Int,
  timed_out: Schema.Boolean
}) {}

const Cleanup = Schema.Literals([
  "removed",
  "dir_remove_failed",
  "already_gone",
  "already_claimed",
  "skipped_persistent",
  "skipped_active",
  "skipped_live_pid"
])
export type Cleanup = typeof Cleanup.Type

/** A sandbox that keeps a schema from being taken back. */
export class Active extends Schema.Class<Active>("Active")({
  name: Schema.String,
  status: Schema.String,
  pid: Schema.NullOr(Schema.Int)
}) {}

export class SweeperProtocol extends RpcGroup.make(
  /**
   * Sweeps if the maintenance lease is free; null when another process swept lately or sweeps. `force` does not wait for the
   * interval, `dryRun` only counts and takes no lease. Never fails.
   */
  Rpc.make("Sweep", {
    payload: { force: Schema.Boolean, dryRun: Schema.optionalKey(Schema.Boolean) },
    success: Schema.NullOr(SweepReport)
  }),
  /** Puts one sandbox right whose process may be gone; answers whether it changed. */
  Rpc.make("Reconcile", { payload: { name: SafeName }, success: Schema.Boolean, error: DatabaseErrors }),
  /** Removes one ephemeral sandbox that has ended: directory first, then the row. */
  Rpc.make("Clean", { payload: { name: SafeName }, success: Cleanup, error: DatabaseErrors }),
  /** Sandboxes in a state that an older schema would not understand, by name. */
  Rpc.make("Active", { success: Schema.Array(Active), error: DatabaseErrors })
) {}

/** The lease that makes one process sweep per window. */
export const maintenance = {
  name: "sandbox_lifecycle_maintenance",
  durationMs: 10_000,
  minIntervalMs: 30_000
} as const

const crashed: TerminationFields = {
  exitCode: null,
  exitSignal: null,
  reason: "internal_error",
  detail: "its process is gone"
}

/** A start that has no process after this long was given up by somebody who died, in milliseconds. */
const startingMaxMs = 10_000

/** How long the logs of an ephemeral sandbox that did not boot, or crashed, wait for a reader, in milliseconds. */
const unreadMaxMs = 3_600_000

/** True for an end of which somebody may want to know why. One that was killed with its `run` in the foreground has no such somebody. */
export const awaitsReader = (paths: Paths["Service"], info: SandboxInfo): boolean => {
  const { name, ephemeral, terminationReason: reason, terminationDetail } = info
  if (!ephemeral || reason === null) return false
  if (reason === "boot_failed") return true
  const unseen = terminationDetail === crashed.detail && fs.existsSync(paths.sandbox(name).creator)
  return statusAfter(reason) === "crashed" && !unseen
}

/** What is to be done about a row whose VM nobody keeps, undefined for nothing. Newest running run decides. */
export const decide = (
  record: Pick<SandboxRecord, "info" | "process" | "hasRunningRun">,
  alive: boolean,
  nowMs: number,
  selfEnd: () => TerminationFields | undefined = () => undefined,
  saved?: TerminationFields,
  ending?: TerminationFields
): { readonly to: "stopped" | "crashed"; readonly end: TerminationFields } | undefined => {
  const { status, updatedAt } = record.info
  if (!isLive(status) || alive) return undefined
  if (saved !== undefined) return { to: statusAfter(saved.reason), end: saved }
  const stopped = { to: "stopped", end: { ...crashed, reason: "shutdown_requested" } } as const
  if (status === "draining") return ending === undefined ? stopped : { to: statusAfter(ending.reason), end: ending }
  if (record.hasRunningRun) {
    const end = selfEnd()
    return end === undefined ? { to: "crashed", end: crashed } : { to: "stopped", end }
  }
  // Without a run it is still starting, unless whoever started it is long gone.
  const abandoned = status === "starting" && hasPassed(updatedAt, startingMaxMs, nowMs)
  return abandoned ? { to: "crashed", end: { ...crashed, reason: "boot_failed" } } : undefined
}

/** How a VM without a keeper ended by itself: its last words on the console. */
const selfEnded = (consoleLog: string): TerminationFields | undefined => guestEnd(readTail(consoleLog, 4096))?.end

/** How a run ended whose keeper had no records to write that into any more. */
export const lastWords = (paths: Paths["Service"], { info, process }: SandboxRecord): TerminationFields | undefined =>
  process === undefined || info.ephemeral ? undefined : savedEnd(paths, info.name, process)

const make = (options: SweeperOptions) =>
  Effect.gen(function* () {
    const db = yield* Database
    const paths = yield* Paths
    const leases = yield* LeaseManager
    const images = yield* makeImageFiles
    const bounds = { ...defaults, ...options }

    const isUnread = (info: SandboxInfo, nowMs: number) =>
      awaitsReader(paths, info) && !hasPassed(info.updatedAt, unreadMaxMs, nowMs)

    /** Puts one row right; answers whether it changed or, in a dry run, would. */
    const reconcile = Effect.fnUntraced(function* (
      record: SandboxRecord,
      dryRun: boolean
    ): Effect.fn.Return<boolean, DatabaseError> {
      const { info } = record
      const now = yield* Clock.currentTimeMillis
      const alive = record.process !== undefined && isAlive(record.process)
      const saved = alive ? undefined : lastWords(paths, record)
      const selfEnd = () => selfEnded(paths.sandbox(info.name).consoleLog)
      const ending = record.process === undefined ? undefined : savedEnding(paths, info.name, record.process)
      const decision = decide(record, alive, now, selfEnd, saved, ending)
      // A keeper that has written down the end there will record it nowhere else.
      if (decision === undefined || (saved === undefined && isLocked(paths.run(info.id).keeperLock))) return false
      return dryRun || (yield* terminate(db, info.id, [info.status], decision.to, decision.end, now))
    })

    /** Ends an ephemeral sandbox that nobody will start any more, by way of a start that is given up; answers as `reconcile`. */
    const giveUp = Effect.fnUntraced(function* (
      { info }: SandboxRecord,
      dryRun: boolean
    ): Effect.fn.Return<boolean, DatabaseError> {
      const now = yield* Clock.currentTimeMillis
      if (!isLeft(readText(paths.sandbox(info.name).creator), now - info.updatedAt)) return false
      if (dryRun) return true
      if (!(yield* beginStart(db, info.id, now))) return false
      return yield* terminate(db, info.id, ["starting"], "crashed", crashed, now)
    })

    const clean = Effect.fnUntraced(function* (
      record: SandboxRecord,
      dryRun: boolean
    ): Effect.fn.Return<Cleanup, DatabaseError> {
      const { info } = record
      if (!info.ephemeral) return "skipped_persistent"
      if (!isTerminal(info.status)) return "skipped_active"
      if (record.process !== undefined && isAlive(record.process)) return "skipped_live_pid"
      if (dryRun) return "removed"
      if (!(yield* removeDirectories(paths, info))) return "dir_remove_failed"
      const forgotten = yield* hasForgottenRoot(db, info.id)
      if (!(yield* deleteEphemeral(db, info.id))) return "already_claimed"
      if (forgotten) yield* Effect.ignore(images.collectUnused)
      return "removed"
    })

    const sweepOnce = Effect.fnUntraced(function* (dryRun: boolean) {
      const deadline = (yield* Clock.currentTimeMillis) + bounds.wallMs
      const report = { reconciled: 0, removed: 0, errors: 0, timed_out: false }
      type Handle = (record: SandboxRecord) => Effect.Effect<boolean, DatabaseError>
      /** Rows oldest first until `most` were acted on or time is up; one bad row never stops the others. */
      const each = Effect.fnUntraced(function* (next: NextRow, most: number, handle: Handle) {
        let acted = 0
        while (acted < most) {
          if ((yield* Clock.currentTimeMillis) >= deadline) {
            report.timed_out = true
            return acted
          }
          const row = yield* next
          if (Option.isNone(row)) return acted
          const done = yield* Effect.fromResult(row.value.record).pipe(Effect.flatMap(handle), Effect.result)
          if (Result.isFailure(done)) {
            report.errors += 1
            yield* Effect.logWarning("sweep: one row was left as it is", done.failure)
          } else if (done.success) acted += 1
        }
        return acted
      })
      const live = merged(["running", "draining", "starting", "paused"], (status, after) =>
        sandboxesInStatus(db, status, after, pageRows)
      )
      report.reconciled = yield* each(live, bounds.activeRows, (record) => reconcile(record, dryRun))
      const unborn = merged(["created"], (status, after) => ephemeralInStatus(db, status, after, pageRows))
      report.reconciled += yield* each(unborn, bounds.activeRows, (record) => giveUp(record, dryRun))
      const ended = merged(["stopped", "crashed"], (status, after) => ephemeralInStatus(db, status, after, pageRows))
      report.removed = yield* each(ended, bounds.endedRows, (record) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) =>
          isUnread(record.info, now)
            ? Effect.succeed(false)
            : Effect.map(clean(record, dryRun), (outcome) => outcome === "removed")
        )
      )
      return new SweepReport(report)
    })

    const sweep = Effect.fn("Sweeper.sweep")(function* (force: boolean, dryRun: boolean) {
      if (dryRun) return yield* sweepOnce(true)
      const claim = { ...maintenance, minIntervalMs: force ? 0 : maintenance.minIntervalMs }
      const report = yield* withLease(leases, claim, sweepOnce(false))
      if (Option.isSome(report)) {
        const { sweepLeftovers } = yield* leftovers
        yield* sweepLeftovers(db, paths, leases, images, force)
      }
      return Option.getOrNull(report)
    })

    return SweeperProtocol.of({
      Sweep: ({ force, dryRun }) =>
        sweep(force, dryRun === true).pipe(
          Effect.catchCause((cause) => Effect.as(Effect.logWarning("sweep failed and was put off", cause), null))
        ),
      Reconcile: Effect.fn("Sweeper.reconcile")(function* ({ name }: { readonly name: SafeName }) {
        const record = yield* findSandbox(db, name)
        if (record === undefined || !(yield* reconcile(record, false))) return false
        const after = yield* findSandbox(db, name)
        if (after !== undefined && !awaitsReader(paths, after.info)) yield* clean(after, false)
        return true
      }),
      Clean: Effect.fn("Sweeper.clean")(function* ({ name }: { readonly name: SafeName }) {
        const record = yield* findSandbox(db, name)
        return record === undefined ? ("already_gone" as const) : yield* clean(record, false)
      }),
      Active: () => Effect.map(activeSandboxes(db), (rows) => rows.map((row) => new Active(row)))
    })
  })

/** Most processes sweep nothing: another one did, lately. */
const leftovers = Effect.promise(() => import("./sweepLeftovers.ts"))

type NextRow = Effect.Effect<Option.Option<Found>, DatabaseError>

/** The rows of several statuses as one sequence by id, a page of each at a time. A row that left its status is passed by. */
const merged = (
  statuses: ReadonlyArray<Status>,
  page: (status: Status, after: number) => Effect.Effect<ReadonlyArray<Found>, DatabaseError>
): NextRow => {
  const sources = statuses.map((status) => ({ status, rows: [] as Array<Found>, after: 0, more: true }))
  return Effect.gen(function* () {
    for (const source of sources) {
      if (source.rows.length > 0 || !source.more) continue
      source.rows = [...(yield* page(source.status, source.after))]
      source.more = source.rows.length === pageRows
      source.after = source.rows.at(-1)?.id ?? source.after
    }
    const first = sources
      .filter((source) => source.rows.length > 0)
      .toSorted((a, b) => a.rows[0]!.id - b.rows[0]!.id)[0]
    return Option.fromUndefinedOr(first?.rows.shift())
  })
}

/** Removes the directory and the sockets of a sandbox, following no symbolic link. Answers false when something stayed. */
export const removeDirectories = (paths: Paths["Service"], info: Pick<SandboxInfo, "id" | "name">) =>
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
  static readonly layer = (options: SweeperOptions = {}) => layerLocal(Sweeper, SweeperProtocol, make(options))
}
