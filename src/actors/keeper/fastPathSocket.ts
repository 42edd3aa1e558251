/**
 * Serves a keeper to the entry program (native/fastpath/README.md) on a socket of its own, in frames that a few hundred lines of C speak: one
 * request a connection, and for a command its bytes and signals. Knows fewer messages than the keeper and judges nothing: a request
 * that is not done is refused without a word, and the whole program, asked the same, says why.
 */

import fs from "node:fs"
import path from "node:path"
import { Deferred, Effect, Option, Queue, Schema, Stream } from "effect"
import { GuestChannelFailed } from "../../domain/errors/vm.ts"
import { type ExecEvent, ExecRequest, exitCodeOf } from "../../domain/sandbox/exec.ts"
import { EndTimeoutMs, type SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { attemptFile, temporaryName } from "../../store/files/files.ts"
import { Paths } from "../../store/files/Paths.ts"
import { type GuestConnection, listenPipes, type SocketPipe, socketConnection } from "../../vm/guest/connection.ts"
import {
  acknowledged,
  encodeAck,
  encodeFrame,
  encodeJson,
  type Frame,
  FrameDecoder,
  FrameType,
  frameHeaderBytes,
  jsonBytesMax,
  windowBytes
} from "../../vm/guest/frames.ts"
import { parsePayload } from "../../vm/guest/messages.ts"
import type { KeeperAddress } from "./protocol.ts"
import type { KeptVm } from "./runningVm.ts"

/** Connections at the same time; more are closed, and whoever asked goes the long way. */
const connectionsMax = 256
/** Time for a request to come, in milliseconds. */
const requestMs = 10_000
/** Bytes of frames that one connection may have said before they were taken: its request, or the window of its input. */
const unreadMax = jsonBytesMax + frameHeaderBytes
/** Signals of one connection on their way to its command; more of them say nothing new. */
const signalsMax = 64

const envelope = { protocol: Schema.Literal(1), name: Schema.String }
const { argv, env, cwd, user, stdin } = ExecRequest.fields

/** What the entry program asks; the names are those of the wire. */
const Request = Schema.Union([
  Schema.Struct({ ...envelope, op: Schema.Literal("exec"), argv, env, cwd, user, stdin }),
  Schema.Struct({ ...envelope, op: Schema.Literal("stop"), timeout_ms: EndTimeoutMs }),
  Schema.Struct({ ...envelope, op: Schema.Literal("kill") })
])
type Request = typeof Request.Type
type ExecOf = Extract<Request, { readonly op: "exec" }>
const decodeRequest = Schema.decodeUnknownOption(Request)
const decodeSignal = Schema.decodeUnknownOption(
  Schema.Struct({ signal: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 })) })
)

/** Listens for the life of the scope. The sandbox's directory gets a link to the socket, by which its name is enough to find it. */
export const serveEntry = Effect.fn("Keeper.serveEntry")(function* (
  info: SandboxInfo,
  vm: Pick<KeptVm, "pausing">,
  keeper: KeeperAddress
) {
  const paths = yield* Paths
  const socket = paths.run(info.id).entrySocket
  const link = paths.sandbox(info.name).entryLink
  const scope = yield* Effect.scope
  const run = Effect.runForkWith(yield* Effect.context<never>())
  let open = 0
  const accept = (pipe: SocketPipe): void => {
    if (open >= connectionsMax) {
      pipe.send(encodeJson(FrameType.Response, { ok: false }), () => pipe.end())
      return
    }
    open += 1
    pipe.onClosed(() => {
      open -= 1
    })
    const gone = Effect.callback<void>((resume) => pipe.onClosed(() => resume(Effect.void)))
    const kept = { name: info.name, paused: vm.pausing.paused, keeper }
    run(
      Effect.raceFirst(converse(socketConnection(pipe), kept), gone).pipe(
        Effect.ensuring(Effect.sync(() => pipe.end())),
        Effect.ignore,
        Effect.forkIn(scope)
      )
    )
  }
  yield* Effect.acquireRelease(
    attemptFile("listen on", socket, () => listenPipes(socket, accept)),
    (listener) =>
      Effect.sync(() => {
        listener.stop()
        fs.rmSync(socket, { force: true })
      })
  )
  // Renamed over the old one: a link that is there leads to a socket.
  yield* attemptFile("link", link, () => {
    const directory = path.dirname(link)
    const aside = temporaryName(directory, "entry")
    fs.symlinkSync(path.relative(directory, socket), aside)
    fs.renameSync(aside, link)
  })
})

interface Kept {
  readonly name: string
  readonly paused: () => boolean
  readonly keeper: KeeperAddress
}

const whyLost = (error: { readonly message: string }): string =>
  error instanceof GuestChannelFailed ? error.reason : error.message

const failed = (reason: string) => Effect.fail(new GuestChannelFailed({ reason }))

