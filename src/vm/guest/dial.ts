/** A TCP connection to a service inside the guest, seen from the host: bytes both ways, half-closes, resets. Listens nowhere. */
import { Effect, type Scope, Stream } from "effect"
import { PortRefused } from "../../domain/errors/guestIo.ts"
import { GuestChannelFailed } from "../../domain/errors/vm.ts"
import type { OpenStream, StreamEvent } from "./exec.ts"

/** A connection that a service in the guest has accepted. Closing its scope before its end resets it. */
export interface DialedConnection {
  /**
   * Bytes of the service, and one `End` when it says no more. Goes on after that until the connection is over: ends when both
   * directions have ended, fails when the service has reset it. Run it once; what is not read holds the service back.
   */
  readonly incoming: Stream.Stream<Uint8Array | "End", GuestChannelFailed>
  /** Waits for the window. */
  readonly write: (data: Uint8Array) => Effect.Effect<void, GuestChannelFailed>
  /** Says that nothing more comes from this side. */
  readonly end: Effect.Effect<void, GuestChannelFailed>
}

export const dialGuest = Effect.fn("GuestChannel.dial")(function* (
  open: OpenStream,
  port: number
): Effect.fn.Return<DialedConnection, PortRefused | GuestChannelFailed, Scope.Scope> {
  const opened = yield* open("dial", { port }, (answer) => {
    return new PortRefused({ port, reason: answer.response.message ?? "the agent gave no reason" })
  })
  const take = (event: StreamEvent): Effect.Effect<ReadonlyArray<Uint8Array | "End">, GuestChannelFailed> => {
    switch (event._tag) {
      case "Stdout":
        return Effect.succeed([event.data])
      case "Eof":
        return Effect.succeed(["End"])
      case "Exit":
        return Effect.succeed([])
      default:
        return Effect.fail(
          new GuestChannelFailed({ reason: "a connection to a port says what only a command may say" })
        )
    }
  }
  return {
    incoming: Stream.flattenIterable(Stream.mapEffect(opened.events, take)),
    write: opened.write,
    end: opened.closeStdin
  }
})
