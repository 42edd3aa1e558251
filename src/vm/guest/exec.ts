/**
 * One process in the guest, seen from the host: its events, its input within the ACK window, its end. Does not ask for
 * it: that is the control connection's business.
 */

import { type Cause, Deferred, Effect, Queue, type Scope, Semaphore, Stream } from "effect"
import { GuestChannelFailed } from "../../domain/errors/vm.ts"
import type { GuestConnection } from "./connection.ts"
import type { Answer } from "./control.ts"
import {
  acknowledged,
  dataBytesMax,
  encodeAck,
  encodeFrame,
  encodeJson,
  type Frame,
  FrameDecoder,
  FrameType,
  protocolVersion,
  windowBytes
} from "./frames.ts"
import { decodeGuestExit, decodeGuestHello, type GuestHello, parsePayload } from "./messages.ts"

/** What a process does; exactly one `Exit` or `Signaled` comes last. */
export type ExecEvent =
  | { readonly _tag: "Stdout"; readonly data: Uint8Array }
  | { readonly _tag: "Stderr"; readonly data: Uint8Array }
  | { readonly _tag: "Exit"; readonly code: number; readonly timedOut?: boolean }
  | { readonly _tag: "Signaled"; readonly signal: number }

/** Exit code of a command that was killed because its time was up, by the habit of timeout(1). */
const timedOutCode = 124

/** What a connection carries before its end: of a dialled one, also that the other side says no more. */
export type StreamEvent = ExecEvent | { readonly _tag: "Eof" }

/** Events that wait for a reader, each at most 64 KiB; above it the guest's process waits. */
const eventsMax = 16

const failed = (reason: string) => new GuestChannelFailed({ reason })

/** HELLO of the agent on an exec connection. */
export type ExecHello = Extract<GuestHello, { kind: "exec" }>

/** Whether the process outlives this connection: then the end of the scope says nothing to the agent. */
export interface Fate {
  kept: boolean
}

/** The exec connection after its HELLO. */
export interface ExecConnection {
  readonly hello: ExecHello
  readonly events: Stream.Stream<StreamEvent, GuestChannelFailed>
  readonly write: (data: Uint8Array) => Effect.Effect<void, GuestChannelFailed>
  readonly closeStdin: Effect.Effect<void, GuestChannelFailed>
  /** Of a process that is kept: so many bytes more of its output will never be asked for again. */
  readonly confirm: (bytes: number) => void
  /** Of such a process: its end will never be asked for again. */
  readonly confirmEnd: () => void
}

/** A connection of its own that the agent opened on request. */
export interface Opened extends ExecConnection {
  readonly number: number
  /** The agent's answer. */
  readonly value: unknown
}

/** Asks the agent for something that gets a connection of its own; the scope ends it. */
export type OpenStream = <E>(
  op: string,
  fields: Readonly<Record<string, unknown>>,
  refusal: (answer: Answer) => E,
  fate?: Fate
) => Effect.Effect<Opened, E | GuestChannelFailed, Scope.Scope>

/**
 * Exchanges HELLO on the connection, which lets the agent start the process, and pumps frames in the scope from then on.
 * Acknowledgements are seen as long as fewer than 16 events are unread: read events while you write.
 */
