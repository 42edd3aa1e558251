/** Talks to one address on the host over UDP. Resolves and checks nothing. */
import type { UdpHandler, UdpUpstream } from "../types.ts"

/** The upstream, or why it can not be had. */
export const connectUdp = async (address: string, port: number, handler: UdpHandler): Promise<UdpUpstream | string> => {
  let over = false
  try {
    const socket = await Bun.udpSocket({
      connect: { hostname: address, port },
      socket: {
        data: (_, bytes) => handler.data(bytes),
        // Of a connected socket: an ICMP message said that nobody is there.
        error: () => {
          if (!over) handler.refused()
        }
      }
    })
    return {
      // False when the host has no room: a datagram may be lost.
      send: (bytes) => {
        try {
          if (!over) socket.send(bytes)
        } catch {
          handler.refused()
        }
      },
      close: () => {
        if (over) return
        over = true
        socket.close()
      }
    }
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code ?? (cause as Error).message
  }
}
