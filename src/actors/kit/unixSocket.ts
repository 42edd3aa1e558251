/**
 * Carries messages between processes of this machine: serves an actor on a unix socket, and gives an address over one. Loaded by
 * whoever has something to do with another process.
 *
 * Invariant: no socket of this keeps the process alive: what awaits an answer does that, or the main of a process of ours.
 */
import net from "node:net"
import * as NodeSocket from "@effect/platform-node-shared/NodeSocket"
import { Effect, Exit, Fiber, Layer, Scope } from "effect"
import { unixPathAddress } from "effect/net/NetAddress"
import { type Rpc, RpcClient, type RpcGroup, RpcServer } from "effect/rpc"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import { Socket, SocketServer } from "effect/socket"
import { type Address, forwarding, type Messages } from "./Actor.ts"

/** Frames on actor sockets: Effect's binary encoding, at most 16 MiB each. */
const wire = RpcSerialization.layerSchemaBinary()

/**
 * Serves an actor that already has an address on a unix socket. Each message is forwarded to the address, so remote and local
 * senders share its mailbox. The caller removes a stale socket file first and owns the mode of its directory.
 */
export const serveUnix = <Rpcs extends Rpc.Any>(
  address: Address<Rpcs>,
  protocol: RpcGroup.RpcGroup<Rpcs>,
  socketPath: string
) => {
  const forward = Object.fromEntries(
    [...protocol.requests.keys()].map((tag) => [
      tag,
      (payload: unknown) => (address as unknown as Record<string, (payload: unknown) => unknown>)[tag]!(payload)
    ])
  )
  return RpcServer.layer(protocol, { disableFatalDefects: true }).pipe(
    Layer.provide(protocol.toLayer(Effect.succeed(forward as never))),
    Layer.provide(RpcServer.layerProtocolSocketServer),
    Layer.provide([wire, Layer.effect(SocketServer.SocketServer, listen(socketPath))])
  )
}

/** Listens; a sender that goes without reading what it was told (ECONNRESET) has ended its connection, and that is no error. */
const listen = Effect.fnUntraced(function* (socketPath: string) {
  const waiting: Array<net.Socket> = []
  let take = (socket: net.Socket): void => void waiting.push(socket)
  const server = net.createServer({ pauseOnConnect: true })
  server.on("connection", (socket) => {
    socket.unref()
    // Heard by whoever reads; unheard it would end the process.
    socket.on("error", () => {})
    take(socket)
  })
  yield* Effect.acquireRelease(
    Effect.callback<void, SocketServer.SocketServerError>((resume) => {
      server.once("error", (cause) => {
        const reason = new SocketServer.SocketServerOpenError({ cause })
        resume(Effect.fail(new SocketServer.SocketServerError({ reason })))
      })
      server.listen(socketPath, () => resume(Effect.void))
    }),
    () =>
      Effect.sync(() => {
        for (const socket of waiting.splice(0)) socket.destroy()
        server.close()
      })
  )
  server.unref()
  const run = Effect.fnUntraced(function* <R, E, A>(handler: (socket: Socket.Socket) => Effect.Effect<A, E, R>) {
    const scope = yield* Scope.make()
    const start = Effect.runForkWith(yield* Effect.context<R>())
    take = (conn) => {
      const open = Effect.acquireRelease(Effect.succeed(conn), () => Effect.sync(() => conn.destroySoon()))
      const answered = Effect.flatMap(NodeSocket.fromDuplex(open, { tlsServer: true }), (socket) =>
        handler({ ...socket, reader: Effect.map(socket.reader, endWhenReset) })
      )
      Fiber.runIn(start(Effect.ignoreCause(answered)), scope)
    }
    for (const socket of waiting.splice(0)) take(socket)
    return yield* Effect.onExit(Effect.never, () => Scope.close(scope, Exit.void))
  })
  return SocketServer.SocketServer.of({ address: unixPathAddress(socketPath), run })
})

const endWhenReset = (reader: Socket.Reader): Socket.Reader => ({
  ...reader,
  pull: Effect.mapError(reader.pull, (error) =>
    error.reason._tag === "SocketReadError"
      ? new Socket.SocketError({ reason: new Socket.SocketCloseError({ code: 1006 }) })
      : error
  )
})

/**
 * The place "another process of this machine": an address over a unix socket, in the current scope. Messages that stream have a
 * connection each: a reader that stalls holds up its own stream, and no other sender. Connects when it is first needed.
 */
export const connectUnix = <Rpcs extends Rpc.Any>(protocol: RpcGroup.RpcGroup<Rpcs>, socketPath: string) =>
  Effect.gen(function* () {
    const scope = yield* Effect.scope
    const connect = connection(protocol, socketPath)
    const shared = yield* Effect.cached(Effect.uninterruptible(Scope.provide(connect, scope)))
    return forwarding(protocol, connect, shared)
  })

/**
 * How often a connection is asked whether it lives: never. The kernel says when a process of this machine has gone, and one whose answers
 * nobody reads yet can not see the answer to a question.
 */
const pingInterval = "20 days"

const dial = (socketPath: string) =>
  NodeSocket.fromDuplex(
    Effect.acquireRelease(
      Effect.callback<net.Socket, Socket.SocketError>((resume) => {
        const socket = net.connect(socketPath)
        socket.unref()
        socket.once("connect", () => resume(Effect.succeed(socket)))
        socket.on("error", (cause) => {
          const reason = new Socket.SocketOpenError({ kind: "Unknown", cause })
          resume(Effect.fail(new Socket.SocketError({ reason })))
        })
        return Effect.sync(() => socket.destroy())
      }),
      (socket) => Effect.sync(() => socket.destroySoon())
    )
  )

const connection = <Rpcs extends Rpc.Any>(protocol: RpcGroup.RpcGroup<Rpcs>, socketPath: string) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(
      RpcClient.layerProtocolSocket({ retryTransientErrors: false, pingInterval }).pipe(
        Layer.provide([wire, Layer.effect(Socket.Socket, dial(socketPath))])
      )
    )
    const client = yield* RpcClient.make(protocol).pipe(Effect.provideContext(context))
    return client as unknown as Messages
  })
