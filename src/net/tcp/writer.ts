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
  /** Of a SYN: selective acknowledgements are understood. */
  readonly sack: boolean
  /** Of a segment without data: what came out of order. */
  readonly ranges: ReadonlyArray<readonly [start: number, end: number]>
}

/** Ranges that fit beside nothing else in the options. */
export const rangesMax = 4

const headerBytes = 20
const mssOption = 0x02040000
const scaleOption = 0x01030300
const sackPermittedOption = 0x01010402
const sackOption = 0x01010500
/** What a frame to us can hold. */
const mtu = 65_535

/** Writes a segment with data of the queue; false while the card takes none. */
export const writeSegment = (
  card: Card,
  { family, guestPort, remote, remotePort }: FlowKey,
  addressesSum: number,
  fields: Fields,
  queue: ByteQueue,
  offset: number,
  size: number
): boolean => {
  const { flags } = fields
  const header = headerBytes + optionBytes(fields)
  const at = card.begin(family, protocolTcp, remote, header + size)
  if (at < 0) return false
  const { out } = card
  out.writeUInt32BE(remotePort * 0x10000 + guestPort, at)
  out.writeInt32BE(fields.sequence | 0, at + 4)
  out.writeInt32BE(flags & ACK ? fields.acknowledgement : 0, at + 8)
  out.writeUInt32BE((header / 4) * 0x10000000 + flags * 0x10000 + fields.window, at + 12)
  out.writeUInt32BE(0, at + 16)
  if (header > headerBytes) writeOptions(out, at + headerBytes, fields, family)
  if (size > 0) queue.copyTo(offset, size, out, at + header)
  out.writeUInt16BE(card.transportChecksum(protocolTcp, addressesSum, at, header + size), at + 16)
  return true
}

const optionBytes = ({ flags, ranges, sack, scale }: Fields): number => {
  if (flags & SYN) return 4 + (scale < 0 ? 0 : 4) + (sack ? 4 : 0)
  return ranges.length === 0 ? 0 : 4 + ranges.length * 8
}

const writeOptions = (out: Buffer, start: number, { flags, ranges, sack, scale }: Fields, family: 4 | 6): void => {
  let at = start
  if (flags & SYN) {
    at = out.writeUInt32BE(mssOption + mtu - (family === 4 ? 40 : 60), at)
    if (scale >= 0) at = out.writeUInt32BE(scaleOption + scale, at)
    if (sack) out.writeUInt32BE(sackPermittedOption, at)
    return
  }
  at = out.writeUInt32BE(sackOption + 2 + ranges.length * 8, at)
  for (const [first, end] of ranges) at = out.writeInt32BE(end, out.writeInt32BE(first, at))
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
