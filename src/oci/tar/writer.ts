/**
 * Makes tar headers: ustar, pax records for what does not fit (POSIX.1-2001). Names are binary strings. The same entry gives the
 * same bytes. Reads and writes no files.
 */
import { Buffer } from "node:buffer"
import { TAR_BLOCK } from "./header.ts"

/** One entry as its header tells it. */
export interface HeaderEntry {
  readonly type: "file" | "hardlink" | "symlink" | "char" | "block" | "directory" | "fifo"
  readonly path: string
  readonly linkName?: string
  /** Permission bits, at most 0o7777. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** Bytes of data that follow; files only. */
  readonly size: number
  readonly mtimeSeconds: number
  /** Default 0. */
  readonly mtimeNanos?: number
  readonly devMajor?: number
  readonly devMinor?: number
  /** Extended attributes by their whole names. */
  readonly xattrs?: ReadonlyArray<readonly [name: string, value: Uint8Array]>
}

const FLAGS = { file: "0", hardlink: "1", symlink: "2", char: "3", block: "4", directory: "5", fifo: "6" } as const

const fits = (value: number, width: number): boolean => value >= 0 && value < 8 ** (width - 1)

const octal = (block: Buffer, value: number, at: number, width: number): void => {
  block.write(
    (fits(value, width) ? value : 0)
      .toString(8)
      .padStart(width - 1, "0")
      .concat("\0"),
    at,
    "latin1"
  )
}

const headerBlock = (entry: HeaderEntry, flag: string, name: string, link: string): Buffer => {
  const block = Buffer.alloc(TAR_BLOCK)
  block.write(name, 0, 100, "latin1")
  octal(block, entry.mode, 100, 8)
  octal(block, entry.uid, 108, 8)
  octal(block, entry.gid, 116, 8)
  octal(block, entry.size, 124, 12)
  octal(block, entry.mtimeSeconds, 136, 12)
  block.write("        ", 148, "latin1")
  block.write(flag, 156, "latin1")
  block.write(link, 157, 100, "latin1")
  block.write("ustar\x0000", 257, "latin1")
  octal(block, entry.devMajor ?? 0, 329, 8)
  octal(block, entry.devMinor ?? 0, 337, 8)
  let sum = 0
  for (const byte of block) sum += byte
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1")
  return block
}

/** `LENGTH KEY=VALUE\n`, the length counting itself. */
const record = (key: string, value: string): string => {
  const rest = key.length + value.length + 3
  let length = rest + 1
  while (length !== rest + String(length).length) length = rest + String(length).length
  return `${length} ${key}=${value}\n`
}

/** Zeros that fill up data to a whole block. */
export const paddingOf = (bytes: number): Buffer => Buffer.alloc((TAR_BLOCK - (bytes % TAR_BLOCK)) % TAR_BLOCK)

/** The two zero blocks at the end of a tar. */
export const tarEnd: Uint8Array = new Uint8Array(2 * TAR_BLOCK)

/** Decimal seconds with as many digits of the fraction as it needs. */
const paxTime = (seconds: number, nanos: number): string => {
  const [whole, rest] = seconds < 0 && nanos > 0 ? [seconds + 1, 1e9 - nanos] : [seconds, nanos]
  const fraction = rest === 0 ? "" : `.${String(rest).padStart(9, "0").replace(/0+$/, "")}`
  return `${seconds < 0 && whole === 0 ? "-" : ""}${whole}${fraction}`
}

/** The header of an entry, with a pax header before it where the old fields are too small. */
export const tarHeader = (entry: HeaderEntry): Buffer => {
  const link = entry.linkName ?? ""
  const nanos = entry.mtimeNanos ?? 0
  const records: Array<string> = []
  if (entry.path.length > 100) records.push(record("path", entry.path))
  if (link.length > 100) records.push(record("linkpath", link))
  if (!fits(entry.size, 12)) records.push(record("size", String(entry.size)))
  if (!fits(entry.uid, 8)) records.push(record("uid", String(entry.uid)))
  if (!fits(entry.gid, 8)) records.push(record("gid", String(entry.gid)))
  if (nanos > 0 || !fits(entry.mtimeSeconds, 12)) records.push(record("mtime", paxTime(entry.mtimeSeconds, nanos)))
  for (const [name, value] of entry.xattrs ?? []) {
    // The format has no way to write an equals sign in a key.
    if (!name.includes("=")) records.push(record(`SCHILY.xattr.${name}`, Buffer.from(value).toString("latin1")))
  }
  const own = headerBlock(entry, FLAGS[entry.type], entry.path.slice(0, 100), link.slice(0, 100))
  if (records.length === 0) return own
  const data = Buffer.from(records.join(""), "latin1")
  const plain = { ...entry, mode: 0o644, uid: 0, gid: 0, mtimeSeconds: 0, devMajor: 0, devMinor: 0, size: data.length }
  return Buffer.concat([headerBlock(plain, "x", "PaxHeaders/entry", ""), data, paddingOf(data.length), own])
}
