/**
 * Connects TLS to a server over a connection that exists, and verifies it by name against the host's trust store. Resolves and dials
 * nothing.
 */
import type { Duplex } from "node:stream"
import tls from "node:tls"

/** Longest handshake, in milliseconds. */
const handshakeMs = 15_000

/** What the relays speak, in our order of preference. */
const spoken = ["h2", "http/1.1"] as const

export interface UpstreamOptions {
  readonly host: string
  /** What the guest offers. */
  readonly protocols: ReadonlyArray<string>
  readonly trust: tls.SecureContext
}

/** Resolves with a value of the emitter's event; rejects with its error, its end or after the time. */
export const handshake = (socket: tls.TLSSocket, event: "secure" | "secureConnect"): Promise<void> =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(() => settle(new Error("the handshake took too long")), handshakeMs)
    const closed = () => settle(new Error("the connection ended within the handshake"))
    const done = () => settle(undefined)
    const settle = (error: Error | undefined) => {
      clearTimeout(timer)
      socket.off(event, done)
      socket.off("error", settle)
      socket.off("close", closed)
      socket.off("end", closed)
      if (error === undefined) resolve()
      else reject(error)
    }
    socket.on(event, done)
    socket.on("error", settle)
    socket.on("close", closed)
    socket.on("end", closed)
  })

/** A verified connection; rejects with the reason. */
export const connectUpstream = async (server: Duplex, options: UpstreamOptions): Promise<tls.TLSSocket> => {
  const protocols = spoken.filter((protocol) => options.protocols.includes(protocol))
  const socket = tls.connect({
    socket: server,
    servername: options.host,
    secureContext: options.trust,
    rejectUnauthorized: true,
    ...(protocols.length === 0 ? {} : { ALPNProtocols: [...protocols] })
  })
  // Later errors are those of whoever reads and writes.
  socket.on("error", () => undefined)
  try {
    await handshake(socket, "secureConnect")
    if (!socket.authorized) throw new Error(String(socket.authorizationError ?? "its certificate is not trusted"))
    return socket
  } catch (error) {
    socket.destroy()
    server.destroy()
    throw error
  }
}
