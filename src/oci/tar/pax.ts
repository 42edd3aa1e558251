/**
 * Parses pax extended headers (POSIX.1-2001) and the sparse maps that GNU tar puts into them (versions 0.0, 0.1 and 1.0).
 * Keys it does not use are dropped. Bounds are the caller's: it parses what it is given.
 */
import type { Xattr } from "../erofs/inode.ts"
import { RejectedInput } from "./rejected.ts"

/** Records of one extended header; an empty value takes a global one back. */
export interface PaxRecords {
  readonly values: Map<string, string>
  readonly xattrs: Map<string, Uint8Array>
  /** Offset and length pairs of sparse format 0.0. */
  readonly sparse: Array<number>
}

export const emptyPax = (): PaxRecords => ({ values: new Map(), xattrs: new Map(), sparse: [] })

const XATTR = "SCHILY.xattr."
const USED = new Set([
  "path",
  "linkpath",
  "size",
  "uid",
  "gid",
  "mtime",
  "GNU.sparse.major",
  "GNU.sparse.minor",
  "GNU.sparse.name",
  "GNU.sparse.realsize",
  "GNU.sparse.size",
  "GNU.sparse.map"
])

/** A whole number, not negative; writers put a plus sign and zeros before it. */
export const parseDecimal = (value: string, what: string): number => {
  const number = /^\+?\d{1,32}$/.test(value) ? Number(value) : Number.NaN
  if (!Number.isSafeInteger(number)) throw new RejectedInput(`${what} is not a number`)
  return number
}

/** Adds the records of an extended header ("LENGTH KEY=VALUE\n", the length counts itself) to `into`. */
export const parsePax = (data: Buffer, into: PaxRecords): void => {
  for (let at = 0; at < data.length; ) {
    const space = data.indexOf(0x20, at)
    const length =
      space > at && space - at < 10 ? parseDecimal(data.toString("latin1", at, space), "the length of a pax record") : 0
    const end = at + length
    if (length < 5 || end > data.length || data[end - 1] !== 0x0a)
      throw new RejectedInput("a pax record has a wrong length")
    const equals = data.indexOf(0x3d, space + 1)
    if (equals === -1 || equals >= end - 1 || equals === space + 1) throw new RejectedInput("a pax record has no key")
    const key = data.toString("latin1", space + 1, equals)
    if (key.startsWith(XATTR)) {
      const name = key.slice(XATTR.length)
      if (name === "" || name.includes("\0")) throw new RejectedInput("an xattr has no valid name")
      into.xattrs.set(name, Uint8Array.from(data.subarray(equals + 1, end - 1)))
    } else if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") {
      const even = into.sparse.length % 2 === 0
      if (even !== (key === "GNU.sparse.offset")) throw new RejectedInput("a sparse map is out of order")
      into.sparse.push(parseDecimal(data.toString("latin1", equals + 1, end - 1), "a sparse map entry"))
    } else if (USED.has(key)) {
      const value = data.toString("latin1", equals + 1, end - 1)
      if (value.includes("\0")) throw new RejectedInput(`the pax value of ${key} holds a NUL byte`)
      into.values.set(key, value)
    }
    at = end
  }
}

/** A pax time, decimal seconds with a fraction, as seconds rounded down and nanoseconds. */
export const parseTime = (value: string): { seconds: number; nanos: number } => {
  const match = /^([-+]?)(\d{1,15})(?:\.(\d*))?$/.exec(value)
  if (match === null) throw new RejectedInput("a pax time is not a number")
  const whole = Number(match[2])
  const nanos = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"))
  if (match[1] !== "-") return { seconds: whole, nanos }
  return nanos === 0 ? { seconds: -whole, nanos: 0 } : { seconds: -whole - 1, nanos: 1e9 - nanos }
}

export const xattrList = (
  ...maps: ReadonlyArray<ReadonlyMap<string, Uint8Array>>
): ReadonlyArray<Xattr> | undefined => {
  if (maps.every((map) => map.size === 0)) return undefined
  const merged = new Map<string, Uint8Array>()
  for (const map of maps) for (const [name, value] of map) merged.set(name, value)
  return [...merged].map(([name, value]) => ({ name, value }))
}

/** Checks a sparse map (offset, length pairs) against the file's size and its stored bytes. Empty pieces are dropped. */
export const checkSparse = (map: ReadonlyArray<number>, size: number, stored: number, entry: string): Array<number> => {
  const kept: Array<number> = []
  let end = 0
  let sum = 0
  if (map.length % 2 !== 0) throw new RejectedInput("a sparse map has an odd number of entries", entry)
  for (let i = 0; i < map.length; i += 2) {
    const offset = map[i]!
    const length = map[i + 1]!
    if (offset < end || offset + length > size)
      throw new RejectedInput("a sparse map overlaps or leaves its file", entry)
    end = offset + length
    sum += length
    if (length > 0) kept.push(offset, length)
  }
  if (sum !== stored) throw new RejectedInput(`a sparse map describes ${sum} bytes, ${stored} are stored`, entry)
  return kept
}
