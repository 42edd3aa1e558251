/** Moves bytes between streams of this process and files of a sandbox, over messages. Opens no file of the host. */
import { Deferred, Effect, Stream } from "effect"
import { VmSupervisor } from "./VmSupervisor.ts"

/** Bytes of one input message. */
const inputBytes = 262_144

/** The user of the guest that reads or writes, and the file. */
export interface FileTarget {
  readonly name: string
  readonly path: string
  readonly user?: string
}

/** The bytes of a file of a sandbox; with `tree`, of whatever is there, as records of a tree. */
export const readGuestFile = (target: FileTarget & { readonly tree?: boolean; readonly follow?: boolean }) =>
  Stream.unwrap(Effect.map(VmSupervisor, (vms) => vms.FileRead(target))).pipe(
    Stream.flatMap((event) => (event._tag === "Data" ? Stream.succeed(event.data) : Stream.empty))
  )

/** Writes a file of a sandbox, or a tree below a directory of it, from a stream. Nothing is replaced unless all of it came. */
export const writeGuestFile = Effect.fn("Files.write")(function* <E, R>(
  target: FileTarget & { readonly tree?: boolean; readonly owners?: boolean; readonly mode?: number },
  source: Stream.Stream<Uint8Array, E, R>
) {
  const vms = yield* VmSupervisor
  const { name } = target
  const started = yield* Deferred.make<number>()
  const send = (file: number, bytes: Uint8Array) =>
    Effect.gen(function* () {
      for (let at = 0; at < bytes.length; at += inputBytes) {
        yield* vms.FileInput({ name, file, data: bytes.subarray(at, at + inputBytes) })
      }
    })
  // Input that is not taken means that the operation has ended: its own words say why.
  const untilEnded = <A, F>(effect: Effect.Effect<A, F>) => Effect.catch(effect, () => Effect.never)
  const feed = Effect.gen(function* () {
    const file = yield* Deferred.await(started)
    yield* Stream.runForEach(source, (bytes) => untilEnded(send(file, bytes)))
    yield* untilEnded(vms.FileEnd({ name, file }))
    return yield* Effect.never
  })
  const events = Stream.runForEach(vms.FileWrite(target), (event) =>
    event._tag === "Started" ? Deferred.succeed(started, event.file) : Effect.void
  )
  yield* Effect.raceFirst(events, feed)
})
