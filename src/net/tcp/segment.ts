/**
 * Reads TCP segments (RFC 9293, 3.1) and compares sequence numbers. Checksums are not looked at: offload may leave them unfinished.
 */
import type { Packet } from "../packet.ts"

export const FIN = 1
export const SYN = 2
export const RST = 4
export const PSH = 8
export const ACK = 16

export interface Segment {
  sourcePort: number
  destinationPort: number
  sequence: number
  acknowledgement: number
  flags: number
  window: number
  /** Data: position in the frame and length. */
  at: number
  length: number
  /** Options of a SYN: 0 and -1 when absent. */
  mss: number
  scale: number
  /** Selective acknowledgements are understood (RFC 2018). */
  sack: boolean
}

export const emptySegment = (): Segment => ({
  sourcePort: 0,
  destinationPort: 0,
  sequence: 0,
  acknowledgement: 0,
  flags: 0,
  window: 0,
  at: 0,
  length: 0,
  mss: 0,
  scale: -1,
  sack: false
})

/** False for what is no segment. */
export const readSegment = (segment: Segment, { bytes, at, end }: Packet): boolean => {
  if (end - at < 20) return false
  const headerBytes = (bytes[at + 12]! >> 4) * 4
  if (headerBytes < 20 || at + headerBytes > end) return false
  segment.sourcePort = bytes.readUInt16BE(at)
  segment.destinationPort = bytes.readUInt16BE(at + 2)
  segment.sequence = bytes.readInt32BE(at + 4)
  segment.acknowledgement = bytes.readInt32BE(at + 8)
  segment.flags = bytes[at + 13]! & 31
  segment.window = bytes.readUInt16BE(at + 14)
  segment.at = at + headerBytes
  segment.length = end - segment.at
  if (segment.flags & SYN) readOptions(segment, bytes, at + 20, at + headerBytes)
  return segment.sourcePort !== 0 && segment.destinationPort !== 0
}

const optionEnd = 0
const optionNothing = 1
const optionMss = 2
const optionScale = 3
const optionSack = 4
/** RFC 7323, 2.3. */
const scaleMax = 14

/** Options with a wrong length end the list: what stands behind them can not be found. */
const readOptions = (segment: Segment, bytes: Buffer, start: number, end: number): void => {
  segment.mss = 0
  segment.scale = -1
  segment.sack = false
  let at = start
  while (at < end && bytes[at] !== optionEnd) {
    if (bytes[at] === optionNothing) {
      at += 1
      continue
    }
    const length = at + 1 < end ? bytes[at + 1]! : 0
    if (length < 2 || at + length > end) return
    if (bytes[at] === optionMss && length === 4) segment.mss = bytes.readUInt16BE(at + 2)
    if (bytes[at] === optionScale && length === 3) segment.scale = Math.min(bytes[at + 2]!, scaleMax)
    if (bytes[at] === optionSack && length === 2) segment.sack = true
    at += length
  }
}

/** Sequence numbers are 32-bit integers that wrap; the distance from `b` to `a` is signed. */
export const distance = (a: number, b: number): number => (a - b) | 0
export const before = (a: number, b: number): boolean => ((a - b) | 0) < 0
export const after = (a: number, b: number): boolean => ((a - b) | 0) > 0