export const openExecConnection = Effect.fn("GuestChannel.openExec")(function* (
  connection: GuestConnection,
  exec: number,
  fate: Fate = { kept: false }
): Effect.fn.Return<ExecConnection, GuestChannelFailed, Scope.Scope> {
  const events = yield* Queue.bounded<StreamEvent, GuestChannelFailed | Cause.Done>(eventsMax)
  const greeted = yield* Deferred.make<ExecHello, GuestChannelFailed>()
  const input = new InputWindow()
  const say = (type: FrameType, stream: number, payload?: Uint8Array) =>
    Effect.ignore(connection.write(encodeFrame(type, stream, payload)))
  let unread = 0
  const decoder = new FrameDecoder()

  const fail = (reason: string) => {
    const error = failed(reason)
    input.end(error)
    Deferred.doneUnsafe(greeted, Effect.fail(error))
    return Effect.asVoid(Queue.fail(events, error))
  }

  const handle = (frame: Frame): Effect.Effect<void, GuestChannelFailed> => {
    switch (frame.type) {
      case FrameType.Hello: {
        const hello = decodeGuestHello(frame.payload)
        if (hello?.kind !== "exec" || hello.exec !== exec) return Effect.fail(failed("the HELLO of an exec is wrong"))
        // Said again until it is answered: what was read in between is not acknowledged.
        if (!input.inherit((hello.unread ?? 0) - unread))
          return Effect.fail(failed("more input was read than was sent"))
        unread = hello.unread ?? 0
        if (hello.stdin === false) input.close()
        return Effect.asVoid(Deferred.succeed(greeted, hello))
      }
      case FrameType.Data: {
        if (frame.stream !== 1 && frame.stream !== 2) return Effect.fail(failed(`data on stream ${frame.stream}`))
        const _tag = frame.stream === 1 ? "Stdout" : "Stderr"
        return Effect.asVoid(Queue.offer(events, { _tag, data: frame.payload }))
      }
      case FrameType.Ack:
        return input.acknowledge(acknowledged(frame))
          ? Effect.void
          : Effect.fail(failed("more input was acknowledged than sent"))
      case FrameType.Exit:
        return finish(frame.payload)
      case FrameType.Eof:
        return Effect.asVoid(Queue.offer(events, { _tag: "Eof" }))
      default:
        return Effect.fail(failed(`a frame of type ${frame.type} on an exec connection`))
    }
  }

  const finish = (payload: Uint8Array): Effect.Effect<void, GuestChannelFailed> => {
    const exit = decodeGuestExit(parsePayload(payload))
    if (exit === undefined) return Effect.fail(failed("the EXIT of an exec is malformed"))
    input.end(undefined)
    if ("error" in exit) return Effect.fail(failed(exit.message))
    const event: ExecEvent =
      "code" in exit
        ? { _tag: "Exit", code: exit.code }
        : exit.timeout === true
          ? { _tag: "Exit", code: timedOutCode, timedOut: true }
          : { _tag: "Signaled", signal: exit.signal }
    return Effect.gen(function* () {
      yield* Queue.offer(events, event)
      yield* Queue.end(events)
      if (!fate.kept) yield* say(FrameType.Close, 0)
    })
  }

  const take = (bytes: Uint8Array): Effect.Effect<void, GuestChannelFailed> => {
    const frames: Array<Frame> = []
    const fault = decoder.push(bytes, (frame) => frames.push(frame))
    const handled = Effect.forEach(frames, handle, { discard: true })
    return fault === undefined ? handled : Effect.andThen(handled, Effect.fail(failed(fault)))
  }

  // Tells the agent to end what still runs. Forked, because a guest that hangs must not hold up who gives up on it.
  yield* Effect.addFinalizer(() =>
    Effect.andThen(
      Effect.suspend(() => (fate.kept ? Effect.void : Effect.forkDetach(say(FrameType.Close, 0)))),
      Effect.suspend(() => fail("the exec was closed"))
    )
  )
  yield* Stream.runForEach(connection.incoming, take).pipe(
    Effect.andThen(Effect.suspend(() => fail("the exec connection ended before the process"))),
    Effect.catch((error) => Effect.andThen(fail(error.reason), connection.close)),
    Effect.forkScoped
  )
  const hello = yield* Deferred.await(greeted)
  yield* connection.write(encodeJson(FrameType.Hello, { protocol: protocolVersion }))

  const turn = Semaphore.makeUnsafe(1)
  const write = (data: Uint8Array) =>
    Effect.gen(function* () {
      for (let at = 0; at < data.length; ) {
        const granted = yield* input.take(Math.min(data.length - at, dataBytesMax))
        // The process is gone: nobody will ever read the rest.
        if (granted === 0) return
        yield* connection.write(encodeFrame(FrameType.Data, 0, data.subarray(at, at + granted)))
        at += granted
      }
    })

  let unconfirmed = 0
  let confirming = false
  const sayConfirmed = Effect.gen(function* () {
    while (unconfirmed > 0) {
      const frame = encodeAck(1, unconfirmed)
      unconfirmed = 0
      yield* Effect.ignore(connection.write(frame))
    }
    confirming = false
  })

  return {
    hello,
    confirm: (bytes) => {
      unconfirmed += bytes
      if (confirming) return
      confirming = true
      Effect.runFork(sayConfirmed)
    },
    confirmEnd: () => {
      fate.kept = false
      // At once: without it, the end of the connection is one more break.
      Effect.runFork(say(FrameType.Close, 0))
    },
    events: Stream.fromQueue(events),
    write: (data) => turn.withPermits(1)(write(data)),
    closeStdin: turn.withPermits(1)(
      Effect.suspend(() => (input.close() ? connection.write(encodeFrame(FrameType.Eof, 0)) : Effect.void))
    )
  }
})

/**
 * Bytes on their way to the process. Invariant: `inFlight` is what was granted and not acknowledged, at most
 * `windowBytes`; one caller waits at a time.
 */
class InputWindow {
  private inFlight = 0
  private closed = false
  private ended = false
  private fault: GuestChannelFailed | undefined
  private waiting: (() => void) | undefined

  /** Waits for room and takes up to `wanted` bytes of it; 0 when the process takes no more. */
  take(wanted: number): Effect.Effect<number, GuestChannelFailed> {
    return Effect.callback((resume) => {
      const step = () => {
        const room = Math.min(wanted, windowBytes - this.inFlight)
        if (this.fault !== undefined) resume(Effect.fail(this.fault))
        else if (this.closed || this.ended) resume(Effect.succeed(0))
        else if (room > 0) {
          this.inFlight += room
          resume(Effect.succeed(room))
        } else this.waiting = step
      }
      step()
      return Effect.sync(() => {
        this.waiting = undefined
      })
    })
  }

  /** Counts what an earlier connection sent and the process has not read; false when that can not be. */
  inherit(count: number): boolean {
    this.inFlight += count
    this.wake()
    return this.inFlight >= 0
  }

  acknowledge(count: number): boolean {
    this.inFlight -= count
    this.wake()
    return this.inFlight >= 0
  }

  /** False when the end was said before, or the process is gone. */
  close(): boolean {
    const first = !this.closed && !this.ended
    this.closed = true
    return first
  }

  end(fault: GuestChannelFailed | undefined): void {
    this.ended = true
    this.fault ??= fault
    this.wake()
  }

  private wake(): void {
    const step = this.waiting
    this.waiting = undefined
    step?.()
  }
}
