/**
 * Reads and writes the `sandbox`, `run` and `sandbox_rootfs` tables. Decides nothing about processes or files.
 *
 * Invariant: every change of a status is conditional on the status that allows it (see domain/sandbox/sandbox.ts), so two processes
 * never overwrite each other's transition.
 */

import { Cause, Effect, Exit, Option, Result, Schema } from "effect"
import { DatabaseFailed } from "../../domain/errors/store.ts"
import { AlreadyExists } from "../../domain/errors/vm.ts"
import type { SafeName } from "../../domain/name.ts"
import { planRestart, type RestartPlan } from "../../domain/sandbox/restart.ts"
import {
  BootPhases,
  predecessors,
  SandboxConfig,
  SandboxInfo,
  type Status,
  type TerminationReason
} from "../../domain/sandbox/sandbox.ts"
import type { TerminationFields } from "../../domain/sandbox/termination.ts"
import type { ProcessIdentity } from "../processes/processes.ts"
import type { Service as Database } from "./Database.ts"
import { type ActiveSandbox, activeSandboxesSql } from "./migrations.ts"

const columns = `
  s.id, s.name, s.config, s.status, s.ephemeral, s.created_at, s.updated_at, s.vm_id, s.config_stamp, s.restart_count, s.restart_at,
  r.id AS run_id, r.engine, r.pid, r.pid_started_at, r.boot_id, r.status AS run_status, r.started_at, r.phases, r.terminated_at, r.exit_code,
  r.exit_signal, r.termination_reason, r.termination_detail`
const newestRun = `
  LEFT JOIN run r ON r.id = (SELECT id FROM run WHERE sandbox_id = s.id ORDER BY id DESC LIMIT 1)`

/** Every statement that this module runs; a test asks EXPLAIN QUERY PLAN about each. */
export const statements = {
  byName: `SELECT ${columns} FROM sandbox s ${newestRun} WHERE s.name = ?`,
  all: `SELECT ${columns} FROM sandbox s ${newestRun} ORDER BY s.id DESC`,
  insert:
    "INSERT INTO sandbox (id, name, config, status, ephemeral, created_at, updated_at, vm_id, config_stamp) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
  insertRootfs:
    "INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) SELECT ?, id, ? FROM manifest WHERE digest = ?",
  insertRun:
    "INSERT INTO run (sandbox_id, engine, pid, pid_started_at, boot_id, status, started_at) VALUES (?, ?, ?, ?, ?, 'running', ?) RETURNING id",
  setPhases: "UPDATE run SET phases = ? WHERE sandbox_id = ? AND status = 'running'",
  dropRootfs: "DELETE FROM sandbox_rootfs WHERE sandbox_id = ?",
  endRuns:
    "UPDATE run SET status = 'terminated', exit_code = ?, exit_signal = ?, termination_reason = ?, termination_detail = ?, terminated_at = ? WHERE sandbox_id = ? AND status = 'running'",
  setStatus: "UPDATE sandbox SET status = ?, updated_at = ? WHERE id = ? AND status = ?",
  setEnded:
    "UPDATE sandbox SET status = ?, updated_at = ?, restart_count = ?, restart_at = ? WHERE id = ? AND status = ?",
  setStarting:
    "UPDATE sandbox SET status = 'starting', updated_at = ?, restart_count = 0, restart_at = NULL WHERE id = ? AND status = ?",
  setRestarting:
    "UPDATE sandbox SET status = 'starting', updated_at = ?, restart_at = NULL WHERE id = ? AND status = ? AND restart_at = ?",
  setPlanned: "UPDATE sandbox SET restart_count = ?, restart_at = ? WHERE id = ?",
  cancelRestart: "UPDATE sandbox SET restart_at = NULL WHERE id = ? AND restart_at IS NOT NULL",
  setMachine: "UPDATE sandbox SET config = ?, vm_id = ?, config_stamp = ? WHERE id = ?",
  setConfig: "UPDATE sandbox SET config = ? WHERE id = ?",
  setStamp: "UPDATE sandbox SET vm_id = ?, config_stamp = ? WHERE id = ?",
  vmIdOwner: "SELECT name FROM sandbox WHERE vm_id = ? AND name <> ?",
  statusOf: "SELECT status FROM sandbox WHERE id = ?",
  ending: `SELECT s.status, s.config, s.ephemeral, s.restart_count, r.started_at FROM sandbox s ${newestRun} WHERE s.id = ?`,
  waiting: `SELECT ${columns} FROM sandbox s ${newestRun} WHERE s.restart_at > 0 ORDER BY s.restart_at`,
  remove: "DELETE FROM sandbox WHERE id = ? AND status IN ('created', 'stopped', 'crashed')",
  removeEphemeral: "DELETE FROM sandbox WHERE id = ? AND ephemeral = 1 AND status IN ('stopped', 'crashed')",
  byStatus: `SELECT ${columns} FROM sandbox s ${newestRun} WHERE s.status = ? AND s.id > ? ORDER BY s.id LIMIT ?`,
  ephemeralByStatus: `SELECT ${columns} FROM sandbox s ${newestRun} WHERE s.ephemeral = 1 AND s.status = ? AND s.id > ? ORDER BY s.id LIMIT ?`,
  active: activeSandboxesSql,
  exists: "SELECT 1 AS found FROM sandbox WHERE id = ?",
  forget: "DELETE FROM sandbox WHERE id = ?"
} as const

