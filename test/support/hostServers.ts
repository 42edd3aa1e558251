/** Servers on the host's loopback that a guest talks to. */
import { pattern, writePattern } from "./tapPeer.ts"

export interface HostServer extends Disposable {
  readonly port: number
}

/** Takes all bytes, and at their end says their hash and count. */
export const hashServer = (hostname = "127.0.0.1"): HostServer => {
  const server = Bun.listen<{ hash: Bun.CryptoHasher; count: number }>({
    hostname,
    port: 0,
    allowHalfOpen: true,
    socket: {
      open: (socket) => {
        socket.data = { hash: new Bun.CryptoHasher("sha256"), count: 0 }
      },
      data: ({ data }, bytes) => {
        data.hash.update(bytes)
        data.count += bytes.length
      },
      end: (socket) => void socket.end(`${socket.data.hash.digest("hex")} ${socket.data.count}`)
    }
  })
  return { port: server.port, [Symbol.dispose]: () => server.stop(true) }
}

/** Sends the pattern and ends. */
export const patternServer = (mebibytes: number, hostname = "127.0.0.1"): HostServer => {
  const bytes = pattern()
  const go = (socket: Bun.Socket<{ mebibytes: number; at: number }>): void => {
    if (writePattern(bytes, socket.data, socket)) socket.end()
  }
  const server = Bun.listen<{ mebibytes: number; at: number }>({
    hostname,
    port: 0,
    socket: {
      open: (socket) => {
        socket.data = { mebibytes, at: 0 }
        go(socket)
      },
      drain: go,
      data: () => {}
    }
  })
  return { port: server.port, [Symbol.dispose]: () => server.stop(true) }
}
