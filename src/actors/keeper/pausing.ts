/**
 * Makes a VM stand still and run on: its process is stopped and continued (signal(7)), which holds for every engine. The guest does not
 * notice but by its clock, which is set right afterwards.
 *
 * Invariants: it is recorded before the VM stands still, and recorded as running only once it runs again, so that a keeper which is
 * killed in between leaves a VM that the next one finds paused, not mute; one change at a time.
 */
import { Clock, Deferred, Effect, Fiber, Option, type Scope, Semaphore } from "effect"
import type { PauseError } from "../../domain/errors/groups.ts"
import { GuestChannelFailed, WrongState } from "../../domain/errors/vm.ts"
import type { SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Database } from "../../store/database/Database.ts"
import { findSandbox, transition } from "../../store/database/sandboxes.ts"
import { isAlive, isStopped, type ProcessIdentity, signalProcess } from "../../store/processes/processes.ts"
import type { GuestRequests } from "../../vm/guest/GuestChannel.ts"
import type { GuestStats } from "../../vm/guest/messages.ts"

const SIGCONT = 18
const SIGSTOP = 19

/** How often the process is looked at until it stands still, in milliseconds. */
const lookMs = 5
/** Longest time for the guest to set its clock before whoever unpauses it is answered, in milliseconds. */
const clockMs = 10_000
/** Longest time for the numbers that stand for the guest while it is paused, in milliseconds. */
const statsMs = 1000

export interface Pausing {
  /** True while the VM stands still. */
  readonly paused: () => boolean
  readonly pause: Effect.Effect<void, PauseError>
  /** Answers when the guest has the right time. */
  readonly unpause: Effect.Effect<void, PauseError>
  /** Lets a paused VM run on, for its end: records nothing. */
  readonly thaw: Effect.Effect<void>
  /** Waits while the VM stands still. */
  readonly running: Effect.Effect<void>
  /** The guest's numbers; of a paused one the last. */
  readonly stats: Effect.Effect<GuestStats, GuestChannelFailed>
}

export interface PausingOptions {
  readonly info: SandboxInfo
  readonly process: ProcessIdentity
  readonly channel: GuestRequests
  /** It is paused already. */
  readonly paused: boolean
  /** The guest did not answer within `answerMs` after it ran on; absent: that is left to whoever asks it next. */
  readonly mute?: { readonly answerMs: number; readonly act: Effect.Effect<void> }
}

/** Stops the process and waits until it stands still; nothing when it has ended. */
export const stopProcess = (process: ProcessIdentity): Effect.Effect<void> =>
  Effect.suspend(() => {
    signalProcess(process, SIGSTOP)
    return Effect.repeat(Effect.sleep(lookMs), { while: () => isAlive(process) && !isStopped(process) })
  })

/** Lets a stopped process run on. */
export const continueProcess = (process: ProcessIdentity): void => void signalProcess(process, SIGCONT)

/** The state of one VM that is kept; the scope finishes what was begun. */
export const makePausing = Effect.fn("Keeper.pausing")(function* (
  options: PausingOptions
): Effect.fn.Return<Pausing, never, Database | Scope.Scope> {
  const { channel, info, mute, process } = options
  const db = yield* Database
  const scope = yield* Effect.scope
  const turn = yield* Semaphore.make(1)
  let still = options.paused ? Deferred.makeUnsafe<void>() : undefined
  let last: GuestStats | undefined

  const release = (): void => {
    continueProcess(process)
    if (still !== undefined) Deferred.doneUnsafe(still, Effect.void)
    still = undefined
  }

  const refuse = (operation: string, status: string, advice: string) =>
    Effect.fail(new WrongState({ sandbox: info.name, status, operation, advice }))

  /** In its turn, and to its end, whoever goes away meanwhile. */
  const whole = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.flatMap(Effect.forkIn(turn.withPermits(1)(effect), scope), Fiber.join)

  const pause = Effect.gen(function* () {
    if (still !== undefined) return yield* refuse("pause", "paused", "it stands still already")
    last = Option.getOrUndefined(yield* Effect.option(Effect.timeout(channel.stats, statsMs)))
    if (!(yield* transition(db, info.id, "paused", yield* Clock.currentTimeMillis))) {
      const record = yield* findSandbox(db, info.name)
      return yield* refuse("pause", record?.info.status ?? "gone", "only a running sandbox can be paused")
    }
    still = Deferred.makeUnsafe<void>()
    yield* stopProcess(process)
    if (!isAlive(process)) return yield* new GuestChannelFailed({ reason: "the VM has ended" })
  })

  const unpause = Effect.gen(function* () {
    if (still === undefined) return yield* refuse("unpause", "running", "it is not paused")
    release()
    yield* transition(db, info.id, "running", yield* Clock.currentTimeMillis)
    // The guest's time went on, or stood still, with the engine's: only the host's is right.
    const set = yield* Effect.option(Effect.timeout(channel.syncClock, mute?.answerMs ?? clockMs))
    if (Option.isSome(set) || mute === undefined) return
    yield* mute.act
    return yield* new GuestChannelFailed({ reason: "the guest's agent does not answer after the pause; it was ended" })
  })

  return {
    paused: () => still !== undefined,
    pause: whole(pause).pipe(Effect.withSpan("Keeper.pause")),
    unpause: whole(unpause).pipe(Effect.withSpan("Keeper.unpause")),
    thaw: whole(Effect.sync(() => (still === undefined ? undefined : release()))),
    running: Effect.suspend(() => (still === undefined ? Effect.void : Deferred.await(still))),
    stats: Effect.suspend(() => (still === undefined ? channel.stats : Effect.succeed(last ?? { uptime_ms: 0 })))
  }
})