interface Row {
  readonly id: number
  readonly name: string
  readonly config: string
  readonly status: string
  readonly ephemeral: number
  readonly created_at: number
  readonly updated_at: number
  readonly vm_id: string | null
  readonly config_stamp: string | null
  readonly restart_count: number
  readonly restart_at: number | null
  readonly run_id: number | null
  readonly engine: string | null
  readonly pid: number | null
  readonly pid_started_at: number | null
  readonly boot_id: string | null
  readonly run_status: string | null
  readonly started_at: number | null
  readonly phases: string | null
  readonly terminated_at: number | null
  readonly exit_code: number | null
  readonly exit_signal: string | null
  readonly termination_reason: string | null
  readonly termination_detail: string | null
}

/** A sandbox with what identifies the process of its newest run, when that run is not recorded as ended. */
export interface SandboxRecord {
  readonly info: SandboxInfo
  readonly process: ProcessIdentity | undefined
  readonly hasRunningRun: boolean
  /** What its definition was like when it was read, null when it has none. */
  readonly configStamp: string | null
}

const decodeConfig = Schema.decodeUnknownSync(Schema.fromJsonString(SandboxConfig))
const readConfig = Schema.decodeUnknownOption(Schema.fromJsonString(SandboxConfig))
const encodeConfig = Schema.encodeSync(Schema.fromJsonString(SandboxConfig))

/** Nothing depends on how long a boot took. */
const decodePhases = Schema.decodeUnknownOption(Schema.fromJsonString(BootPhases))
const encodePhases = Schema.encodeSync(Schema.fromJsonString(BootPhases))

const toRecord = (row: Row): SandboxRecord => {
  const running = row.run_status === "running"
  return {
    info: new SandboxInfo({
      id: row.id,
      name: row.name as SafeName,
      status: row.status as Status,
      ephemeral: row.ephemeral === 1,
      config: decodeConfig(row.config),
      createdAt: row.created_at,
      updatedAt: row.updated_at,
      vmId: row.vm_id,
      restartCount: row.restart_count,
      restartAt: row.restart_at,
      pid: running ? row.pid : null,
      engine: row.engine,
      startedAt: row.started_at,
      boot: row.phases === null ? null : Option.getOrNull(decodePhases(row.phases)),
      terminatedAt: row.terminated_at,
      exitCode: row.exit_code,
      exitSignal: row.exit_signal,
      terminationReason: row.termination_reason as TerminationReason | null,
      terminationDetail: row.termination_detail
    }),
    hasRunningRun: running,
    configStamp: row.config_stamp,
    process:
      running && row.pid !== null && row.pid_started_at !== null && row.boot_id !== null
        ? { pid: row.pid, startTicks: row.pid_started_at, bootId: row.boot_id }
        : undefined
  }
}

const decodeRow = (row: Row): Effect.Effect<SandboxRecord, DatabaseFailed> =>
  Effect.try({
    try: () => toRecord(row),
    catch: (cause) => new DatabaseFailed({ operation: `read sandbox ${row.id}`, reason: String(cause) })
  })

export const findSandbox = Effect.fnUntraced(function* (db: Database, name: SafeName) {
  const row = yield* db.get<Row>(statements.byName, [name])
  return row === undefined ? undefined : yield* decodeRow(row)
})

/** A record, or why its row can not be read; either way the row's id and name. */
export interface Found {
  readonly id: number
  readonly name: string
  readonly record: Result.Result<SandboxRecord, DatabaseFailed>
}

/** A row that can not be read, with the process that it names. */
export interface Unreadable {
  readonly id: number
  readonly name: string
  readonly reason: string
  readonly process: ProcessIdentity | undefined
}

const unreadable = (row: Row): Unreadable => {
  const { id, name, pid, pid_started_at: startTicks, boot_id: bootId } = row
  const decoded = Effect.runSyncExit(decodeRow(row))
  return {
    id,
    name: String(name),
    reason: Exit.isFailure(decoded) ? reasonOf(decoded.cause) : "it can be read",
    process: pid === null || startTicks === null || bootId === null ? undefined : { pid, startTicks, bootId }
  }
}

