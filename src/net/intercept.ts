/**
 * Gives a flow's bytes to an interceptor as a real socket: one end of a socket pair, whose other end is the flow's upstream. (TLS of Bun
 * takes certificates by name only on real sockets.)
 */
import net from "node:net"
import { socketPair } from "../ffi/posix.ts"
import { adoptUpstream } from "./dial/hostTcp.ts"
import type { Dialed, Intercept, Upstream, UpstreamHandler } from "./types.ts"

export const interceptFlow = async (
  start: NonNullable<ReturnType<Intercept>>,
  handler: UpstreamHandler
): Promise<Dialed<Upstream>> => {
  try {
    const take = await start()
    const [near, far] = socketPair()
    const upstream = await adoptUpstream(near, { handler })
    const socket = new net.Socket({ allowHalfOpen: true })
    // Bun connects a socket to a descriptor, which its types do not name; it is connected at once and says nothing of it.
    socket.connect({ fd: far } as unknown as net.SocketConnectOpts)
    take(socket)
    return { _tag: "connected", upstream }
  } catch (cause) {
    return { _tag: "unreachable", reason: (cause as NodeJS.ErrnoException).code ?? (cause as Error).message }
  }
}
