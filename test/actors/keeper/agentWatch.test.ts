/** The watch over an agent, on a clock of the test's own. */

import { describe, expect } from "bun:test"
import { Deferred, Effect } from "effect"
import { TestClock } from "effect/testing"
import { AgentTimeoutMs, watchAgent } from "../../../src/actors/keeper/agentWatch.ts"
import type { KeptVm } from "../../../src/actors/keeper/runningVm.ts"
import { GuestChannelFailed } from "../../../src/domain/errors/vm.ts"
import { Termination } from "../../../src/domain/sandbox/termination.ts"
import { it } from "../../support/it.ts"

const start = Effect.fnUntraced(function* (ping: Effect.Effect<void, GuestChannelFailed>) {
  let still: Deferred.Deferred<void> | undefined
  const ended = yield* Deferred.make<Termination>()
  let expected: Termination | undefined
  const vm = {
    channel: { ping },
    ended,
    pausing: {
      paused: () => still !== undefined,
      running: Effect.suspend(() => (still === undefined ? Effect.void : Deferred.await(still)))
    },
    expect: (end: Termination) => void (expected ??= end),
    ending: () => expected !== undefined,
    kill: Effect.suspend(() => Effect.asVoid(Deferred.succeed(ended, expected!)))
  } as unknown as KeptVm
  yield* Effect.forkChild(Effect.provideService(watchAgent(vm), AgentTimeoutMs, 60_000), { startImmediately: true })
  const pause = Effect.sync(() => {
    still = Deferred.makeUnsafe<void>()
  })
  const unpause = Effect.sync(() => {
    Deferred.doneUnsafe(still!, Effect.void)
    still = undefined
  })
  return { vm, pause, unpause, isUp: Effect.map(Deferred.isDone(ended), (done) => !done) }
})

describe("a VM's agent is watched", () => {
  it.effect("and one that answers late is let live", () =>
    Effect.gen(function* () {
      const { isUp } = yield* start(Effect.sleep("59 seconds"))
      yield* TestClock.adjust("1 hour")
      expect(yield* isUp).toBe(true)
    })
  )

  it.effect("and a mute one is ended, a time after it was asked", () =>
    Effect.gen(function* () {
      const { vm, isUp } = yield* start(Effect.never)
      yield* TestClock.adjust("74 seconds")
      expect(yield* isUp).toBe(true)
      yield* TestClock.adjust("1 second")
      expect(yield* Deferred.await(vm.ended)).toMatchObject({
        reason: "agent_unresponsive",
        exitSignal: "SIGKILL",
        detail: "its agent did not answer for 1m"
      })
    })
  )

  it.effect("and so is one whose connection is broken while its machine lives", () =>
    Effect.gen(function* () {
      const { vm } = yield* start(Effect.fail(new GuestChannelFailed({ reason: "broken" })))
      yield* TestClock.adjust("75 seconds")
      expect(yield* Deferred.await(vm.ended)).toMatchObject({ reason: "agent_unresponsive" })
    })
  )

  it.effect("but one that stands still has all the time after it runs on", () =>
    Effect.gen(function* () {
      const { isUp, pause, unpause } = yield* start(Effect.never)
      yield* TestClock.adjust("50 seconds")
      yield* pause
      yield* TestClock.adjust("1 hour")
      expect(yield* isUp).toBe(true)
      yield* unpause
      yield* TestClock.adjust("59 seconds")
      expect(yield* isUp).toBe(true)
      yield* TestClock.adjust("31 seconds")
      expect(yield* isUp).toBe(false)
    })
  )

  it.effect("but nobody cuts an end short that somebody asked for", () =>
    Effect.gen(function* () {
      const { vm, isUp } = yield* start(Effect.never)
      const asked = new Termination({ exitCode: null, exitSignal: null, reason: "shutdown_requested", detail: null })
      vm.expect(asked)
      yield* TestClock.adjust("1 hour")
      expect(yield* isUp).toBe(true)
      yield* Deferred.succeed(vm.ended, asked)
    })
  )
})
