/**
 * Finds out how sandboxes truly are, whatever their records say, and puts right what crashes left: ends that nobody recorded, VMs
 * without a keeper, restarts that nobody waits for. Part of VmSupervisor; waits for none of what it starts.
 *
 * Invariants: a VM that lives is adopted or ended, never started twice; a VM that somebody keeps is left to that keeper.
 */
import { Effect } from "effect"
import { isLive } from "../domain/sandbox.ts"
import { Database } from "../store/Database.ts"
import { indexMachines, settleMachine } from "../store/machineIndex.ts"
import { Paths } from "../store/Paths.ts"
import { isAlive, signalProcess } from "../store/processes.ts"
import { findSandbox, type SandboxRecord } from "../store/sandboxes.ts"
import { RunEnd } from "./Keeper.ts"
import type { Keepers } from "./keepers.ts"
import { withPorts } from "./ports.ts"
import { Sweeper } from "./Sweeper.ts"

const SIGKILL = 9

export const makeRecovery = Effect.fnUntraced(function* (keepers: Keepers) {
  const db = yield* Database
  const paths = yield* Paths
  const sweeper = yield* Sweeper

  /** Ends a sandbox that no keeper answers for: the process goes by its recorded identity, then the record. */
  const killByRecord = Effect.fnUntraced(function* (record: SandboxRecord) {
    const { process: recorded, info } = record
    if (recorded !== undefined) signalProcess(recorded, SIGKILL)
    yield* Effect.sleep("20 millis").pipe(
      Effect.repeat({ while: () => recorded !== undefined && isAlive(recorded), times: 250 })
    )
    yield* sweeper.Reconcile({ name: info.name }).pipe(Effect.catchTag("RpcClientError", Effect.die))
    return new RunEnd({
      exitCode: null,
      exitSignal: "SIGKILL",
      reason: "signal",
      detail: "killed without its keeper"
    })
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
    if (!suspicious || (yield* keepers.isKept(info.id))) return record
    if (alive) yield* killByRecord(record)
    else yield* sweeper.Reconcile({ name: info.name }).pipe(Effect.catchTag("RpcClientError", Effect.die))
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
