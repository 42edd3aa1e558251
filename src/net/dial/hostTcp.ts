/**
 * Connects to one address on the host over TCP, or to a socket of the host, as an `Upstream`. Resolves and checks nothing.
 *
 * Invariant: a connection that comes after its deadline is closed.
 */
import { adoptDescriptor } from "../descriptor.ts"
import type { Upstream, UpstreamHandler } from "../types.ts"

/** Peers of the host that vanished are noticed by the host's own probes. */
const keepAliveMs = 60_000

/** Where a socket's events go; it may be changed while the socket lives. */
export interface Ends {
  handler: UpstreamHandler
}

const events = (ends: Ends): Bun.SocketHandler<undefined> => {
  let over = false
  const closed = (reset: boolean): void => {
    if (over) return
    over = true
    ends.handler.closed(reset)
  }
  return {
    binaryType: "buffer",
    data: (_, bytes) => ends.handler.data(bytes),
    drain: () => ends.handler.drain(),
    end: () => ends.handler.end(),
    error: () => closed(true),
    close: (_, cause) => closed(cause !== undefined && cause !== null)
  }
}

const upstreamOf = (socket: Bun.Socket<undefined>): Upstream => ({
  write: (bytes, start, length) => socket.write(bytes, start, length),
  end: () => void socket.shutdown(),
  reset: () => void socket.terminate(),
  pause: () => void socket.pause(),
  resume: () => void socket.resume()
})

const reasonOf = (cause: unknown): string => {
  const { code, message } = cause as NodeJS.ErrnoException
  return code ?? message ?? String(cause)
}

/** The upstream, or why it can not be had as the name of errno. */
export const connectTcp = async (
  address: string,
  port: number,
  ends: Ends,
  timeoutMs: number,
  tls: { readonly serverName: string } | undefined = undefined
): Promise<Upstream | string> => {
  const deadline = Promise.withResolvers<string>()
  const timer = setTimeout(() => deadline.resolve("ETIMEDOUT"), timeoutMs)
  const connecting = Bun.connect({
    hostname: address,
    port,
    allowHalfOpen: true,
    socket: events(ends),
    ...(tls === undefined ? {} : { tls: { serverName: tls.serverName, rejectUnauthorized: true } })
  }).then(
    (socket) => {
      socket.setNoDelay(true)
      socket.setKeepAlive(true, keepAliveMs)
      return socket
    },
    (cause: unknown) => reasonOf(cause)
  )
  const first = await Promise.race([connecting, deadline.promise])
  clearTimeout(timer)
  if (typeof first !== "string") return upstreamOf(first)
  if (first === "ETIMEDOUT") void connecting.then((late) => (typeof late === "string" ? undefined : late.terminate()))
  return first
}

/** An upstream over a descriptor that is connected already. */
export const adoptUpstream = async (fd: number, ends: Ends): Promise<Upstream> =>
  upstreamOf(await adoptDescriptor(fd, events(ends), true))
