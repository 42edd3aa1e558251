/**
 * Writes and answers ICMP and ICMPv6 (RFC 792, RFC 4443): echoes, and that something is unreachable. Sends nothing to the host.
 */
import type { Card } from "./card.ts"
import { addressLength, type Packet, protocolIcmp, protocolIcmp6 } from "./packet.ts"

const echoReply4 = 0
const unreachable4 = 3
const echoRequest4 = 8
const echoRequest6 = 128
const echoReply6 = 129
const unreachable6 = 1
/** Port unreachable: programs see a refused connection. */
const portUnreachable4 = 3
const portUnreachable6 = 4
/** Of the packet that could not be delivered: its header and first 8 bytes; for IPv6 what the smallest path carries. */
const quoteBytes4 = 28
const quoteBytes6 = 1232 - 8

const protocolOf = (family: 4 | 6): number => (family === 4 ? protocolIcmp : protocolIcmp6)

export const isEchoRequest = ({ at, bytes, end, family }: Packet): boolean =>
  end - at >= 8 && bytes[at] === (family === 4 ? echoRequest4 : echoRequest6) && bytes[at + 1] === 0

const sourceOf = (packet: Packet): Uint8Array =>
  Uint8Array.from(packet.bytes.subarray(packet.source, packet.source + addressLength(packet.family)))

export const destinationOf = (packet: Packet): Uint8Array =>
  Uint8Array.from(packet.bytes.subarray(packet.destination, packet.destination + addressLength(packet.family)))

/** Returns an echo to who sent it. */
export const sendEchoReply = (
  card: Card,
  family: 4 | 6,
  from: Uint8Array,
  to: Uint8Array,
  message: Uint8Array
): boolean => {
  const body = Buffer.from(message)
  body[0] = family === 4 ? echoReply4 : echoReply6
  body.writeUInt16BE(0, 2)
  return card.send({ family, protocol: protocolOf(family), from, to, body, checksumAt: 2 })
}

export const answerEcho = (card: Card, packet: Packet): boolean =>
  sendEchoReply(
    card,
    packet.family,
    destinationOf(packet),
    sourceOf(packet),
    packet.bytes.subarray(packet.at, packet.end)
  )

/** The start of a packet as it is quoted when it can not be delivered. */
export const quoteOf = ({ bytes, end, family, header }: Packet): Buffer =>
  Buffer.from(bytes.subarray(header, Math.min(end, header + (family === 4 ? quoteBytes4 : quoteBytes6))))

/** Tells the guest that a packet found nobody. */
export const sendUnreachable = (card: Card, family: 4 | 6, from: Uint8Array, quote: Uint8Array): boolean => {
  const body = Buffer.alloc(8 + quote.length)
  body[0] = family === 4 ? unreachable4 : unreachable6
  body[1] = family === 4 ? portUnreachable4 : portUnreachable6
  body.set(quote, 8)
  return card.send({ family, protocol: protocolOf(family), from, to: card.guest(family), body, checksumAt: 2 })
}
