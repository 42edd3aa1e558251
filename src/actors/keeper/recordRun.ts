/**
 * Keeps the records of one VM from when its guest answers: running, paused, and how it ended. Boots and adopts nothing (see
 * keeperBoot.ts).
 *
 * Invariants: whatever ends the VM, its row is closed once, with the first reason that anybody gave; an ephemeral sandbox's
 * directory and row go with it unless it crashed.
 */

import { Clock, Deferred, Effect, Fiber, type Scope } from "effect"
import type { RunDefaults } from "../../domain/image/image.ts"
import { predecessors, type SandboxInfo, statusAfter } from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { Database } from "../../store/database/Database.ts"
import { terminate, transition } from "../../store/database/sandboxes.ts"
import { settleMachine } from "../../store/database/syncDefinitions.ts"
import { keepBounded, readTail } from "../../store/files/boundedFile.ts"
import type { FileError } from "../../store/files/files.ts"
import { footingOf } from "../../store/files/homeState.ts"
import { Paths } from "../../store/files/Paths.ts"
import { saveEnd, saveEnding } from "../../store/files/runFile.ts"
import type { ProcessIdentity } from "../../store/processes/processes.ts"
import type { GuestRequests } from "../../vm/guest/GuestChannel.ts"
import type { GuestTransport } from "../../vm/guest/transport.ts"
import type { VmExit } from "../../vm/runner/start.ts"
import { Sweeper } from "../sandboxes/Sweeper.ts"
import { openConsole } from "./consoleLog.ts"
import { GuestEndWatch, guestEnd, saysPanic, silentRestart } from "./guestEnd.ts"
import type { VmNetwork } from "./network/network.ts"
import type { Pausing } from "./pausing.ts"
import type { KeptVm, Published } from "./runningVm.ts"

/** Bytes at the end of a console in which a guest says why it ends. */
const consoleTailBytes = 4096

/** A process that runs a VM, whether this process started it or adopted it. */
export interface VmHandle {
  readonly identity: ProcessIdentity
  readonly transport: GuestTransport
  readonly exited: Effect.Effect<VmExit>
  readonly kill: Effect.Effect<void>
  readonly network: VmNetwork
  readonly ports: Published
}

