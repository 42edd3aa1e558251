/** The control connection to the guest agent: HELLO, requests and their answers, events. Knows no operation's meaning. */
import { Deferred, Effect, Fiber, Schedule, type Scope, Stream } from "effect"
import { GuestChannelFailed } from "../../domain/errors/vm.ts"
import { connectionClosed, type GuestConnection } from "./connection.ts"
import { encodeFrame, encodeJson, type Frame, FrameDecoder, FrameType, jsonPayload, protocolVersion } from "./frames.ts"
import {
  decodeGuestEvent,
  decodeGuestHello,
  decodeGuestResponse,
  type GuestHello,
  type GuestResponse,
  parsePayload
} from "./messages.ts"
import type { GuestTransport } from "./transport.ts"

/** A RESPONSE with what else stood in it. */
export interface Answer {
  readonly response: GuestResponse
  readonly value: unknown
}

/** HELLO of the agent on the control connection. */
export type ControlHello = Extract<GuestHello, { kind: "control" }>

/** Requests and answers. */
export interface GuestControl {
  readonly hello: ControlHello
  /** Sends one request and waits for its answer, as long as that takes. */
  readonly request: (op: string, fields: Readonly<Record<string, unknown>>) => Effect.Effect<Answer, GuestChannelFailed>
  /** Tells the agent that this host process is done with the connection. */
  readonly sayClose: Effect.Effect<void>
  readonly closed: Effect.Effect<void>
}

/** Requests that wait for an answer; more are refused. */
const pendingMax = 4096
const knockMs = 250

const failed = (reason: string) => new GuestChannelFailed({ reason })

const controlEnded = "the control connection ended"
/** True when the guest has closed the connection without having said anything wrong. */
export const isHangUp = ({ reason }: GuestChannelFailed): boolean =>
  reason === controlEnded || reason === connectionClosed

/** Takes the guest's next control connection and completes on the agent's HELLO. */
export const openControl = Effect.fn("GuestChannel.openControl")(function* (
  transport: GuestTransport
): Effect.fn.Return<GuestControl, GuestChannelFailed, Scope.Scope> {
  const connection: GuestConnection = yield* transport.control
  const nonce = crypto.randomUUID()
  const greeted = yield* Deferred.make<ControlHello, GuestChannelFailed>()
  const closed = yield* Deferred.make<void>()
  const pending = new Map<number, Deferred.Deferred<Answer, GuestChannelFailed>>()
  const decoder = new FrameDecoder()
  let lastId = 0
  let fault: GuestChannelFailed | undefined

  const end = (error: GuestChannelFailed) =>
    Effect.suspend(() => {
      fault ??= error
      Deferred.doneUnsafe(greeted, Effect.fail(error))
      for (const answer of pending.values()) Deferred.doneUnsafe(answer, Effect.fail(error))
      pending.clear()
      Deferred.doneUnsafe(closed, Effect.void)
      return connection.close
    })

  const handle = (frame: Frame): Effect.Effect<void, GuestChannelFailed> => {
    const value = parsePayload(frame.payload)
    switch (frame.type) {
      case FrameType.Hello: {
        const hello = decodeGuestHello(frame.payload)
        if (hello?.kind !== "control") return Effect.fail(failed("the agent speaks another version of the protocol"))
        // What a port carried for the host process before us is answered with another nonce or none.
        const ours = transport.persistent ? hello.re === nonce : true
        return ours ? Effect.asVoid(Deferred.succeed(greeted, hello)) : Effect.void
      }
      case FrameType.Response: {
        const response = decodeGuestResponse(value)
        if (response === undefined) return Effect.fail(failed("a response is malformed"))
        const answer = pending.get(response.id)
        pending.delete(response.id)
        return answer === undefined ? Effect.void : Effect.asVoid(Deferred.succeed(answer, { response, value }))
      }
      case FrameType.Event: {
        const event = decodeGuestEvent(value)
        if (event === undefined) return Effect.fail(failed("an event is malformed"))
        return event.event === "slot_free" && event.slot !== undefined && transport.slotFreed !== undefined
          ? transport.slotFreed(event.slot)
          : Effect.void
      }
      default:
        return Effect.fail(failed(`a frame of type ${frame.type} on the control connection`))
    }
  }

  const take = (bytes: Uint8Array): Effect.Effect<void, GuestChannelFailed> => {
    const frames: Array<Frame> = []
    const malformed = decoder.push(bytes, (frame) => frames.push(frame))
    const handled = Effect.forEach(frames, handle, { discard: true })
    return malformed === undefined ? handled : Effect.andThen(handled, Effect.fail(failed(malformed)))
  }

  yield* Effect.addFinalizer(() => end(failed("the channel was closed")))
  yield* Stream.runForEach(connection.incoming, take).pipe(
    Effect.andThen(Effect.suspend(() => end(failed(controlEnded)))),
    Effect.catch(end),
    Effect.forkScoped
  )

  const knock = Effect.suspend(() =>
    connection.write(encodeJson(FrameType.Hello, { protocol: protocolVersion, nonce }))
  )
  if (transport.persistent) {
    // The agent may have closed the port with our first words in it: say them until they are answered.
    const knocking = yield* Effect.forkChild(Effect.repeat(knock, Schedule.spaced(knockMs)))
    yield* Deferred.await(greeted).pipe(Effect.ensuring(Fiber.interrupt(knocking)))
  } else {
    yield* Deferred.await(greeted)
    yield* connection.write(encodeJson(FrameType.Hello, { protocol: protocolVersion }))
  }

  const request = Effect.fnUntraced(function* (op: string, fields: Readonly<Record<string, unknown>>) {
    if (fault !== undefined) return yield* fault
    if (pending.size >= pendingMax) return yield* failed(`${pendingMax} requests wait for an answer`)
    const id = ++lastId
    const payload = jsonPayload({ id, op, ...fields })
    if (payload === undefined) return yield* failed(`the ${op} request is longer than 256 KiB`)
    const answer = yield* Deferred.make<Answer, GuestChannelFailed>()
    pending.set(id, answer)
    yield* connection
      .write(encodeFrame(FrameType.Request, 0, payload))
      .pipe(Effect.andThen(Deferred.await(answer)), Effect.ensuring(Effect.sync(() => pending.delete(id))))
    return yield* Deferred.await(answer)
  })

  return {
    hello: yield* Deferred.await(greeted),
    request,
    sayClose: Effect.ignore(connection.write(encodeFrame(FrameType.Close, 0))),
    closed: Deferred.await(closed)
  }
})
