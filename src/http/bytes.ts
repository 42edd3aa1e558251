/**
 * Carries plain bytes over HTTP: a stream of them as the body of an answer, and the body of a request as a private file.
 * Knows no route. Nothing is held in memory beyond a few pieces.
 */
import { Effect, type Exit, Exit as Exits, Scope, Stream } from "effect"

type Run = <A, E>(effect: Effect.Effect<A, E>, signal: AbortSignal) => Promise<Exit.Exit<A, E>>

/** Makes a private file of a body, for as long as the scope lasts. */
export type SpoolBody = (
  body: AsyncIterable<Uint8Array>
) => Effect.Effect<string, { readonly _tag: string }, Scope.Scope>

/**
 * Bytes as they come. A failure before the first of them is answered by `failed`; a later one breaks the connection off, so that
 * no client takes a part for the whole.
 */
export const sendBytes = async <E>(
  bytes: Stream.Stream<Uint8Array, E>,
  mediaType: string,
  run: Run,
  signal: AbortSignal,
  failed: (exit: Exit.Exit<void, E>) => Response
): Promise<Response> => {
  const pipe = new TransformStream<Uint8Array, Uint8Array>()
  const writer = pipe.writable.getWriter()
  const gone = new AbortController()
  signal.addEventListener("abort", () => gone.abort())
  writer.closed.catch(() => gone.abort())
  const first = Promise.withResolvers<undefined>()
  const work = run(
    Stream.runForEach(bytes, (piece) => {
      first.resolve(undefined)
      return Effect.promise(() => writer.write(piece).catch(() => gone.abort()))
    }),
    gone.signal
  )
  const early = await Promise.race([first.promise, work])
  if (early !== undefined && Exits.isFailure(early)) return failed(early)
  void work.then((exit) =>
    (Exits.isSuccess(exit) ? writer.close() : writer.abort(new Error("cut off"))).catch(() => undefined)
  )
  return new Response(pipe.readable, { headers: { "content-type": mediaType } })
}

/** Makes a file of a request's body; `release` removes it. */
export const receiveBytes = async (
  request: Request,
  spool: SpoolBody,
  run: Run
): Promise<{ readonly file: Exit.Exit<string, { readonly _tag: string }>; readonly release: Effect.Effect<void> }> => {
  const scope = Scope.makeUnsafe()
  const body = (request.body ?? new Blob([]).stream()) as unknown as AsyncIterable<Uint8Array>
  const file = await run(Scope.provide(spool(body), scope), request.signal)
  return { file, release: Scope.close(scope, Exits.void) }
}
