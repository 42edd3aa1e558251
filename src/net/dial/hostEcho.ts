/**
 * Sends ICMP echo messages to one address on the host and hears the answers, as an unprivileged process may. Resolves and checks nothing.
 */
import { parseAddress } from "../../domain/network/addressRanges.ts"
import { openEchoSocket } from "../../ffi/posix.ts"
import { adoptDescriptor } from "../descriptor.ts"
import type { UdpHandler, UdpUpstream } from "../types.ts"

const echoRequest4 = 8
const echoRequest6 = 128

/** Why there is no socket, in words where it is the host's setting. */
const reasonOf = (cause: unknown): string => {
  const { errno, message } = cause as { readonly errno?: string; readonly message: string }
  return errno === "EACCES" || errno === "EPERM"
    ? "this host lets its users send no ICMP echo (sysctl net.ipv4.ping_group_range)"
    : (errno ?? message)
}

/** The upstream, or why it can not be had. */
export const connectEcho = async (address: string, handler: UdpHandler): Promise<UdpUpstream | string> => {
  const bytes = parseAddress(address)
  if (bytes === undefined) return "no address"
  let over = false
  const refused = (): void => {
    if (over) return
    over = true
    handler.refused()
  }
  try {
    // A read takes one datagram, so a stream's events do.
    const socket = await adoptDescriptor(openEchoSocket(bytes), {
      data: (_, message) => handler.data(message),
      error: refused,
      close: refused
    })
    return {
      send: (message) => {
        // The kinds of the two families differ, and a name of one may be reached by the other.
        const sent = Buffer.from(message)
        sent[0] = bytes.length === 4 ? echoRequest4 : echoRequest6
        if (!over) socket.write(sent)
      },
      close: () => {
        over = true
        socket.terminate()
      }
    }
  } catch (cause) {
    return reasonOf(cause)
  }
}
