/** Gives an operation on a file of a guest its input from a stream, and waits for its end. Opens no file. */
import { Deferred, Effect, Stream } from "effect"
import type { FileEvent } from "../../domain/sandbox/guestFiles.ts"

/** Bytes of one input message. */
const inputBytes = 262_144

/** Runs the operation to its end. A source that fails ends the operation before anything was replaced. */
export const feedFile = Effect.fnUntraced(function* <E1, E2, E3, E4, R1, R4>(
  operation: Stream.Stream<FileEvent, E1, R1>,
  input: (message: { readonly file: number; readonly data: Uint8Array }) => Effect.Effect<void, E2>,
  end: (message: { readonly file: number }) => Effect.Effect<void, E3>,
  source: Stream.Stream<Uint8Array, E4, R4>
) {
  const started = yield* Deferred.make<number>()
  const send = Effect.fnUntraced(function* (file: number, bytes: Uint8Array) {
    for (let at = 0; at < bytes.length; at += inputBytes) {
      yield* input({ file, data: bytes.subarray(at, at + inputBytes) })
    }
  })
  // Input that is not taken means that the operation has ended: its own words say why.
  const untilEnded = <A, E>(effect: Effect.Effect<A, E>) => Effect.catch(effect, () => Effect.never)
  const feeding = Effect.gen(function* () {
    const file = yield* Deferred.await(started)
    yield* Stream.runForEach(source, (bytes) => untilEnded(send(file, bytes)))
    yield* untilEnded(end({ file }))
    return yield* Effect.never
  })
  const running = Stream.runForEach(operation, (event) =>
    event._tag === "Started" ? Deferred.succeed(started, event.file) : Effect.void
  )
  yield* Effect.raceFirst(running, feeding)
})
