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

/** The pieces of a body up to a number of bytes; says when there were more. */
async function* bounded(
  body: AsyncIterable<Uint8Array>,
  bytesMax: number,
  exceeded: () => void
): AsyncGenerator<Uint8Array> {
  let bytes = 0
  for await (const piece of body) {
    bytes += piece.length
    if (bytes > bytesMax) return exceeded()
    yield piece
  }
}

export interface Received {
  readonly file: Exit.Exit<string, { readonly _tag: string }>
  /** Removes the file. */
  readonly release: Effect.Effect<void>
  /** There was more than may be: the file has a part of it. */
  readonly tooLong: boolean
}

/** Makes a file of a request's body, of `bytesMax` bytes at most. */
export const receiveBytes = async (
  request: Request,
  spool: SpoolBody,
  run: Run,
  bytesMax: number = Number.POSITIVE_INFINITY
): Promise<Received> => {
  const scope = Scope.makeUnsafe()
  const body = (request.body ?? new Blob([]).stream()) as unknown as AsyncIterable<Uint8Array>
  let tooLong = false
  const pieces = bounded(body, bytesMax, () => {
    tooLong = true
  })
  const file = await run(Scope.provide(spool(pieces), scope), request.signal)
  return { file, release: Scope.close(scope, Exits.void), tooLong }
}
