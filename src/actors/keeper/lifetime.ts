/**
 * Ends a sandbox that has lived or idled as long as it may (`max_duration`, `idle_timeout`). Measures nothing of the guest: who
 * uses a sandbox says so (see `VmUse`). The guest's agent does the same, later, where no process of the host does.
 */

import { Clock, Effect } from "effect"
import { formatDuration } from "../../domain/duration.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { stopVm } from "./Keeper.ts"
import type { KeptVm } from "./runningVm.ts"

/** Time for the guest to end in order, in milliseconds. */
const stopMs = 10_000
/** Looks for use at least this often and at most that often, in milliseconds. */
const lookMsMin = 50
const lookMsMax = 5000
/** Timers of the host can not wait longer, in milliseconds. */
const sleepMsMax = 2 ** 31 - 1

/** How much later the agent does what the host should have done, in milliseconds. */
export const agentSlackMs = 30_000

const limitEnd = (reason: "max_duration_exceeded" | "idle_timeout", detail: string) =>
  new Termination({ exitCode: null, exitSignal: null, reason, detail })

/** Waits until so much time has passed since; a clock that is put back makes it begin anew, at most. */
const sleepFor = (sinceMs: number, spanMs: number): Effect.Effect<void> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const since = Math.min(sinceMs, now)
    const left = since + spanMs - now
    return left <= 0 ? Effect.void : Effect.andThen(Effect.sleep(Math.min(left, sleepMsMax)), sleepFor(since, spanMs))
  })

/** Answers once nobody has used the sandbox for so long: no command ran, nobody touched it, it was not paused. */
const idleFor = Effect.fnUntraced(function* (vm: KeptVm, idleMs: number) {
  const lookMs = Math.min(lookMsMax, Math.max(lookMsMin, idleMs / 20))
  let touches = vm.use.touches
  let since = yield* Clock.currentTimeMillis
  while (true) {
    const now = yield* Clock.currentTimeMillis
    // Whoever pauses it wants it to stay.
    if (vm.use.commands > 0 || vm.use.touches !== touches || vm.pausing.paused()) since = now
    touches = vm.use.touches
    since = Math.min(since, now)
    if (now - since >= idleMs) return
    yield* Effect.sleep(lookMs)
  }
})

/** Runs until a limit ends the sandbox; without limits it answers at once. `startedAt`: unix milliseconds. */
export const enforceLimits = Effect.fn("Keeper.limits")(function* (vm: KeptVm, startedAt: number) {
  const { maxDurationMs, idleTimeoutMs } = vm.config
  const waits: Array<Effect.Effect<Termination>> = []
  if (maxDurationMs !== undefined) {
    const end = limitEnd("max_duration_exceeded", `it may live for ${formatDuration(maxDurationMs)}`)
    waits.push(Effect.as(sleepFor(startedAt, maxDurationMs), end))
  }
  if (idleTimeoutMs !== undefined) {
    const end = limitEnd("idle_timeout", `nobody used it for ${formatDuration(idleTimeoutMs)}`)
    waits.push(Effect.as(idleFor(vm, idleTimeoutMs), end))
  }
  if (waits.length === 0) return
  yield* stopVm(vm, yield* Effect.raceAllFirst(waits), stopMs)
})
