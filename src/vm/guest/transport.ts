/**
 * Brings connections to the guest agent into being: by listening (libkrun, where the guest connects) or by connecting to
 * slots (QEMU, where each virtio port is a socket). Routes exec connections; does not interpret anything else.
 */
import { rmSync } from "node:fs"
import { Deferred, Effect, Queue, Schedule, type Scope } from "effect"
import { formatDuration } from "../../domain/duration.ts"
import { GuestChannelFailed } from "../../domain/errors/vm.ts"
import { type GuestConnection, listenPipes, pipeHandlers, SocketPipe, socketConnection } from "./connection.ts"
import { FrameDecoder, FrameType } from "./frames.ts"
import { decodeGuestHello } from "./messages.ts"

export type { GuestConnection } from "./connection.ts"

/** An exec's place: the slot that the agent must open, if any, and the connection once it is there. */
export interface ExecPlace {
  readonly slot: number | undefined
  readonly connection: Effect.Effect<GuestConnection, GuestChannelFailed>
}

/** How connections come into being: krun = unix listener (guest connects), qemu = slot sockets (host connects). */
export interface GuestTransport {
  /** Waits for the guest's (next) control connection. */
  readonly control: Effect.Effect<GuestConnection, GuestChannelFailed, Scope.Scope>
  /**
   * Reserves a place for the exec connection of this number; the scope ends both. Where places are few it waits for one, for
   * `waitMs` at most (default and most: a minute).
   */
  readonly exec: (exec: number, waitMs?: number) => Effect.Effect<ExecPlace, GuestChannelFailed, Scope.Scope>
  /** One pipe serves every host process in turn, so that a HELLO must be asked for. Absent: false. */
  readonly persistent?: boolean
  /** Places for connections besides control, absent where there is no end of them. */
  readonly slots?: number
  /** The agent has closed its end of a slot. */
  readonly slotFreed?: (slot: number) => Effect.Effect<void>
}

/** Connections that said nothing yet; more are refused. */
const unroutedMax = 64
const helloBytesMax = 4096
const helloTimeoutMs = 10_000

/** How long a slot that the agent does not give back is kept from reuse. */
const slotTimeoutMs = 2_000
const connectRetryMs = 20
/** Longest wait for a slot while all are in use, in milliseconds: who waits longer is told what to do. */
const slotWaitMs = 60_000

const failed = (reason: string) => new GuestChannelFailed({ reason })
const errorText = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

/** Listens on a unix socket; a stale file in its place is removed, its directory's mode is the caller's. */
export const unixListenerTransport = Effect.fn("Vm.unixListenerTransport")(function* (
  socketPath: string
): Effect.fn.Return<GuestTransport, GuestChannelFailed, Scope.Scope> {
  const controls = yield* Queue.unbounded<GuestConnection>()
  const execs = new Map<number, Deferred.Deferred<GuestConnection, GuestChannelFailed>>()
  let unrouted = 0
  let controlLive = false

  const route = (pipe: SocketPipe, connection: GuestConnection, payload: Uint8Array): boolean => {
    const hello = decodeGuestHello(payload)
    if (hello === undefined) return false
    if (hello.kind === "exec") {
      const place = execs.get(hello.exec)
      return place !== undefined && Deferred.doneUnsafe(place, Effect.succeed(connection))
    }
    // A second control connection could only be a process in the guest that plays the agent.
    if (controlLive) return false
    controlLive = true
    pipe.onClosed(() => {
      controlLive = false
    })
    Queue.offerUnsafe(controls, connection)
    return true
  }

  const accept = (pipe: SocketPipe): void => {
    const decoder = new FrameDecoder()
    const deadline = setTimeout(() => pipe.end(), helloTimeoutMs)
    deadline.unref()
    let seen = 0
    if (++unrouted > unroutedMax) pipe.end()
    pipe.watch = (bytes) => {
      let verdict: boolean | undefined
      const fault = decoder.push(bytes, (frame) => {
        verdict ??= frame.type === FrameType.Hello && route(pipe, socketConnection(pipe), frame.payload)
      })
      seen += bytes.length
      if (verdict === undefined && fault === undefined && seen <= helloBytesMax) return
      pipe.watch = undefined
      unrouted--
      clearTimeout(deadline)
      if (verdict !== true) pipe.end()
    }
    pipe.onClosed(() => {
      if (pipe.watch === undefined) return
      pipe.watch = undefined
      unrouted--
      clearTimeout(deadline)
    })
  }

  yield* Effect.acquireRelease(
    Effect.try({
      try: () => listenPipes(socketPath, accept),
      catch: (cause) => failed(`can not listen on ${socketPath}: ${errorText(cause)}`)
    }),
    (listener) =>
      Effect.sync(() => {
        listener.stop(true)
        rmSync(socketPath, { force: true })
      })
  )

  return {
    // Interruptible: who waits may give up, or race it against the VM's end.
    control: Effect.acquireRelease(Queue.take(controls), (connection) => connection.close, { interruptible: true }),
    exec: (exec) =>
      Effect.gen(function* () {
        const place = yield* Effect.acquireRelease(
          Effect.sync(() => {
            const made = Deferred.makeUnsafe<GuestConnection, GuestChannelFailed>()
            execs.set(exec, made)
            return made
          }),
          (made) =>
            Effect.gen(function* () {
              execs.delete(exec)
              const connected = yield* Deferred.isDone(made)
              if (connected) yield* Effect.ignore(Effect.flatMap(Deferred.await(made), (c) => c.close))
            })
        )
        return { slot: undefined, connection: Deferred.await(place) }
      })
  }
})

