/**
 * Decides what of Bunker keeps a program's event loop alive: work that the program awaits, and nothing else. A sandbox that nobody
 * waits for ends with the program.
 */
import { Clock, Duration, Effect, Layer } from "effect"

/** Timers can wait no longer. */
const timerMsMax = 2 ** 31 - 1

/** Holds the event loop until the promise has settled. */
export const holding = async <A>(work: Promise<A>): Promise<A> => {
  const hold = setInterval(() => {}, timerMsMax)
  try {
    return await work
  } finally {
    clearInterval(hold)
  }
}

/** Holds the event loop for as long as the layer is there. */
export const heldEventLoop = Layer.effectDiscard(
  Effect.acquireRelease(
    Effect.sync(() => setInterval(() => {}, timerMsMax)),
    (hold) => Effect.sync(() => clearInterval(hold))
  )
)

/** Sleeps that hold no event loop: of what goes on behind the answers (renewals, watches, limits). */
export const idleSleeps = Layer.effect(
  Clock.Clock,
  Effect.map(Clock.clockWith(Effect.succeed), (clock): Clock.Clock => {
    const sleep = (ms: number): Effect.Effect<void> => {
      if (ms <= 0) return Effect.yieldNow
      if (!Number.isFinite(ms)) return Effect.never
      return Effect.callback((resume) => {
        const rest = ms > timerMsMax ? sleep(ms - timerMsMax) : Effect.void
        const timer = setTimeout(() => resume(rest), Math.min(ms, timerMsMax))
        timer.unref()
        return Effect.sync(() => clearTimeout(timer))
      })
    }
    return {
      currentTimeMillis: clock.currentTimeMillis,
      currentTimeNanos: clock.currentTimeNanos,
      monotonicTimeNanos: clock.monotonicTimeNanos,
      currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
      currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
      monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
      sleep: (duration) => sleep(Duration.toMillis(duration))
    }
  })
)