const reasonOf = (cause: Cause.Cause<DatabaseFailed>): string =>
  Option.match(Cause.findErrorOption(cause), { onNone: () => "unknown", onSome: ({ reason }) => reason.slice(0, 300) })

/** The records that can be read, newest first: one that can not takes away none of the others. */
export const listSandboxes = Effect.fnUntraced(function* (db: Database) {
  const all = yield* found(yield* db.all<Row>(statements.all))
  return all.flatMap(({ record }) => (Result.isSuccess(record) ? [record.success] : []))
})

/** The rows that can not be read. */
export const unreadableSandboxes = Effect.fnUntraced(function* (db: Database) {
  const rows = yield* db.all<Row>(statements.all)
  return rows.filter((row) => Exit.isFailure(Effect.runSyncExit(decodeRow(row)))).map(unreadable)
})

/** Deletes a row whatever it says. */
export const forgetSandbox = (db: Database, id: number) => Effect.asVoid(db.run(statements.forget, [id]))

const found = Effect.fnUntraced(function* (rows: ReadonlyArray<Row>) {
  return yield* Effect.forEach(rows, (row) =>
    Effect.map(Effect.result(decodeRow(row)), (record): Found => ({ id: row.id, name: String(row.name), record }))
  )
})

/** At most `limit` records in a status with ids above `after`, oldest first. */
export const sandboxesInStatus = (db: Database, status: Status, after: number, limit: number) =>
  Effect.flatMap(db.all<Row>(statements.byStatus, [status, after, limit]), found)

/** The same of ephemeral sandboxes only. */
export const ephemeralInStatus = (db: Database, status: Status, after: number, limit: number) =>
  Effect.flatMap(db.all<Row>(statements.ephemeralByStatus, [status, after, limit]), found)

/** Sandboxes that keep a schema from being taken back, by name. */
export const activeSandboxes = (db: Database) => db.all<ActiveSandbox>(statements.active)

/** True while a sandbox with this id is recorded. */
export const sandboxExists = (db: Database, id: number) =>
  Effect.map(db.get(statements.exists, [id]), (row) => row !== undefined)

export interface NewSandbox {
  readonly name: SafeName
  readonly config: SandboxConfig
  readonly ephemeral: boolean
  /** Manifest of its root file system; absent until its image was looked up. */
  readonly manifestDigest?: string
  readonly nowMs: number
  readonly vmId?: string
  readonly configStamp?: string
  /** Absent: the next free one. */
  readonly id?: number
  /** Default `created`. */
  readonly status?: Status
}

/** Inserts sandbox and root file system rows in one transaction; answers the id. */
export const insertSandbox = (db: Database, input: NewSandbox) =>
  db.transaction((tx): Result.Result<number, AlreadyExists> => {
    const row = tx.get<{ readonly id: number }>(statements.insert, [
      input.id ?? null,
      input.name,
      encodeConfig(input.config),
      input.status ?? "created",
      input.ephemeral ? 1 : 0,
      input.nowMs,
      input.nowMs,
      input.vmId ?? null,
      input.configStamp ?? null
    ])
    if (row === undefined) return Result.fail(new AlreadyExists({ sandbox: input.name }))
    if (input.manifestDigest === undefined) return Result.succeed(row.id)
    const linked = tx.run(statements.insertRootfs, [row.id, input.ephemeral ? "tmpfs" : "ext4", input.manifestDigest])
    if (linked !== 1) throw new Error(`manifest ${input.manifestDigest} vanished while a sandbox was made from it`)
    return Result.succeed(row.id)
  })

/** Records which manifest the root file system of a sandbox is; answers whether that manifest is here. */
export const linkRootfs = (db: Database, id: number, manifestDigest: string) =>
  db.transaction((tx): Result.Result<boolean> => {
    tx.run(statements.dropRootfs, [id])
    return Result.succeed(tx.run(statements.insertRootfs, [id, "ext4", manifestDigest]) === 1)
  })

/** Takes over what a definition says now; another image is looked up at the next start. */
export const setMachine = (
  db: Database,
  id: number,
  input: {
    readonly config: SandboxConfig
    readonly vmId: string
    readonly configStamp: string
    readonly imageChanged: boolean
  }
) =>
  db.transaction((tx): Result.Result<void> => {
    tx.run(statements.setMachine, [encodeConfig(input.config), input.vmId, input.configStamp, id])
    if (input.imageChanged) tx.run(statements.dropRootfs, [id])
    return Result.void
  })

/** Records what a definition is like after it was written. */
export const setStamp = (db: Database, id: number, vmId: string, configStamp: string) =>
  db.run(statements.setStamp, [vmId, configStamp, id])

