/**
 * Parses one 512-byte tar header block and the numbers in it (POSIX.1-1988 ustar, POSIX.1-2001 pax, GNU, star, V7).
 * Keeps names as binary strings. Does not follow extended headers.
 */
import { RejectedInput } from "./rejected.ts"

export const TAR_BLOCK = 512

/** What the fixed header says. Text fields are binary strings. */
export interface RawHeader {
  readonly name: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly size: number
  readonly mtime: number
  /** The character at offset 156; NUL for a file or directory of a writer before POSIX. */
  readonly typeflag: string
  readonly linkName: string
  readonly devMajor: number
  readonly devMinor: number
  readonly format: "v7" | "ustar" | "gnu" | "star"
}

const text = (block: Buffer, at: number, length: number): string => {
  const end = block.indexOf(0, at)
  return block.toString("latin1", at, end === -1 || end > at + length ? at + length : end)
}

/** An octal number padded with spaces and NULs, or, with the top bit set, a big-endian two's complement one (GNU, star). */
export const parseNumber = (block: Buffer, at: number, length: number, what: string): number => {
  const first = block[at]!
  if (first & 0x80) {
    let value = first & 0x40 ? (first & 0x7f) - 0x80 : first & 0x7f
    for (let i = 1; i < length; i++) value = value * 256 + block[at + i]!
    if (!Number.isSafeInteger(value)) throw new RejectedInput(`the ${what} of a tar header is too large`)
    return value
  }
  let i = at
  const end = at + length
  while (i < end && (block[i] === 0x20 || block[i] === 0)) i++
  let value = 0
  for (; i < end; i++) {
    const digit = block[i]! - 0x30
    if (digit < 0 || digit > 7) break
    value = value * 8 + digit
  }
  for (; i < end; i++) {
    if (block[i] === 0) break
    if (block[i] !== 0x20) throw new RejectedInput(`the ${what} of a tar header is not a number`)
  }
  return value
}

/** Sum of the header with its own field taken as spaces; some old writers summed signed bytes. */
const checksumFits = (block: Buffer): boolean => {
  let unsigned = 0
  let signed = 0
  for (let i = 0; i < TAR_BLOCK; i++) {
    const byte = i >= 148 && i < 156 ? 0x20 : block[i]!
    unsigned += byte
    signed += byte > 127 ? byte - 256 : byte
  }
  const stored = parseNumber(block, 148, 8, "checksum")
  return stored === unsigned || stored === signed
}

export const isZeroBlock = (block: Buffer): boolean => {
  for (let i = 0; i < TAR_BLOCK; i++) if (block[i] !== 0) return false
  return true
}

const formatOf = (block: Buffer): RawHeader["format"] => {
  const magic = block.toString("latin1", 257, 265)
  if (magic === "ustar  \0") return "gnu"
  if (magic.startsWith("ustar")) return block.toString("latin1", 508, 512) === "tar\0" ? "star" : "ustar"
  return "v7"
}

export const parseHeader = (block: Buffer): RawHeader => {
  if (!checksumFits(block)) throw new RejectedInput("a tar header has a wrong checksum")
  const format = formatOf(block)
  const modern = format !== "v7"
  const prefix = format === "ustar" ? text(block, 345, 155) : format === "star" ? text(block, 345, 131) : ""
  const name = text(block, 0, 100)
  const size = parseNumber(block, 124, 12, "size")
  const typeflag = String.fromCharCode(block[156]!)
  if (size < 0) throw new RejectedInput("the size of a tar header is negative", name)
  const device = modern && (typeflag === "3" || typeflag === "4")
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    mode: parseNumber(block, 100, 8, "mode"),
    uid: parseNumber(block, 108, 8, "uid"),
    gid: parseNumber(block, 116, 8, "gid"),
    size,
    mtime: parseNumber(block, 136, 12, "mtime"),
    typeflag,
    linkName: text(block, 157, 100),
    devMajor: device ? parseNumber(block, 329, 8, "device number") : 0,
    devMinor: device ? parseNumber(block, 337, 8, "device number") : 0,
    format
  }
}
