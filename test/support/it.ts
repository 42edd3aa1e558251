/** Runs Effects as bun:test cases: `it.effect` on a test clock, `it.live` on the real one. */
import { test } from "bun:test"
import { Effect, Layer, type Scope } from "effect"
import { TestClock, TestConsole } from "effect/testing"

const environment = Layer.mergeAll(TestClock.layer(), TestConsole.layer)
type Body<E> = () => Effect.Effect<void, E, Scope.Scope>

export const it = {
  effect: <E>(name: string, body: Body<E>, timeoutMs?: number) =>
    test(
      name,
      () => Effect.runPromise(Effect.suspend(body).pipe(Effect.scoped, Effect.provide(environment))),
      timeoutMs
    ),
  live: <E>(name: string, body: Body<E>, timeoutMs?: number) =>
    test(name, () => Effect.runPromise(Effect.suspend(body).pipe(Effect.scoped)), timeoutMs)
}
