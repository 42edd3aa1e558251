/** The part of a keeper that works on files of its guest: one message per operation, and its input. Keeps nothing of them. */
import { Effect, Exit, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { FileFailed } from "../../domain/errors/guestIo.ts"
import { FileEvent, type FileOperation } from "../../domain/sandbox/guestFiles.ts"
import type { FileConnection } from "../../vm/guest/files.ts"
import type { GuestRequests } from "../../vm/guest/GuestChannel.ts"

/** The handlers over a channel; `counted` notes that an operation uses the sandbox for as long as it runs. */
export const fileHandlers = (
  channel: GuestRequests,
  counted: <A, E, R>(stream: Stream.Stream<A, E, R>) => Stream.Stream<A, E, R>
) => {
  const running = new Map<number, FileConnection>()
  let sequence = 0

  const find = (id: number): Effect.Effect<FileConnection, FileFailed> => {
    const found = running.get(id)
    return found === undefined
      ? Effect.fail(new FileFailed({ path: "", reason: "failed", detail: "the operation has ended" }))
      : Effect.succeed(found)
  }

  const start = (operation: FileOperation) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const id = (sequence += 1)
        yield* Effect.addFinalizer(() =>
          Effect.suspend(() => {
            running.delete(id)
            return Scope.close(scope, Exit.void)
          })
        )
        const connection = yield* channel.file(operation).pipe(Scope.provide(scope))
        running.set(id, connection)
        return Stream.concat(
          Stream.succeed(FileEvent.cases.Started.make({ file: id })),
          Stream.map(connection.output, (data) => FileEvent.cases.Data.make({ data }))
        )
      })
    )

  return {
    File: (operation: FileOperation) => Rpc.fork(counted(start(operation))),
    FileInput: (input: { readonly file: number; readonly data: Uint8Array }) =>
      Rpc.fork(Effect.flatMap(find(input.file), (connection) => connection.write(input.data))),
    FileEnd: (input: { readonly file: number }) =>
      Rpc.fork(Effect.flatMap(find(input.file), (connection) => connection.closeInput))
  }
}
