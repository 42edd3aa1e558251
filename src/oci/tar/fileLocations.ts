/**
 * Finds where the files of a tar archive lie (POSIX ustar and pax, GNU long names) without reading their content.
 * Serves image archives, which are few files with plain names; layers have a parser of their own.
 */

/** The archive is not a tar archive or is damaged; the message says how. */
export class TarDamaged extends Error {}

/** A regular file's content, or the name that a link stands for. */
export type TarEntry =
  | { readonly kind: "file"; readonly offset: number; readonly size: number }
  | { readonly kind: "link"; readonly target: string }

export type TarEntries = ReadonlyMap<string, TarEntry>

const blockBytes = 512
/** An image archive holds two or three files a layer. */
const entriesMax = 20_000
const nameBytesMax = 4_096
const paxBytesMax = 1024 * 1024
const linkHopsMax = 8

const decoder = new TextDecoder()
const text = (block: Uint8Array, start: number, length: number): string => {
  const field = block.subarray(start, start + length)
  const end = field.indexOf(0)
  return decoder.decode(end < 0 ? field : field.subarray(0, end))
}

/** A number field: octal digits, or base-256 when the first bit is set (GNU). */
const number = (block: Uint8Array, start: number, length: number): number => {
  const first = block[start]!
  if (first & 0x80) {
    let value = first & 0x7f
    for (let i = start + 1; i < start + length; i++) value = value * 256 + block[i]!
    return value
  }
  const digits = text(block, start, length).trim()
  if (digits === "") return 0
  return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number.NaN
}

const checksumHolds = (block: Uint8Array): boolean => {
  let sum = 0
  for (let i = 0; i < blockBytes; i++) sum += i >= 148 && i < 156 ? 0x20 : block[i]!
  return sum === number(block, 148, 8)
}

/** Whether the first block of a file can begin a tar archive. */
export const looksLikeTar = (block: Uint8Array): boolean =>
  block.length >= blockBytes && (block.subarray(0, blockBytes).every((byte) => byte === 0) || checksumHolds(block))

/** `LENGTH KEY=VALUE\n` records (POSIX.1-2001 pax); unknown keys are kept. */
const paxRecords = (bytes: Uint8Array): ReadonlyMap<string, string> => {
  const records = new Map<string, string>()
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(0x20, at)
    const digits = space < 0 || space - at > 8 ? "" : decoder.decode(bytes.subarray(at, space))
    const length = /^[0-9]+$/.test(digits) ? Number(digits) : 0
    const record = decoder.decode(bytes.subarray(space + 1, at + length - 1))
    const equals = record.indexOf("=")
    if (space < 0 || length <= space - at + 1 || at + length > bytes.length || equals < 1)
      throw new TarDamaged("a pax header is damaged")
    records.set(record.slice(0, equals), record.slice(equals + 1))
    at += length
  }
  return records
}

/** Undefined when the header's own size counts; NaN for what is no size. */
const paxSize = (value: string | undefined): number | undefined =>
  value === undefined || value === "" ? undefined : /^\+?[0-9]+$/.test(value) ? Number(value) : Number.NaN

/** One form for `./a`, `/a` and `a/`; undefined for a name that climbs. */
const normalizeName = (name: string): string | undefined => {
  const parts: Array<string> = []
  for (const part of name.split("/")) {
    if (part === "" || part === ".") continue
    if (part === "..") {
      if (parts.pop() === undefined) return undefined
    } else parts.push(part)
  }
  return parts.join("/")
}

/** Walks all headers. `read` must give exactly the bytes asked for. Rejects with `TarDamaged`. */
export const scanTar = async (
  read: (offset: number, length: number) => Promise<Uint8Array>,
  sizeBytes: number
): Promise<TarEntries> => {
  const entries = new Map<string, TarEntry>()
  let longName: string | undefined
  let longLink: string | undefined
  let pax: ReadonlyMap<string, string> = new Map()
  let seen = 0
  let offset = 0
  while (offset < sizeBytes) {
    if (offset + blockBytes > sizeBytes) throw new TarDamaged(`it is cut off inside a header at byte ${sizeBytes}`)
    const header = await read(offset, blockBytes)
    if (header.every((byte) => byte === 0)) return entries
    if (!checksumHolds(header)) {
      throw new TarDamaged(offset === 0 ? "it is not a tar archive" : `the header at byte ${offset} is damaged`)
    }
    if (++seen > entriesMax) throw new TarDamaged(`it has more than ${entriesMax} entries, which no image archive has`)
    const type = String.fromCharCode(header[156]! || 0x30)
    const extended = "xgLK".includes(type)
    const size = (extended ? undefined : paxSize(pax.get("size"))) ?? number(header, 124, 12)
    const content = offset + blockBytes
    if (!Number.isSafeInteger(size) || size < 0)
      throw new TarDamaged(`the size in the header at byte ${offset} is damaged`)
    const stored = "12346".includes(type) ? 0 : size
    offset = content + Math.ceil(stored / blockBytes) * blockBytes
    // The last entry may lack its padding.
    if (content + stored > sizeBytes)
      throw new TarDamaged(`it is cut off: an entry ends at byte ${content + stored}, the file at byte ${sizeBytes}`)
    if (extended) {
      if (size > (type === "L" || type === "K" ? nameBytesMax + 1 : paxBytesMax))
        throw new TarDamaged("a name in it is too long")
      const bytes = await read(content, size)
      if (type === "L") longName = text(bytes, 0, bytes.length)
      else if (type === "K") longLink = text(bytes, 0, bytes.length)
      else if (type === "x") pax = paxRecords(bytes)
      continue
    }
    const prefix = text(header, 257, 5) === "ustar" && header[262] === 0 ? text(header, 345, 155) : ""
    const short = text(header, 0, 100)
    const name = normalizeName(longName || pax.get("path") || (prefix === "" ? short : `${prefix}/${short}`))
    const link = longLink || pax.get("linkpath") || text(header, 157, 100)
    longName = undefined
    longLink = undefined
    pax = new Map()
    if (name === undefined || name === "" || name.length > nameBytesMax) continue
    if (type === "0" || type === "7") entries.set(name, { kind: "file", offset: content, size })
    if (type === "1") entries.set(name, { kind: "link", target: link })
    if (type === "2") entries.set(name, { kind: "link", target: `${name.slice(0, name.lastIndexOf("/") + 1)}${link}` })
  }
  return entries
}

/** The file that a name leads to, through the archive's own links; undefined when there is none. */
export const findEntry = (entries: TarEntries, name: string): (TarEntry & { kind: "file" }) | undefined => {
  let current = normalizeName(name)
  for (let hop = 0; hop <= linkHopsMax && current !== undefined; hop++) {
    const entry = entries.get(current)
    if (entry === undefined || entry.kind === "file") return entry
    current = normalizeName(entry.target)
  }
  return undefined
}
