/**
 * Reads ethernet frames with IPv4 and IPv6 in them. Trusts nothing: what is not exactly as needed is dropped under a named reason.
 * Puts no fragments together: the card's MTU is 65,535, so only senders that insist on them make any.
 */

export const etherIpv4 = 0x0800
export const etherArp = 0x0806
export const etherIpv6 = 0x86dd

export const protocolIcmp = 1
export const protocolTcp = 6
export const protocolUdp = 17
export const protocolIcmp6 = 58

/** Why a frame was dropped; each is counted. */
export const dropReasons = [
  "etherType",
  "short",
  "source",
  "fragment",
  "options",
  "protocol",
  "tcpHeader",
  "tcpReset",
  "udpHeader",
  "icmp",
  "arp",
  "busy"
] as const
export type DropReason = (typeof dropReasons)[number]

/** One IP packet within a frame. One object is used again and again: nothing of it outlives the frame. */
export interface Packet {
  bytes: Buffer
  family: 4 | 6
  protocol: number
  /** Positions of the addresses (4 or 16 bytes) and of the IP header. */
  header: number
  source: number
  destination: number
  /** The transport's header and data. */
  at: number
  end: number
}

export const emptyPacket = (): Packet => ({
  bytes: Buffer.alloc(0),
  family: 4,
  protocol: 0,
  header: 0,
  source: 0,
  destination: 0,
  at: 0,
  end: 0
})

/** Reads an IPv4 packet (RFC 791) at `start`; options are skipped. */
export const readIpv4 = (packet: Packet, bytes: Buffer, start: number, end: number): DropReason | undefined => {
  if (end - start < 20 || bytes[start]! >> 4 !== 4) return "short"
  const headerBytes = (bytes[start]! & 15) * 4
  const total = bytes.readUInt16BE(start + 2)
  if (headerBytes < 20 || total < headerBytes || start + total > end) return "short"
  // More fragments, or not the first.
  if ((bytes.readUInt16BE(start + 6) & 0x3fff) !== 0) return "fragment"
  packet.bytes = bytes
  packet.family = 4
  packet.protocol = bytes[start + 9]!
  packet.header = start
  packet.source = start + 12
  packet.destination = start + 16
  packet.at = start + headerBytes
  packet.end = start + total
  return undefined
}

const hopByHop = 0
const routing = 43
const fragment = 44
const destinationOptions = 60
/** A sender needs none or one; more only keep us busy. */
const extensionsMax = 4

/** Reads an IPv6 packet (RFC 8200) at `start`; hop-by-hop and destination options are skipped, routing headers refused. */
export const readIpv6 = (packet: Packet, bytes: Buffer, start: number, end: number): DropReason | undefined => {
  if (end - start < 40 || bytes[start]! >> 4 !== 6) return "short"
  const total = 40 + bytes.readUInt16BE(start + 4)
  if (start + total > end) return "short"
  let next = bytes[start + 6]!
  let at = start + 40
  const last = start + total
  for (let extensions = 0; next === hopByHop || next === destinationOptions; extensions++) {
    if (extensions === extensionsMax) return "options"
    if (last - at < 8) return "short"
    next = bytes[at]!
    at += (bytes[at + 1]! + 1) * 8
    if (at > last) return "short"
  }
  if (next === fragment) return "fragment"
  if (next === routing) return "options"
  packet.bytes = bytes
  packet.family = 6
  packet.protocol = next
  packet.header = start
  packet.source = start + 8
  packet.destination = start + 24
  packet.at = at
  packet.end = last
  return undefined
}

/** True when `bytes` holds `other` at a position. */
export const equalAt = (bytes: Uint8Array, at: number, other: Uint8Array): boolean => {
  for (let index = 0; index < other.length; index++) if (bytes[at + index] !== other[index]) return false
  return true
}

export const addressLength = (family: 4 | 6): number => (family === 4 ? 4 : 16)
