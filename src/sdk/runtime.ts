/** Runs effects of the embedding as promises. Starts nothing by itself. */
import { Cause, type Effect, Exit, type ManagedRuntime, Option } from "effect"
import type { Bunker } from "../plugin/bunker.ts"

export type Runtime = ManagedRuntime.ManagedRuntime<Bunker, unknown>

/** Rejects with the typed error itself, not with a wrapper. */
export const run = async <A, E>(
  runtime: Runtime,
  effect: Effect.Effect<A, E, Bunker>,
  signal?: AbortSignal
): Promise<A> => {
  const exit = await runtime.runPromiseExit(effect, signal === undefined ? {} : { signal })
  if (Exit.isSuccess(exit)) return exit.value
  throw Option.getOrElse(Cause.findErrorOption(exit.cause), () => Cause.squash(exit.cause))
}
