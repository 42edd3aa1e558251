/**
 * Finds out how sandboxes truly are, whatever their records say, and puts right what crashes left: ends that nobody recorded, VMs
 * without a keeper, restarts that nobody waits for. Part of VmSupervisor; waits for none of what it starts.
 *
 * Invariants: a VM that lives is adopted or ended, never started twice; a VM that somebody keeps is left to that keeper, unless it said its last word.
 */
import { Clock, Effect } from "effect"
import type { SafeName } from "../../domain/name.ts"
import { isLive, predecessors } from "../../domain/sandbox/sandbox.ts"
import { Database } from "../../store/database/Database.ts"
import { findSandbox, type SandboxRecord, terminate } from "../../store/database/sandboxes.ts"
import { indexMachines, settleMachine } from "../../store/database/syncDefinitions.ts"
import { Paths } from "../../store/files/Paths.ts"
import { isAlive, signalProcess } from "../../store/processes/processes.ts"
import { RunEnd } from "../keeper/Keeper.ts"
import { withPorts } from "../keeper/publishedPorts.ts"
import type { Keepers } from "./keeperClient.ts"
import { lastWords, Sweeper } from "./Sweeper.ts"

const SIGKILL = 9

const killedAlone = () =>
  new RunEnd({ exitCode: null, exitSignal: "SIGKILL", reason: "signal", detail: "killed without its keeper" })

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
    const alive = record.process !== undefined && isAlive(record.process)
    // A start that nobody goes on with can not be taken over: the guest is not what it should be yet.
    const suspicious = isLive(info.status) && (!alive || info.status === "starting")
    if (!suspicious) return record
    if ((yield* keepers.isKept(info.id)) && (alive || lastWords(paths, record) === undefined)) return record
    if (alive) yield* endProcess(record)
    yield* reconcile(info.name)
    if (!info.ephemeral) yield* Effect.ignore(settleMachine(db, paths, info.name))
    return (yield* findSandbox(db, info.name)) ?? record
  })

  /** All records as they truly are; a VM that lives without a keeper gets one. */
  const all = Effect.gen(function* () {
    const listed = yield* indexMachines(db, paths)
    const records = yield* Effect.forEach(listed.records, current)
    for (const { info } of records) {
      if (isLive(info.status) && !(yield* keepers.isKept(info.id))) yield* Effect.ignore(keepers.leave(info, "adopt"))
    }
    return records.map((record) => withPorts(paths, record.info))
  }).pipe(Effect.withSpan("Recovery.all"))

  return { current, all, killByRecord }
})
