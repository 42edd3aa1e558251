/** A TCP service of the test's own, as something in a guest would offer one. */
import net from "node:net"
import { Effect } from "effect"

/** A service on a free port; it goes with the scope. */
export const service = (onConnection: (socket: net.Socket) => void, host = "127.0.0.1") =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<net.Server>((resume) => {
        const server = net.createServer({ allowHalfOpen: true }, (socket) => {
          socket.on("error", () => {})
          onConnection(socket)
        })
        server.listen(0, host, () => resume(Effect.succeed(server)))
      }),
      (server) => Effect.sync(() => server.close())
    ),
    (server) => (server.address() as net.AddressInfo).port
  )
