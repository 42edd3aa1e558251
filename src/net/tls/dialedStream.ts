/** Makes a stream of Node's of what the dialer connects, with back pressure both ways. Dials nothing itself. */
import { Duplex } from "node:stream"
import type { Dialed, Upstream, UpstreamHandler } from "../types.ts"

/** Most bytes of either direction that wait before the other side is held up. */
const waitingBytes = 128 * 1024

/** Connects by `dial`; rejects with the reason where that fails. */
export const dialStream = async (dial: (handler: UpstreamHandler) => Promise<Dialed<Upstream>>): Promise<Duplex> => {
  let upstream: Upstream | undefined
  let pending: { readonly bytes: Uint8Array; at: number; readonly done: (error?: Error | null) => void } | undefined
  /** Sends what waits; more of it when the upstream has room again. */
  const send = (): void => {
    if (pending === undefined || upstream === undefined) return
    const { bytes, done } = pending
    const taken = upstream.write(bytes, pending.at, bytes.length - pending.at)
    pending.at += Math.max(0, taken)
    if (pending.at < bytes.length) return
    pending = undefined
    done()
  }
  const stream: Duplex = new Duplex({
    highWaterMark: waitingBytes,
    allowHalfOpen: true,
    read: () => upstream?.resume(),
    write: (chunk: Uint8Array, _encoding, done) => {
      pending = { bytes: chunk, at: 0, done }
      send()
    },
    final: (done) => {
      upstream?.end()
      done()
    },
    destroy: (error, done) => {
      upstream?.reset()
      done(error)
    }
  })
  // Errors are those of whoever reads and writes.
  stream.on("error", () => undefined)
  let finished = false
  const finish = (): void => {
    if (!finished) stream.push(null)
    finished = true
  }
  const dialed = await dial({
    data: (bytes) => {
      if (!stream.push(bytes)) upstream?.pause()
    },
    drain: send,
    end: finish,
    closed: (reset) => {
      if (reset) stream.destroy(new Error("the server ended the connection"))
      else finish()
    }
  })
  if (dialed._tag !== "connected") {
    stream.destroy()
    throw new Error(dialed._tag === "denied" ? "denied" : dialed.reason)
  }
  upstream = dialed.upstream
  send()
  return stream
}