/** One connection, from its request to its end. What the other side may not say ends it. */
const converse = Effect.fn("Keeper.converse")(function* (connection: GuestConnection, { name, paused, keeper }: Kept) {
  const frames = yield* Queue.unbounded<Frame>()
  const run = Effect.runForkWith(yield* Effect.context<never>())
  const decoder = new FrameDecoder()
  let unread = 0
  let exec: number | undefined
  let signals = 0
  const window = new OutputWindow()

  const passSignal = (to: number, signal: number): void => {
    if (signals >= signalsMax) return
    signals += 1
    const passed = Effect.ensuring(
      keeper.Signal({ exec: to, signal }),
      Effect.sync(() => void (signals -= 1))
    )
    run(Effect.ignore(passed))
  }

  /** Never rests, so that no signal waits behind input that the command does not read; the window bounds what is held. */
  const take = (bytes: Uint8Array) => {
    const fault = decoder.push(bytes, (frame) => {
      if (frame.type === FrameType.Ack && window.acknowledge(acknowledged(frame))) return
      const signal = frame.type === FrameType.Event ? decodeSignal(parsePayload(frame.payload)) : Option.none()
      if (Option.isSome(signal) && exec !== undefined) return passSignal(exec, signal.value.signal)
      unread += frame.payload.length + frameHeaderBytes
      Queue.offerUnsafe(frames, frame)
    })
    if (fault !== undefined) return failed(fault)
    return unread > unreadMax ? failed("more was said than may wait") : Effect.void
  }

  const next = Effect.map(Queue.take(frames), (frame) => {
    unread -= frame.payload.length + frameHeaderBytes
    return frame
  })
  const say = (stream: 1 | 2, data: Uint8Array) => {
    const frame = encodeFrame(FrameType.Data, stream, data)
    return Effect.andThen(window.take(frame.length), connection.write(frame))
  }
  const answer = (ok: boolean) => connection.write(encodeJson(FrameType.Response, { ok }))

  /** Input to the command, acknowledged as it is taken. */
  const feed = Effect.fnUntraced(function* (id: number) {
    while (true) {
      const { type, payload } = yield* next
      if (type === FrameType.Eof) yield* Effect.ignore(keeper.CloseInput({ exec: id }))
      else if (type !== FrameType.Data) return yield* failed(`a frame of type ${type} does not belong here`)
      else {
        // What the command will never read counts as taken.
        yield* Effect.ignore(keeper.Input({ exec: id, data: payload }))
        yield* connection.write(encodeAck(0, payload.length + frameHeaderBytes))
      }
    }
  })

  const command = ({ argv, env, cwd, user, stdin }: ExecOf) => {
    const more = { ...(cwd === undefined ? {} : { cwd }), ...(user === undefined ? {} : { user }) }
    const started = Deferred.makeUnsafe<number>()
    const pass = (event: ExecEvent) => {
      switch (event._tag) {
        case "Started":
          exec = event.exec
          return Effect.andThen(answer(true), Deferred.succeed(started, event.exec))
        case "Stdout":
          return say(1, event.data)
        case "Stderr":
          return say(2, event.data)
        default:
          return connection.write(encodeJson(FrameType.Exit, { code: exitCodeOf(event) }))
      }
    }
    const whole = Stream.runForEach(keeper.Exec({ argv, env, stdin, tty: null, ...more }), pass).pipe(
      Effect.catch((error) =>
        exec === undefined
          ? answer(false)
          : connection.write(encodeJson(FrameType.Exit, { lost: whyLost(error).slice(0, 1000) }))
      )
    )
    return Effect.raceFirst(whole, Effect.flatMap(Deferred.await(started), feed))
  }

  const act = (request: Request) => {
    switch (request.op) {
      case "exec":
        return command(request)
      case "stop":
        return Effect.andThen(keeper.Stop({ timeoutMs: request.timeout_ms }), answer(true))
      case "kill":
        return Effect.andThen(keeper.Kill(), answer(true))
    }
  }

  const talk = Effect.gen(function* () {
    const { type, payload } = yield* Effect.timeout(next, requestMs)
    const request = type === FrameType.Request ? Option.getOrUndefined(decodeRequest(parsePayload(payload))) : undefined
    // A link can be older than what its number names now.
    if (request === undefined || request.name !== name) return yield* answer(false)
    if (request.op === "exec" && paused()) return yield* answer(false)
    return yield* act(request)
  })
  const reading = Effect.andThen(Stream.runForEach(connection.incoming, take), failed("it has gone"))
  yield* Effect.raceFirst(talk, reading)
})

/**
 * Bytes of frames of output on their way. Invariant: at most `windowBytes` of them are not acknowledged, so that they never stand in the
 * way of the frames behind them; one caller waits at a time.
 */
class OutputWindow {
  private inFlight = 0
  private waiting: (() => void) | undefined

  take(bytes: number): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const step = () => {
        if (this.inFlight + bytes > windowBytes) {
          this.waiting = step
          return
        }
        this.inFlight += bytes
        resume(Effect.void)
      }
      step()
      return Effect.sync(() => {
        this.waiting = undefined
      })
    })
  }

  /** False for more than was sent. */
  acknowledge(bytes: number): boolean {
    if (bytes > this.inFlight) return false
    this.inFlight -= bytes
    const step = this.waiting
    this.waiting = undefined
    step?.()
    return true
  }
}
