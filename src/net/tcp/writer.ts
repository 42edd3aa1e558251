/** Writes TCP segments into frames (RFC 9293, 3.1). Holds no state of flows. */
import type { Card } from "../card.ts"
import { protocolTcp } from "../packet.ts"
import type { ByteQueue } from "./queues.ts"
import { ACK, RST, SYN } from "./segment.ts"

/** Who talks. */
export interface FlowKey {
  readonly family: 4 | 6
  readonly guestPort: number
  readonly remote: Uint8Array
  readonly remotePort: number
}

/** Header fields of a segment to the guest. */
export interface Fields {
  readonly flags: number
  readonly sequence: number
  readonly acknowledgement: number
  readonly window: number
  /** Of a SYN: the window scale that is announced; -1: none. */
  readonly scale: number
}

const headerBytes = 20
const mssOption = 0x02040000
const scaleOption = 0x01030300
/** What a frame to us can hold. */
const mtu = 65_535

/** Writes a segment with data of the queue; false while the card takes none. */
export const writeSegment = (
  card: Card,
  { family, guestPort, remote, remotePort }: FlowKey,
  addressesSum: number,
  { acknowledgement, flags, scale, sequence, window }: Fields,
  queue: ByteQueue,
  offset: number,
  size: number
): boolean => {
  const syn = (flags & SYN) !== 0
  const header = headerBytes + (syn ? (scale < 0 ? 4 : 8) : 0)
  const at = card.begin(family, protocolTcp, remote, header + size)
  if (at < 0) return false
  const { out } = card
  out.writeUInt32BE(remotePort * 0x10000 + guestPort, at)
  out.writeInt32BE(sequence | 0, at + 4)
  out.writeInt32BE(flags & ACK ? acknowledgement : 0, at + 8)
  out.writeUInt32BE((header / 4) * 0x10000000 + flags * 0x10000 + window, at + 12)
  out.writeUInt32BE(0, at + 16)
  if (syn) {
    out.writeUInt32BE(mssOption + mtu - (family === 4 ? 40 : 60), at + 20)
    if (scale >= 0) out.writeUInt32BE(scaleOption + scale, at + 24)
  } else if (size > 0) queue.copyTo(offset, size, out, at + header)
  out.writeUInt16BE(card.transportChecksum(protocolTcp, addressesSum, at, header + size), at + 16)
  return true
}

/** Queues a RST; `acknowledgement` undefined: the segment carries none. False when there is no room for it. */
export const sendReset = (
  card: Card,
  { family, guestPort, remote, remotePort }: FlowKey,
  sequence: number,
  acknowledgement: number | undefined
): boolean =>
  sendBare(
    card,
    { family, guestPort, remote, remotePort },
    acknowledgement === undefined ? RST : RST | ACK,
    sequence,
    acknowledgement ?? 0
  )

/** Queues a segment without data, options or window. */
export const sendBare = (
  card: Card,
  { family, guestPort, remote, remotePort }: FlowKey,
  flags: number,
  sequence: number,
  acknowledgement: number
): boolean => {
  const body = Buffer.alloc(headerBytes)
  body.writeUInt32BE(remotePort * 0x10000 + guestPort, 0)
  body.writeInt32BE(sequence | 0, 4)
  body.writeInt32BE(acknowledgement | 0, 8)
  body.writeUInt32BE(0x50000000 + flags * 0x10000, 12)
  return card.send({ family, protocol: protocolTcp, from: remote, to: card.guest(family), body, checksumAt: 16 })
}
