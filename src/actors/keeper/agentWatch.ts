/**
 * Watches that a VM's agent answers, and ends a VM whose agent has been mute for too long. Ends no VM that is ending already: who
 * asked for the end has a deadline of their own, and an agent that writes out its disks answers nobody.
 */

import { Clock, Context, Deferred, Effect, Fiber, Option } from "effect"
import { formatDuration } from "../../domain/duration.ts"
import { predecessors, type SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { agentTimeoutMsDefault } from "../../domain/settings.ts"
import { Database } from "../../store/database/Database.ts"
import { terminate } from "../../store/database/sandboxes.ts"
import { settleMachine } from "../../store/database/syncDefinitions.ts"
import { Paths } from "../../store/files/Paths.ts"
import { awaitEnd, type ProcessIdentity, signalProcess } from "../../store/processes/processes.ts"
import type { KeptVm } from "./runningVm.ts"

const SIGKILL = 9

/** Longest time without an answer of the agent, in milliseconds; also for one that has to call again after its keeper was lost. */
export const AgentTimeoutMs = Context.Reference<number>("bunker/AgentTimeoutMs", {
  defaultValue: () => agentTimeoutMsDefault
})

/**
 * Ends a VM that lives and does not answer, and records that; its policy decides what comes then. For the holder of its keeper's lock:
 * nobody else then finds it dead first.
 */
export const endMute = Effect.fn("Keeper.endMute")(function* (
  info: SandboxInfo,
  identity: ProcessIdentity,
  detail: string
) {
  const db = yield* Database
  signalProcess(identity, SIGKILL)
  yield* awaitEnd(identity)
  const end = { exitCode: null, exitSignal: "SIGKILL", reason: "agent_unresponsive", detail } as const
  yield* terminate(db, info.id, predecessors("crashed"), "crashed", end, yield* Clock.currentTimeMillis)
  yield* Effect.ignore(settleMachine(db, yield* Paths, info.name))
})

/** Looks this often within the time whether there was an answer or a pause; asks again this soon after an answer. */
const looksPerTimeout = 4

/** Runs until the VM has ended, by itself or because its agent was mute. A VM that stands still may be mute for as long as it does. */
export const watchAgent = Effect.fn("Keeper.watchAgent")(function* (vm: KeptVm) {
  const timeoutMs = yield* AgentTimeoutMs
  const ended = Effect.as(Deferred.await(vm.ended), "ended" as const)
  const nothingFor = <A>(wait: Effect.Effect<A>) =>
    Effect.map(Effect.timeoutOption(wait, timeoutMs / looksPerTimeout), Option.isNone)
  // A connection that broke is news of a VM that ends, or of an agent that is beyond reach: either is known in time.
  const answer = Effect.catch(vm.channel.ping, () => Effect.never)

  /** Asks once, and answers how long the running VM was silent: less than the timeout once it has answered or ended. */
  const silence = Effect.scoped(
    Effect.gen(function* () {
      const asked = yield* Effect.forkScoped(answer)
      const heard = Effect.raceFirst(ended, Fiber.join(asked))
      let looks = 0
      while (looks < looksPerTimeout && (yield* nothingFor(heard))) {
        looks = vm.pausing.paused() ? 0 : looks + 1
        yield* Effect.raceFirst(ended, vm.pausing.running)
      }
      return looks
    })
  )

  while (yield* nothingFor(ended)) {
    yield* Effect.raceFirst(ended, vm.pausing.running)
    if ((yield* silence) < looksPerTimeout || vm.ending()) continue
    const detail = `its agent did not answer for ${formatDuration(timeoutMs)}`
    vm.expect(new Termination({ exitCode: null, exitSignal: "SIGKILL", reason: "agent_unresponsive", detail }))
    yield* vm.kill
  }
})
