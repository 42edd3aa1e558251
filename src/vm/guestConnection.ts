/** One stream to the guest over a unix socket, with real back pressure both ways. Knows nothing of frames. */
import { type Cause, Effect, Queue, Semaphore, Stream } from "effect"
import { GuestChannelFailed } from "../domain/errors/vm.ts"

/** One guest connection as a byte duplex. */
export interface GuestConnection {
  /** Completes when the kernel has taken all bytes; calls are served in order. */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, GuestChannelFailed>
  /** Bytes from the guest; ends at end of file. Can be run once. */
  readonly incoming: Stream.Stream<Uint8Array, GuestChannelFailed>
  /** Ends the connection; what was written stays on its way. */
  readonly close: Effect.Effect<void>
}

/** Unread bytes above which the socket is not read, and below which it is read again. */
const unreadBytesHigh = 262_144
const unreadBytesLow = 131_072

/** Callback side of a socket; its methods are the handlers that Bun calls. */
export class SocketPipe {
  readonly queue = Effect.runSync(Queue.unbounded<Uint8Array, GuestChannelFailed | Cause.Done>())
  socket: Bun.Socket<SocketPipe> | undefined
  /** Sees the bytes before the queue does. */
  watch: ((bytes: Uint8Array) => void) | undefined
  private unread = 0
  private closed = false
  private discarding = false
  private waiting: (() => void) | undefined
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
    const wake = this.waiting
    this.waiting = undefined
    wake?.()
  }

  onClose(): void {
    if (this.closed) return
    this.closed = true
    Queue.endUnsafe(this.queue)
    this.onDrain()
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

  /** Writes from `from` on as much as the kernel takes: the new offset, -1 when the connection is gone. */
  writeSome(bytes: Uint8Array, from: number): number {
    if (this.closed || !this.socket) return -1
    const count = from === bytes.length ? 0 : this.socket.write(bytes, from)
    return count < 0 ? -1 : from + count
  }

  whenWritable(wake: () => void): void {
    this.waiting = wake
  }
}

/** Handlers for `Bun.listen` and `Bun.connect` whose socket data is a {@link SocketPipe}. */
export const pipeHandlers: Bun.SocketHandler<SocketPipe> = {
  open: (socket) => {
    socket.data.socket = socket
  },
  data: (socket, bytes) => socket.data.onData(bytes),
  drain: (socket) => socket.data.onDrain(),
  close: (socket) => socket.data.onClose(),
  end: (socket) => socket.data.onClose(),
  error: (socket) => socket.data.onClose()
}

const broken = () => new GuestChannelFailed({ reason: "the connection is closed" })

/** The connection of a pipe. */
export const socketConnection = (pipe: SocketPipe): GuestConnection => {
  const turn = Semaphore.makeUnsafe(1)
  const writeAll = (bytes: Uint8Array) =>
    Effect.callback<void, GuestChannelFailed>((resume) => {
      let at = 0
      const step = () => {
        at = pipe.writeSome(bytes, at)
        if (at < 0) resume(Effect.fail(broken()))
        else if (at === bytes.length) resume(Effect.void)
        else pipe.whenWritable(step)
      }
      step()
    })
  return {
    // A frame that was half written can not be taken back.
    write: (bytes) => turn.withPermits(1)(Effect.uninterruptible(writeAll(bytes))),
    incoming: Stream.fromQueue(pipe.queue).pipe(Stream.tap((bytes) => Effect.sync(() => pipe.taken(bytes.length)))),
    close: Effect.sync(() => pipe.end())
  }
}
