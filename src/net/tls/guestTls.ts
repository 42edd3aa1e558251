/**
 * Speaks TLS as a server over a guest's stream, with back pressure. Verifies no client.
 *
 * Bun's `TLSSocket` on the server's side takes whatever is written to it at once. So its ciphertext goes through a stream of ours that
 * knows how much has not left, and what writes plain text waits for that one.
 */
import { Duplex } from "node:stream"
import tls from "node:tls"
import type { HostCertificate } from "./authority.ts"
import { handshake } from "./upstream.ts"

/** Most bytes of either direction that wait in a stream before it asks for patience. */
const waitingBytes = 128 * 1024

/** Passes reads of one stream on to another, with back pressure. */
const feed = (from: Duplex, to: Duplex): void => {
  from.on("data", (chunk) => {
    if (!to.push(chunk)) from.pause()
  })
  from.on("end", () => to.push(null))
  from.on("error", (error) => to.destroy(error))
  from.on("close", () => to.destroy())
}

/** Ciphertext, between the guest's stream and the TLS socket. */
const makeTransport = (guest: Duplex): Duplex => {
  const transport: Duplex = new Duplex({
    highWaterMark: waitingBytes,
    read: () => void guest.resume(),
    write: (chunk, _encoding, done) => void guest.write(chunk, (error) => done(error ?? null)),
    final: (done) => {
      guest.end()
      done()
    },
    destroy: (error, done) => {
      guest.destroy()
      done(error)
    }
  })
  feed(guest, transport)
  return transport
}

const whenDrained = (transport: Duplex, done: (error?: Error | null) => void): void => {
  if (!transport.writableNeedDrain) {
    done()
    return
  }
  const settle = () => {
    transport.off("drain", settle)
    transport.off("close", settle)
    done(transport.destroyed ? new Error("the connection has ended") : null)
  }
  transport.on("drain", settle)
  transport.on("close", settle)
}

/** Plain text; resolves when the handshake is done, and rejects when it fails. */
export const acceptTls = async (guest: Duplex, certificate: HostCertificate, protocol: string): Promise<Duplex> => {
  const transport = makeTransport(guest)
  transport.on("error", () => undefined)
  const socket = new tls.TLSSocket(transport as never, { isServer: true, ...certificate, ALPNProtocols: [protocol] })
  socket.on("error", () => undefined)
  await handshake(socket, "secure")
  const plain: Duplex = new Duplex({
    highWaterMark: waitingBytes,
    read: () => void socket.resume(),
    write: (chunk, _encoding, done) => {
      socket.write(chunk)
      whenDrained(transport, done)
    },
    final: (done) => {
      socket.end()
      // The transport ends behind the socket's last bytes.
      if (transport.writableFinished || transport.destroyed) return done()
      transport.once("finish", () => done())
    },
    destroy: (error, done) => {
      socket.destroy()
      transport.destroy()
      done(error)
    }
  })
  plain.on("error", () => undefined)
  feed(socket, plain)
  return plain
}
