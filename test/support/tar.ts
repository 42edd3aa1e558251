/** Builds tar streams byte by byte, valid and broken, in every dialect that the reader knows. Names are binary strings. */

export interface RawEntry {
  readonly name: string
  /** The type character, default `0`. */
  readonly flag?: string
  readonly mode?: number
  readonly uid?: number
  readonly gid?: number
  readonly mtime?: number
  /** Default: the length of `data`. */
  readonly size?: number
  readonly link?: string
  readonly major?: number
  readonly minor?: number
  readonly data?: Uint8Array
  readonly magic?: "ustar" | "gnu" | "v7"
  /** Written over the block before its checksum is made. */
  readonly patch?: (block: Buffer) => void
}

const octal = (value: number, width: number): string => value.toString(8).padStart(width - 1, "0") + "\0"

/** Big-endian two's complement with the top bit set. */
export const base256 = (value: number, width: number): Buffer => {
  const bytes = Buffer.alloc(width, value < 0 ? 0xff : 0)
  bytes.writeBigInt64BE(BigInt(value), width - 8)
  bytes[0] = bytes[0]! | 0x80
  return bytes
}

export const sum = (block: Buffer): void => {
  block.write("        ", 148, "latin1")
  let total = 0
  for (const byte of block) total += byte
  block.write(octal(total, 7) + " ", 148, "latin1")
}

const number = (block: Buffer, value: number, at: number, width: number): void => {
  if (value >= 0 && value < 8 ** (width - 1)) block.write(octal(value, width), at, "latin1")
  else base256(value, width).copy(block, at)
}

/** The header block alone. */
export const header = (entry: RawEntry): Buffer => {
  const block = Buffer.alloc(512)
  block.write(entry.name, 0, 100, "latin1")
  number(block, entry.mode ?? 0o644, 100, 8)
  number(block, entry.uid ?? 0, 108, 8)
  number(block, entry.gid ?? 0, 116, 8)
  number(block, entry.size ?? entry.data?.length ?? 0, 124, 12)
  number(block, entry.mtime ?? 0, 136, 12)
  block.write(entry.flag ?? "0", 156, "latin1")
  block.write(entry.link ?? "", 157, 100, "latin1")
  const magic = { ustar: "ustar\x0000", gnu: "ustar  \0", v7: "" }[entry.magic ?? "ustar"]
  block.write(magic, 257, "latin1")
  number(block, entry.major ?? 0, 329, 8)
  number(block, entry.minor ?? 0, 337, 8)
  entry.patch?.(block)
  sum(block)
  return block
}

export const pad = (data: Uint8Array): Buffer => Buffer.concat([data, Buffer.alloc((512 - (data.length % 512)) % 512)])

export const raw = (entry: RawEntry): Buffer => Buffer.concat([header(entry), pad(entry.data ?? new Uint8Array(0))])

/** One pax record, its length counting itself. */
const record = (key: string, value: string | Uint8Array): Buffer => {
  const bytes = typeof value === "string" ? Buffer.from(value, "latin1") : value
  const rest = key.length + bytes.length + 3
  let length = rest + 1
  while (length !== rest + String(length).length) length = rest + String(length).length
  return Buffer.concat([Buffer.from(`${length} ${key}=`, "latin1"), bytes, Buffer.from("\n")])
}

export type PaxValues = ReadonlyArray<readonly [key: string, value: string | Uint8Array]>

/** An extended header, `x` for the next entry, `g` for all that follow. */
export const pax = (values: PaxValues, flag: "x" | "g" = "x"): Buffer =>
  raw({ name: "PaxHeader", flag, data: Buffer.concat(values.map(([key, value]) => record(key, value))) })

/** GNU's long name (`L`) or link (`K`). */
export const gnuLong = (flag: "L" | "K", text: string): Buffer =>
  raw({ name: "././@LongLink", flag, magic: "gnu", data: Buffer.from(text + "\0", "latin1") })

export const END = Buffer.alloc(1024)
export const tar = (...parts: ReadonlyArray<Buffer>): Buffer => Buffer.concat([...parts, END])

export type Pieces = ReadonlyArray<{ readonly offset: number; readonly data: Uint8Array }>
export type SparseFormat = "old" | "0.0" | "0.1" | "1.0"

/** A sparse file in one of GNU's four ways. `extra` are pax records to put beside it. */
export const sparse = (
  entry: RawEntry,
  size: number,
  pieces: Pieces,
  format: SparseFormat,
  extra: PaxValues = []
): Buffer => {
  const data = Buffer.concat(pieces.map((piece) => piece.data))
  const before = extra.length > 0 && format === "old" ? pax(extra) : Buffer.alloc(0)
  if (format === "old") {
    const put = (block: Buffer, at: number, list: Pieces) =>
      list.forEach((piece, i) => {
        number(block, piece.offset, at + i * 24, 12)
        number(block, piece.data.length, at + i * 24 + 12, 12)
      })
    const blocks = [
      header({
        ...entry,
        flag: "S",
        magic: "gnu",
        size: data.length,
        patch: (block) => {
          block.fill(0, 345, 500)
          put(block, 386, pieces.slice(0, 4))
          block[482] = pieces.length > 4 ? 1 : 0
          number(block, size, 483, 12)
        }
      })
    ]
    for (let i = 4; i < pieces.length; i += 21) {
      const block = Buffer.alloc(512)
      put(block, 0, pieces.slice(i, i + 21))
      block[504] = pieces.length > i + 21 ? 1 : 0
      blocks.push(block)
    }
    return Buffer.concat([before, ...blocks, pad(data)])
  }
  const numbers = pieces.flatMap((piece) => [piece.offset, piece.data.length])
  if (format === "1.0") {
    const map = pad(Buffer.from([pieces.length, ...numbers].map((n) => `${n}\n`).join("")))
    const values: PaxValues = [
      ["GNU.sparse.major", "1"],
      ["GNU.sparse.minor", "0"],
      ["GNU.sparse.name", entry.name],
      ["GNU.sparse.realsize", String(size)],
      ...extra
    ]
    return Buffer.concat([pax(values), raw({ ...entry, name: "GNUSparseFile.0/x", data: Buffer.concat([map, data]) })])
  }
  const values: PaxValues =
    format === "0.1"
      ? [
          ["GNU.sparse.size", String(size)],
          ["GNU.sparse.numblocks", String(pieces.length)],
          ["GNU.sparse.name", entry.name],
          ["GNU.sparse.map", numbers.join(",")]
        ]
      : [
          ["GNU.sparse.size", String(size)],
          ["GNU.sparse.numblocks", String(pieces.length)],
          ...pieces.flatMap(
            (piece): PaxValues => [
              ["GNU.sparse.offset", String(piece.offset)],
              ["GNU.sparse.numbytes", String(piece.data.length)]
            ]
          )
        ]
  return Buffer.concat([pax([...values, ...extra]), raw({ ...entry, data })])
}
