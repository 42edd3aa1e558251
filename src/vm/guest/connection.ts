/** One stream to the guest over a unix socket, with real back pressure both ways. Knows nothing of frames. */
import { rmSync } from "node:fs"
import { type Cause, Effect, Queue, Stream } from "effect"
import { GuestChannelFailed } from "../../domain/errors/vm.ts"

/** One guest connection as a byte duplex. */
export interface GuestConnection {
  /** Completes when the kernel has taken all bytes; calls are served in order. Interrupting it never tears them. */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, GuestChannelFailed>
  /** Bytes from the guest; ends at end of file. Can be run once. */
  readonly incoming: Stream.Stream<Uint8Array, GuestChannelFailed>
  /** Ends the connection; what was written stays on its way. */
  readonly close: Effect.Effect<void>
}

/** Why a write fails after the other side has gone. */
export const connectionClosed = "the connection is closed"

/** Unread bytes above which the socket is not read, and below which it is read again. */
const unreadBytesHigh = 262_144
const unreadBytesLow = 131_072

/** Bytes on their way out; `done` hears whether the kernel took them all. */
interface Outgoing {
  readonly bytes: Uint8Array
  at: number
  done: (taken: boolean) => void
}

/**
 * Callback side of a socket; its methods are the handlers that Bun calls.
 *
 * Invariants: bytes leave in the order of `send`, and one send is never torn: once its first byte is out, the rest
 * follows even when its caller was interrupted.
 */
export class SocketPipe {
  readonly queue = Effect.runSync(Queue.unbounded<Uint8Array, GuestChannelFailed | Cause.Done>())
  socket: Bun.Socket<SocketPipe> | undefined
  /** Sees the bytes before the queue does. */
  watch: ((bytes: Uint8Array) => void) | undefined
  private unread = 0
  private closed = false
  private discarding = false
  private outgoing: Array<Outgoing> = []
  private readonly closing: Array<() => void> = []

  onData(bytes: Uint8Array): void {
    if (this.closed || this.discarding) return
    this.watch?.(bytes)
    if (this.closed) return
    this.unread += bytes.length
    Queue.offerUnsafe(this.queue, bytes)
    if (this.unread > unreadBytesHigh) this.socket?.pause()
  }

  onDrain(): void {
    for (let next = this.outgoing[0]; next !== undefined && !this.closed; next = this.outgoing[0]) {
      // With an offset and no length Bun 1.4.5 throws a RangeError.
      const count = this.socket?.write(next.bytes, next.at, next.bytes.length - next.at) ?? 0
      if (count < 0) {
        this.onClose()
        return
      }
      next.at += count
      if (next.at < next.bytes.length) return
      this.outgoing.shift()
      next.done(true)
    }
  }

  onClose(): void {
    if (this.closed) return
    this.closed = true
    Queue.endUnsafe(this.queue)
    for (const left of this.outgoing.splice(0)) left.done(false)
    for (const run of this.closing.splice(0)) run()
  }

  /** Runs once, when the connection ends from either side. */
  onClosed(run: () => void): void {
    if (this.closed) run()
    else this.closing.push(run)
  }

  /** Throws away everything that still comes, so that the guest never waits for a reader. */
  discard(): void {
    this.discarding = true
    this.socket?.resume()
  }

  taken(count: number): void {
    const before = this.unread
    this.unread -= count
    if (before > unreadBytesLow && this.unread <= unreadBytesLow) this.socket?.resume()
  }

  end(): void {
    // A paused socket would never see the guest's own end.
    this.socket?.resume()
    this.socket?.end()
    this.onClose()
  }

  /** Sends bytes after all that was sent before; the result takes them back if not one of them is out. */
  send(bytes: Uint8Array, done: (taken: boolean) => void): () => void {
    if (this.closed) {
      done(false)
      return () => {}
    }
    const mine: Outgoing = { bytes, at: 0, done }
    if (this.outgoing.push(mine) === 1) this.onDrain()
    return () => {
      mine.done = () => {}
      if (mine.at === 0) this.outgoing = this.outgoing.filter((other) => other !== mine)
    }
  }
}

/** Handlers for `Bun.listen` and `Bun.connect` whose socket data is a {@link SocketPipe}. */
export const pipeHandlers: Bun.SocketHandler<SocketPipe> = {
  open: (socket) => {
    // An idle channel keeps no program from ending; what is awaited of it does (sdk/runtime.ts, and every main of ours).
    socket.unref()
    socket.data.socket = socket
  },
  data: (socket, bytes) => socket.data.onData(bytes),
  drain: (socket) => socket.data.onDrain(),
  close: (socket) => socket.data.onClose(),
  end: (socket) => socket.data.onClose(),
  error: (socket) => socket.data.end()
}

/** Listens on a unix socket, over a stale file in its place; `accept` gets each connection. Throws what Bun does. */
export const listenPipes = (path: string, accept: (pipe: SocketPipe) => void): Bun.UnixSocketListener<SocketPipe> => {
  rmSync(path, { force: true })
  const listener = Bun.listen<SocketPipe>({
    unix: path,
    data: undefined as never,
    socket: {
      ...pipeHandlers,
      open: (socket) => {
        socket.unref()
        socket.data = new SocketPipe()
        socket.data.socket = socket
        accept(socket.data)
      }
    }
  })
  listener.unref()
  return listener
}

/** The connection of a pipe. */
export const socketConnection = (pipe: SocketPipe): GuestConnection => ({
  write: (bytes) =>
    Effect.callback((resume) => {
      const takeBack = pipe.send(bytes, (taken) =>
        resume(taken ? Effect.void : Effect.fail(new GuestChannelFailed({ reason: connectionClosed })))
      )
      return Effect.sync(takeBack)
    }),
  incoming: Stream.fromQueue(pipe.queue).pipe(Stream.tap((bytes) => Effect.sync(() => pipe.taken(bytes.length)))),
  close: Effect.sync(() => pipe.end())
})