/** Marks the sandbox running, or paused when that is how it was found, and, in the background of the scope, records how it ends. */
export const keepRecords = Effect.fnUntraced(function* (
  info: SandboxInfo,
  image: RunDefaults,
  vm: VmHandle,
  channel: GuestRequests,
  pausing: Pausing
): Effect.fn.Return<KeptVm, FileError, Scope.Scope | Database | Sweeper | Paths> {
  const db = yield* Database
  const sweeper = yield* Sweeper
  const ended = yield* Deferred.make<Termination>()
  let expected: Termination | undefined
  let givenUp = false
  const use = { commands: 0, touches: 0 }
  const traffic = { received: 0, sent: 0 }
  const paths = yield* Paths
  const own = paths.sandbox(info.name)
  const halted = yield* Deferred.make<void>()
  const watch = new GuestEndWatch(() => Deferred.doneUnsafe(halted, Effect.void))
  const console_ = yield* openConsole(own, watch.push)
  /** The end that the guest wanted itself, also where its last words have not been collected yet. */
  const wanted = (): Termination | undefined => {
    const found = watch.found ?? guestEnd(readTail(own.consoleLog, consoleTailBytes))
    return found === undefined ? undefined : new Termination(found.end)
  }
  const restarted = ({ code, signal }: VmExit): Termination | undefined => {
    const panicked = watch.panicked || saysPanic(readTail(own.consoleLog, consoleTailBytes))
    const end = signal === undefined ? silentRestart(code, panicked) : undefined
    return end === undefined ? undefined : new Termination(end)
  }
  const expect = (end: Termination) => void (expected ??= wanted() ?? end)
  const settle = settleDefinition(info)
  const footing = footingOf(paths, info.name)
  const found = pausing.paused() ? "paused" : "running"
  yield* Effect.orDie(Effect.flatMap(Clock.currentTimeMillis, (now) => transition(db, info.id, found, now)))
  const record = Effect.fn("Keeper.record")(function* (exit: VmExit) {
    yield* console_.collect
    const known = expected ?? wanted() ?? restarted(exit)
    const end = known === undefined ? unexpectedEnd(exit) : givenUp ? byForce(known, exit) : known
    const to = statusAfter(end.reason)
    // These records are not anybody's any more: whoever looks puts it right, and finds beside the definition how it ended.
    const standing = footing()
    if (standing !== "whole") {
      if (standing !== "gone" && !info.ephemeral) yield* Effect.ignore(saveEnd(paths, info.name, vm.identity, end))
      return yield* Effect.asVoid(Deferred.succeed(ended, end))
    }
    const now = yield* Clock.currentTimeMillis
    yield* terminate(db, info.id, [...predecessors(to)], to, end, now).pipe(
      Effect.catchCause((cause) => Effect.logError(`the end of ${info.name} was not recorded`, cause))
    )
    if (!info.ephemeral) yield* settle
    // What crashed waits for whoever wants to know why; see Sweeper.
    else if (to !== "crashed") yield* Effect.ignore(sweeper.Clean({ name: info.name }))
    yield* Deferred.succeed(ended, end)
  })
  if (!info.ephemeral) yield* Effect.forkScoped(settle)
  yield* Effect.forkScoped(console_.loop)
  const { keeperLog, netLog, runnerLog } = paths.run(info.id)
  yield* Effect.forkScoped(keepBounded([keeperLog, netLog, runnerLog]))
  // A machine that halted stands still: nothing but its process is left to be ended.
  const endHalted = Effect.suspend(() => {
    expect(unexpectedEnd({ code: undefined, signal: "SIGKILL", report: undefined, output: "" }))
    return vm.kill
  })
  yield* Effect.forkScoped(Effect.andThen(Deferred.await(halted), endHalted))
  const watching = yield* Effect.forkScoped(Effect.flatMap(vm.exited, record), { startImmediately: true })
  // A foreground run that is interrupted takes its VM along, and waits until that is recorded.
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => (expected === undefined ? Effect.void : Effect.asVoid(Fiber.await(watching))))
  )
  return {
    ephemeral: info.ephemeral,
    channel,
    config: info.config,
    image,
    ended,
    expect,
    giveUp: () => void (givenUp = true),
    ending: () => expected !== undefined,
    use,
    traffic,
    activity: () => void (use.touches += 1),
    markDraining: Effect.fnUntraced(function* (end: Termination) {
      if (!info.ephemeral) yield* Effect.ignore(saveEnding(paths, info.name, vm.identity, expected ?? end))
      yield* Effect.ignore(transition(db, info.id, "draining", yield* Clock.currentTimeMillis))
    }),
    kill: vm.kill,
    network: vm.network,
    ports: vm.ports,
    pausing,
    measured: {
      name: info.name,
      cpus: info.config.cpus,
      pid: vm.identity.pid,
      directory: paths.sandbox(info.name).directory,
      guest: pausing.stats,
      traffic,
      network: vm.network.counters
    }
  }
})

/** One that ended by itself at the last moment has a code; that of a VM which another process started is not known. */
const byForce = (end: Termination, exit: VmExit): Termination =>
  exit.code === undefined ? new Termination({ ...end, exitSignal: exit.signal ?? "SIGKILL" }) : end

const unexpectedEnd = (exit: VmExit): Termination =>
  new Termination({
    exitCode: exit.code ?? null,
    exitSignal: exit.signal ?? null,
    reason: "internal_error",
    detail: exit.signal === undefined ? "the VM ended by itself" : `the VM's process was ended by ${exit.signal}`
  })

/** Writes the state into the definition; the next command does what fails here. */
export const settleDefinition = Effect.fnUntraced(function* (info: SandboxInfo) {
  yield* Effect.ignore(settleMachine(yield* Database, yield* Paths, info.name))
})
