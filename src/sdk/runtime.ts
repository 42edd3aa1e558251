/** Runs effects of the embedding as promises, over the actors of this process or of a server. Starts nothing by itself. */
import { Cause, type Effect, Exit, Layer, ManagedRuntime, Option, Stream } from "effect"
import { actorsOf, type LayerOptions } from "./effect.ts"
import { type Logged, logging } from "./logging.ts"
import { holding, idleSleeps } from "./program/eventLoop.ts"
import { type Actors, remoteLayer, type ServerOptions } from "./remote.ts"
import { thrown } from "./thrown.ts"

/** Which Bunker a program uses. */
export interface PlaceOptions extends LayerOptions, Logged {
  /** Default: no server, everything in this process. With one, `home` means nothing, and paths of files that a sandbox mounts are the server's. */
  readonly server?: ServerOptions
}

export type Runtime = ManagedRuntime.ManagedRuntime<Actors, unknown>

export const runtimeOf = ({ home, log, nativeDir, server }: PlaceOptions): Runtime => {
  const heard = Layer.merge(logging(log), idleSleeps)
  const here = { ...(home === undefined ? {} : { home }), ...(nativeDir === undefined ? {} : { nativeDir }) }
  return server === undefined
    ? ManagedRuntime.make(Layer.provideMerge(actorsOf(here), heard))
    : ManagedRuntime.make(Layer.provideMerge(remoteLayer(server), heard))
}

/** Rejects with the typed error itself, not with a wrapper; with the reason of the signal when that ended it. */
export const run = async <A, E>(
  runtime: Runtime,
  effect: Effect.Effect<A, E, Actors>,
  signal?: AbortSignal
): Promise<A> => {
  signal?.throwIfAborted()
  const exit = await holding(runtime.runPromiseExit(effect, signal === undefined ? {} : { signal }))
  if (Exit.isSuccess(exit)) return exit.value
  if (signal?.aborted === true && Cause.hasInterruptsOnly(exit.cause)) throw signal.reason
  throw thrown(Option.getOrElse(Cause.findErrorOption(exit.cause), () => Cause.squash(exit.cause)))
}

const rethrow = (error: unknown): never => {
  throw thrown(error)
}

/** The values of a stream, taken at the pace of the loop; leaving it, or the signal, ends the stream. */
export async function* iterate<A, E>(
  runtime: Runtime,
  stream: Stream.Stream<A, E, Actors>,
  signal?: AbortSignal
): AsyncGenerator<A, void, void> {
  const context = await holding(runtime.context())
  signal?.throwIfAborted()
  const values = Stream.toAsyncIterableWith(stream, context)[Symbol.asyncIterator]()
  const aborted = Promise.withResolvers<never>()
  aborted.promise.catch(() => undefined)
  const abort = () => aborted.reject(signal?.reason)
  signal?.addEventListener("abort", abort, { once: true })
  try {
    while (true) {
      const next = await holding(Promise.race([values.next().catch(rethrow), aborted.promise]))
      if (next.done === true) return
      yield next.value
    }
  } finally {
    signal?.removeEventListener("abort", abort)
    await holding(Promise.resolve(values.return?.()))
  }
}

/** Asks actors that live for this one question. */
export const askOnce = async <A, E>(options: PlaceOptions, question: Effect.Effect<A, E, Actors>): Promise<A> => {
  const runtime = runtimeOf(options)
  try {
    return await run(runtime, question)
  } finally {
    await holding(runtime.dispose())
  }
}
