/**
 * Finds out how sandboxes truly are, whatever their records say, and puts right what crashes left: ends that nobody recorded, VMs
 * without a keeper, restarts that nobody waits for. Part of VmSupervisor; waits for none of what it starts.
 *
 * Invariants: a VM that lives is adopted or ended, never started twice; a VM that somebody keeps is left to that keeper, unless it said its last word.
 */

import { Clock, Effect, Schedule } from "effect"
import type { SafeName } from "../../domain/name.ts"
import { isLive, predecessors, SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { Database } from "../../store/database/Database.ts"
import { findSandbox, type SandboxRecord, terminate } from "../../store/database/sandboxes.ts"
import { indexMachines, settleMachine } from "../../store/database/syncDefinitions.ts"
import { Paths } from "../../store/files/Paths.ts"
import { isAlive, signalProcess } from "../../store/processes/processes.ts"
import { withPorts } from "../keeper/network/publishedPorts.ts"
import type { Keepers } from "./keeperClient.ts"
import { lastWords, Sweeper } from "./Sweeper.ts"

const SIGKILL = 9

/** One that has ended, whatever its record said, or says still. */
const over = (record: SandboxRecord, terminationDetail: string): SandboxRecord => ({
  ...record,
  info: new SandboxInfo({ ...record.info, status: "crashed", terminationDetail })
})

/** Turns of 20 ms in which a keeper may record the end of its VM. */
const recordTurns = 50

const killedAlone = () =>
  new Termination({ exitCode: null, exitSignal: "SIGKILL", reason: "signal", detail: "killed without its keeper" })

export const makeRecovery = Effect.fnUntraced(function* (keepers: Keepers) {
  const db = yield* Database
  const paths = yield* Paths
  const sweeper = yield* Sweeper

  /** Ends the process of a sandbox that no keeper answers for, by its recorded identity. */
  const endProcess = Effect.fnUntraced(function* ({ process: recorded }: SandboxRecord) {
    if (recorded !== undefined) signalProcess(recorded, SIGKILL)
    yield* Effect.sleep("20 millis").pipe(
      Effect.repeat({ while: () => recorded !== undefined && isAlive(recorded), times: 250 })
    )
  })

  const reconcile = (name: SafeName) =>
    sweeper.Reconcile({ name }).pipe(Effect.catchTag("RpcClientError", Effect.die), Effect.asVoid)

  /** The same for somebody who wants it killed: its restart policy does not count then. */
  const killByRecord = Effect.fnUntraced(function* (record: SandboxRecord) {
    const { info, process: recorded } = record
    yield* endProcess(record)
    const killed = killedAlone()
    if (recorded !== undefined && !isAlive(recorded)) {
      yield* terminate(db, info.id, predecessors("stopped"), "stopped", killed, yield* Clock.currentTimeMillis)
      if (info.ephemeral) yield* Effect.ignore(sweeper.Clean({ name: info.name }))
      else yield* Effect.ignore(settleMachine(db, paths, info.name))
    } else yield* reconcile(info.name)
    return killed
  })

  /** The record as it truly is: a sandbox whose process is gone is put right first, and starts again if its policy says so. */
  const current = Effect.fnUntraced(function* (before: SandboxRecord) {
    const record = yield* putRight(before)
    const { info } = record
    if (info.restartAt === null || (yield* keepers.isAwaited(info.id)) || (yield* keepers.isKept(info.id)))
      return record
    yield* Effect.ignore(keepers.leave(info, "restart"))
    return record
  })

  const putRight = Effect.fnUntraced(function* (record: SandboxRecord) {
    const { info } = record
    if (!isLive(info.status)) return record
    const alive = record.process !== undefined && isAlive(record.process)
    const kept = yield* keepers.isKept(info.id)
    if (kept && alive && info.status !== "starting") return record
    if (kept && !alive && info.status !== "starting" && lastWords(paths, record) === undefined) {
      return yield* ended(record)
    }
    // What ends with its keeper is ending now; a start that nobody goes on with can not be taken over: the guest is not what it should be yet.
    const doomed = !alive || info.status === "starting" || (yield* keepers.isTied(info.id))
    if (!doomed || (kept && lastWords(paths, record) === undefined)) return record
    if (alive) yield* endProcess(record)
    yield* reconcile(info.name)
    if (!info.ephemeral) yield* Effect.ignore(settleMachine(db, paths, info.name))
    return (yield* findSandbox(db, info.name)) ?? over(record, "it ended with the process that kept it")
  })

  /** A VM whose keeper is about to record its end: waits for that, and says that it has ended where it takes long. */
  const ended = Effect.fnUntraced(function* (record: SandboxRecord) {
    const { info } = record
    const after = yield* findSandbox(db, info.name).pipe(
      Effect.repeat({
        while: (found) => found !== undefined && found.info.id === info.id && isLive(found.info.status),
        schedule: Schedule.spaced("20 millis").pipe(Schedule.upTo({ times: recordTurns }))
      })
    )
    return after !== undefined && !isLive(after.info.status)
      ? after
      : over(after ?? record, "its process has ended, and its keeper has not recorded how yet")
  })

  /** All records as they truly are; a VM that lives without a keeper gets one. */
  const all = Effect.gen(function* () {
    const listed = yield* indexMachines(db, paths)
    const looked = yield* Effect.forEach(listed.records, current)
    // One that went with its end meanwhile is in no list.
    const records = yield* Effect.filter(looked, ({ info }) =>
      info.ephemeral && info.status === "crashed"
        ? Effect.map(findSandbox(db, info.name), (found) => found?.info.id === info.id)
        : Effect.succeed(true)
    )
    for (const { info } of records) {
      if (isLive(info.status) && !(yield* keepers.isKept(info.id))) yield* Effect.ignore(keepers.leave(info, "adopt"))
    }
    return records.map((record) => withPorts(paths, record.info))
  }).pipe(Effect.withSpan("Recovery.all"))

  return { current, all, killByRecord }
})
