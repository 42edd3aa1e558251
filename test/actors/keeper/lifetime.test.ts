/** Limits of a sandbox's life, on a clock of the test's own. */

import { describe, expect } from "bun:test"
import { Deferred, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { enforceLimits } from "../../../src/actors/keeper/lifetime.ts"
import type { KeptVm } from "../../../src/actors/keeper/runningVm.ts"
import { fakeVm } from "../../support/fakeVm.ts"
import { it } from "../../support/it.ts"

const isUp = (vm: KeptVm) => Effect.map(Deferred.isDone(vm.ended), (done) => !done)
const pass = (ms: number) => TestClock.adjust(ms)

describe("limits", () => {
  it.effect("end a sandbox that lived its time, counted from its start", () =>
    Effect.gen(function* () {
      const vm = yield* fakeVm({ maxDurationMs: 60_000 })
      yield* pass(45_000)
      yield* Effect.forkChild(enforceLimits(vm, 0), { startImmediately: true })
      yield* pass(14_999)
      expect(yield* isUp(vm)).toBe(true)
      yield* pass(1)
      expect(yield* Deferred.await(vm.ended)).toMatchObject({
        reason: "max_duration_exceeded",
        exitSignal: null,
        detail: "it may live for 1m"
      })
    })
  )

  it.effect("count from now when a clock that ran ahead has dated the start", () =>
    Effect.gen(function* () {
      const vm = yield* fakeVm({ maxDurationMs: 60_000 })
      yield* Effect.forkChild(enforceLimits(vm, 365 * 86_400_000), { startImmediately: true })
      yield* pass(59_999)
      expect(yield* isUp(vm)).toBe(true)
      yield* pass(1)
      expect(yield* Deferred.await(vm.ended)).toMatchObject({ reason: "max_duration_exceeded" })
    })
  )

  it.effect("end one that does not listen by force", () =>
    Effect.gen(function* () {
      const vm = yield* fakeVm({ maxDurationMs: 1000 }, true)
      yield* Effect.forkChild(enforceLimits(vm, 0), { startImmediately: true })
      yield* pass(10_999)
      expect(yield* isUp(vm)).toBe(true)
      yield* pass(1)
      expect(yield* Deferred.await(vm.ended)).toMatchObject({ reason: "max_duration_exceeded", exitSignal: "SIGKILL" })
    })
  )

  it.effect("end an idle one; a command is never idle, a touch begins anew", () =>
    Effect.gen(function* () {
      const vm = yield* fakeVm({ idleTimeoutMs: 10_000 })
      yield* Effect.forkChild(enforceLimits(vm, 0), { startImmediately: true })
      vm.use.commands += 1
      yield* pass(100_000)
      expect(yield* isUp(vm)).toBe(true)
      vm.use.commands -= 1
      yield* pass(9000)
      vm.activity()
      yield* pass(9000)
      expect(yield* isUp(vm)).toBe(true)
      yield* pass(2000)
      expect(yield* Deferred.await(vm.ended)).toMatchObject({
        reason: "idle_timeout",
        detail: "nobody used it for 10s"
      })
    })
  )

  it.effect("the first of two decides", () =>
    Effect.gen(function* () {
      const vm = yield* fakeVm({ idleTimeoutMs: 30_000, maxDurationMs: 20_000 })
      yield* Effect.forkChild(enforceLimits(vm, 0), { startImmediately: true })
      yield* pass(20_000)
      expect(yield* Deferred.await(vm.ended)).toMatchObject({ reason: "max_duration_exceeded" })
    })
  )

  it.effect("none are no work; one longer than a timer may be is kept", () =>
    Effect.gen(function* () {
      yield* enforceLimits(yield* fakeVm({}), 0)
      const year = 366 * 86_400_000
      const vm = yield* fakeVm({ maxDurationMs: year })
      const watching = yield* Effect.forkChild(enforceLimits(vm, 0), { startImmediately: true })
      yield* pass(year - 1)
      expect(yield* isUp(vm)).toBe(true)
      yield* pass(1)
      yield* Fiber.join(watching)
    })
  )

  it.effect("a paused sandbox does not idle, and does not live longer", () =>
    Effect.gen(function* () {
      const state = { paused: true }
      const vm = yield* fakeVm({ idleTimeoutMs: 1000, maxDurationMs: 60_000 }, false, state)
      yield* Effect.forkChild(enforceLimits(vm, 0), { startImmediately: true })
      yield* pass(30_000)
      expect(yield* isUp(vm)).toBe(true)
      yield* pass(30_000)
      expect(yield* Deferred.await(vm.ended)).toMatchObject({ reason: "max_duration_exceeded" })
      const idle = yield* fakeVm({ idleTimeoutMs: 1000 }, false, state)
      yield* Effect.forkChild(enforceLimits(idle, 0), { startImmediately: true })
      yield* pass(5000)
      state.paused = false
      yield* pass(500)
      expect(yield* isUp(idle)).toBe(true)
      yield* pass(1000)
      expect(yield* Deferred.await(idle.ended)).toMatchObject({ reason: "idle_timeout" })
    })
  )
})