/** Takes over another definition of a sandbox that has no file of its own. */
export const saveConfig = (db: Database, id: number, config: SandboxConfig) =>
  Effect.asVoid(db.run(statements.setConfig, [encodeConfig(config), id]))

/** Another sandbox with this UUID. */
export const vmIdOwner = (db: Database, vmId: string, name: SafeName) =>
  Effect.map(db.get<{ readonly name: string }>(statements.vmIdOwner, [vmId, name]), (row) => row?.name)

/** Plans a restart of a sandbox whose records were lost. */
export const planned = (db: Database, id: number, count: number, restartAt: number) =>
  db.run(statements.setPlanned, [count, restartAt, id])

/** Takes back a planned restart; answers whether there was one. */
export const cancelRestart = (db: Database, id: number) =>
  Effect.map(db.run(statements.cancelRestart, [id]), (n) => n === 1)

/**
 * Moves a sandbox to `starting`: asked for, which begins a new row of attempts, or as the restart that was planned for
 * `restartAt` and not taken back. Answers whether it did.
 */
export const beginStart = (db: Database, id: number, nowMs: number, restartAt?: number) =>
  db.transaction((tx): Result.Result<boolean> => {
    const row = tx.get<{ readonly status: Status }>(statements.statusOf, [id])
    if (row === undefined || !predecessors("starting").includes(row.status)) return Result.succeed(false)
    const changed =
      restartAt === undefined
        ? tx.run(statements.setStarting, [nowMs, id, row.status])
        : tx.run(statements.setRestarting, [nowMs, id, row.status, restartAt])
    return Result.succeed(changed === 1)
  })

/** Moves a sandbox to `to` if its status at this moment allows it; answers whether it did. */
export const transition = (db: Database, id: number, to: Status, nowMs: number) =>
  db.transaction((tx): Result.Result<boolean> => {
    const row = tx.get<{ readonly status: Status }>(statements.statusOf, [id])
    if (row === undefined || !predecessors(to).includes(row.status)) return Result.succeed(false)
    return Result.succeed(tx.run(statements.setStatus, [to, nowMs, id, row.status]) === 1)
  })

/** Records the process of a run before its guest starts. */
export const insertRun = (db: Database, sandboxId: number, engine: string, process: ProcessIdentity, nowMs: number) =>
  db.run(statements.insertRun, [sandboxId, engine, process.pid, process.startTicks, process.bootId, nowMs])

/** Records how long the boot of the run took that goes on. */
export const savePhases = (db: Database, sandboxId: number, phases: BootPhases) =>
  db.run(statements.setPhases, [encodePhases(phases), sandboxId])

interface EndingRow {
  readonly status: Status
  readonly config: string
  readonly ephemeral: number
  readonly restart_count: number
  readonly started_at: number | null
}

/** An end is recorded whatever a config says. */
const policyOf = (config: string) => Option.getOrUndefined(readConfig(config))?.restart

/** What the restart policy of a sandbox makes of its end. */
const planOf = (row: EndingRow, reason: TerminationReason, nowMs: number): RestartPlan =>
  planRestart({
    policy: row.ephemeral === 1 ? undefined : policyOf(row.config),
    reason,
    count: row.restart_count,
    upMs: reason === "boot_failed" || row.started_at === null ? undefined : nowMs - row.started_at
  })

/**
 * Ends the running run, moves the sandbox from `from` to `to` and plans its restart, together or not at all; answers whether it
 * did.
 */
export const terminate = (
  db: Database,
  id: number,
  from: ReadonlyArray<Status>,
  to: "stopped" | "crashed",
  end: TerminationFields,
  nowMs: number
) =>
  db.transaction((tx): Result.Result<boolean> => {
    const row = tx.get<EndingRow>(statements.ending, [id])
    if (row === undefined || !from.includes(row.status) || !predecessors(to).includes(row.status))
      return Result.succeed(false)
    const { count, delayMs } = planOf(row, end.reason, nowMs)
    const restartAt = delayMs === undefined ? null : nowMs + delayMs
    if (tx.run(statements.setEnded, [to, nowMs, count, restartAt, id, row.status]) !== 1) return Result.succeed(false)
    tx.run(statements.endRuns, [
      end.exitCode,
      end.exitSignal,
      end.reason,
      end.detail?.slice(0, 4096) ?? null,
      nowMs,
      id
    ])
    return Result.succeed(true)
  })

/** Deletes the row of a sandbox that is not live; runs and root file system rows cascade. Answers whether it did. */
export const deleteSandbox = (db: Database, id: number) => Effect.map(db.run(statements.remove, [id]), (n) => n === 1)

/** The same, only while it is ephemeral and ended. */
export const deleteEphemeral = (db: Database, id: number) =>
  Effect.map(db.run(statements.removeEphemeral, [id]), (n) => n === 1)