const connectPipe = (path: string): Effect.Effect<SocketPipe, GuestChannelFailed> =>
  Effect.tryPromise({
    try: async () => {
      const pipe = new SocketPipe()
      await Bun.connect<SocketPipe>({ unix: path, data: pipe, socket: pipeHandlers })
      return pipe
    },
    catch: (cause) => failed(`can not connect to ${path}: ${errorText(cause)}`)
  })

/**
 * Connects to one socket per slot; index = slot, 0 is control. The control connection is tried until it is there, so that
 * it can be asked for while QEMU still starts: bound it by a timeout. An exec waits for a free slot.
 */
export const slotTransport = Effect.fn("Vm.slotTransport")(function* (
  paths: ReadonlyArray<string>
): Effect.fn.Return<GuestTransport, GuestChannelFailed, Scope.Scope> {
  const [controlPath, ...execPaths] = paths
  if (controlPath === undefined || execPaths.length === 0) return yield* failed("no slots were given")
  const free = yield* Queue.unbounded<number>()
  const freed = new Map<number, Deferred.Deferred<void>>()
  const pipes = new Set<SocketPipe>()
  const endAll = Effect.sync(() => {
    for (const pipe of pipes) pipe.end()
  })
  yield* Effect.addFinalizer(() => endAll)
  for (const index of execPaths.keys()) Queue.offerUnsafe(free, index + 1)

  // A slot's next host process would read what its last exec still says: the agent must have closed it before.
  const giveBack = (slot: number, pipe: SocketPipe | undefined) =>
    Effect.gen(function* () {
      const done = freed.get(slot)
      if (pipe !== undefined && done !== undefined) {
        pipe.discard()
        yield* Effect.timeoutOption(Deferred.await(done), slotTimeoutMs)
        pipe.end()
      }
      freed.delete(slot)
      Queue.offerUnsafe(free, slot)
    })

  return {
    persistent: true,
    slots: execPaths.length,
    slotFreed: (slot) => {
      const done = freed.get(slot)
      return done === undefined ? Effect.void : Effect.asVoid(Deferred.succeed(done, undefined))
    },
    control: Effect.acquireRelease(
      Effect.retry(connectPipe(controlPath), Schedule.spaced(connectRetryMs)),
      (pipe) => Effect.sync(() => pipe.end()),
      { interruptible: true }
    ).pipe(Effect.map(socketConnection)),
    exec: (_exec, waitMs = slotWaitMs) =>
      Effect.gen(function* () {
        const slots = execPaths.length
        const duration = Math.min(waitMs, slotWaitMs)
        const busy = `all ${slots} places for commands, files and ports of this sandbox were in use for ${formatDuration(duration)}; end some, or give it more memory, which has more places (--memory)`
        const next = Effect.timeoutOrElse(Queue.take(free), { duration, orElse: () => Effect.fail(failed(busy)) })
        const held = yield* Effect.acquireRelease(
          Effect.map(next, (slot): { slot: number; pipe: SocketPipe | undefined } => {
            freed.set(slot, Deferred.makeUnsafe<void>())
            return { slot, pipe: undefined }
          }),
          (held) => Effect.asVoid(Effect.forkDetach(giveBack(held.slot, held.pipe))),
          { interruptible: true }
        )
        const pipe = yield* connectPipe(execPaths[held.slot - 1]!)
        held.pipe = pipe
        pipes.add(pipe)
        pipe.onClosed(() => pipes.delete(pipe))
        return { slot: held.slot, connection: Effect.succeed(keepOpen(pipe)) }
      })
  }
})

/** A slot's socket outlives its exec until the agent has closed the port; only the scope ends it. */
const keepOpen = (pipe: SocketPipe): GuestConnection => ({ ...socketConnection(pipe), close: Effect.void })
