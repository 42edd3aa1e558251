/**
 * Makes hostile inputs out of good ones: bytes, tar blocks and their fields, pax records, EROFS images, JSON values. Deterministic
 * for a seed. A tar's checksums are mostly put right again, else nothing behind them would ever be reached.
 */
import zlib from "node:zlib"
import { crc32c } from "../../src/oci/erofs/format.ts"
import { END, gnuLong, type PaxValues, pax, raw, type SparseFormat, sparse, sum } from "../support/tar.ts"

/** Whole numbers below a bound; see `generator`. */
export type Random = (below: number) => number

const pick = <A>(random: Random, list: ReadonlyArray<A>): A => list[random(list.length)]!

const names = [
  "a",
  "a/b",
  "a/b/c",
  "./",
  "/",
  "",
  ".",
  "..",
  "../x",
  "a/../b",
  "/etc/passwd",
  ".wh.a",
  ".wh..wh..opq",
  "a/.wh..wh..opq",
  ".wh.",
  ".wh..wh.plnk",
  "a\0b",
  "\xff\xfe",
  "n".repeat(255),
  "n".repeat(256),
  "d/".repeat(127),
  "d/".repeat(200),
  "p".repeat(5000)
]
const numbers = [
  "0",
  "1",
  "-1",
  "511",
  "512",
  "513",
  "4096",
  "8589934592",
  "18446744073709551615",
  "9".repeat(40),
  "x",
  ""
]
const paxKeys = [
  "path",
  "linkpath",
  "size",
  "uid",
  "gid",
  "mtime",
  "GNU.sparse.map",
  "GNU.sparse.size",
  "GNU.sparse.realsize",
  "GNU.sparse.major",
  "GNU.sparse.minor",
  "GNU.sparse.offset",
  "GNU.sparse.numbytes",
  "GNU.sparse.name",
  "SCHILY.xattr.user.a",
  "SCHILY.xattr.security.capability",
  "SCHILY.xattr.trusted.overlay.opaque",
  "SCHILY.xattr.trusted.bunker.implicit",
  "LIBARCHIVE.xattr.user.b",
  "hdrcharset",
  "comment"
]

const noise = (random: Random, length: number): Buffer => {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at += 1) bytes[at] = random(256)
  return bytes
}

/** Bytes changed, cut, doubled or moved, of no format in particular. */
export const mutateBytes = (random: Random, input: Uint8Array): Buffer => {
  let bytes: Buffer = Buffer.from(input)
  for (let left = random(4); left >= 0; left -= 1) {
    const at = random(bytes.length + 1)
    const span = 1 + random(random(3) === 0 ? 2000 : 8)
    switch (random(6)) {
      case 0:
        if (bytes.length > 0) bytes[at % bytes.length] = pick(random, [0, 1, 0x7f, 0x80, 0xff, random(256)])
        break
      case 1:
        bytes = bytes.subarray(0, at)
        break
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + span)])
        break
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), noise(random, span), bytes.subarray(at)])
        break
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at + span), bytes.subarray(at)])
        break
      default:
        noise(random, span).copy(bytes, at)
    }
    bytes = Buffer.from(bytes)
  }
  return bytes
}

/** Numeric and text fields of a tar header: offset and width. */
const fields = [
  [0, 100],
  [100, 8],
  [108, 8],
  [116, 8],
  [124, 12],
  [136, 12],
  [156, 1],
  [157, 100],
  [257, 8],
  [329, 8],
  [337, 8],
  [345, 155],
  [386, 24],
  [482, 1],
  [483, 12]
] as const

const spoilHeader = (random: Random, block: Buffer): void => {
  const [at, width] = pick(random, fields)
  switch (random(5)) {
    case 0:
      noise(random, width).copy(block, at)
      break
    case 1:
      block.fill(pick(random, [0, 0x20, 0x37, 0x80, 0xff]), at, at + width)
      break
    case 2:
      block.fill(0, at, at + width).write(pick(random, at === 0 || at === 157 ? names : numbers), at, width, "latin1")
      break
    case 3:
      block[156] = pick(random, [..."01234567SxgLKDMVNAX\0"]).charCodeAt(0)
      break
    default:
      block[at + random(width)] = random(256)
  }
}

const sizeOf = (block: Buffer): number => {
  const size = Number.parseInt(block.toString("latin1", 124, 135), 8)
  return Number.isFinite(size) && size >= 0 ? size : 0
}

/** Puts the checksum of every header right that a walk from the start comes by. */
const fixSums = (tar: Buffer): void => {
  for (let at = 0; at + 512 <= tar.length; ) {
    const block = tar.subarray(at, at + 512)
    if (block.every((byte) => byte === 0)) at += 512
    else {
      sum(block)
      at += 512 + Math.ceil(sizeOf(block) / 512) * 512
    }
  }
}

const anyEntry = (random: Random): Buffer => {
  const name = pick(random, names)
  const values = (): PaxValues =>
    Array.from({ length: 1 + random(3) }, () => [
      pick(random, paxKeys),
      random(3) === 0 ? noise(random, random(60)) : pick(random, [...names, ...numbers])
    ])
  switch (random(6)) {
    case 0:
      return Buffer.concat([pax(values()), raw({ name, data: noise(random, random(1500)) })])
    case 1:
      return gnuLong(pick(random, ["L", "K"]), pick(random, names))
    case 2: {
      const format = pick<SparseFormat>(random, ["old", "0.0", "0.1", "1.0"])
      const pieces = Array.from({ length: random(30) }, (_, index) => ({
        offset: index * (random(3) === 0 ? 512 : 5000) + random(4),
        data: noise(random, 1 + random(600))
      }))
      return sparse({ name }, random(200_000), pieces, format)
    }
    case 3:
      return raw({ name, flag: pick(random, ["1", "2"]), link: pick(random, names).slice(0, 100) })
    case 4:
      return raw({ name, flag: pick(random, ["3", "4", "5", "6"]), major: random(5000), minor: random(300_000) })
    default:
      return raw({ name, data: noise(random, random(5000)), mode: random(0o10000), uid: random(2 ** 31) })
  }
}

/** A tar with entries added, spoilt, moved and cut. */
const mutateTar = (random: Random, input: Uint8Array, other: Uint8Array): Buffer => {
  let tar: Buffer = Buffer.from(input)
  for (let left = random(5); left >= 0; left -= 1) {
    const blocks = Math.floor(tar.length / 512)
    const at = 512 * random(blocks + 1)
    switch (random(7)) {
      case 0:
      case 1:
        if (blocks > 0) spoilHeader(random, tar.subarray(512 * random(blocks)).subarray(0, 512))
        break
      case 2:
      case 3:
        tar = Buffer.concat([tar.subarray(0, at), anyEntry(random), tar.subarray(at)])
        break
      case 4:
        tar = Buffer.concat([tar.subarray(0, at), tar.subarray(at + 512 * (1 + random(3)))])
        break
      case 5:
        tar = Buffer.concat([tar.subarray(0, at), Buffer.from(other).subarray(512 * random(8))])
        break
      default:
        tar = mutateBytes(random, tar)
    }
  }
  if (random(10) > 0) fixSums(tar)
  return random(4) === 0 ? Buffer.concat([tar, END]) : tar
}

const inflated = (input: Uint8Array): Buffer => {
  try {
    if (input[0] === 0x1f) return zlib.gunzipSync(input, { maxOutputLength: 2 ** 22 })
    if (input[0] === 0x28) return zlib.zstdDecompressSync(input, { maxOutputLength: 2 ** 22 })
  } catch {
    // As it is, then.
  }
  return Buffer.from(input)
}

/** A layer as stored: a tar in one of its wrappers, either of them spoilt. */
export const mutateLayer = (random: Random, input: Uint8Array, other: Uint8Array): Buffer => {
  if (random(5) === 0) return mutateBytes(random, input)
  const tar = mutateTar(random, inflated(input), inflated(other))
  const cut = random(tar.length + 1)
  const wrapped = pick(random, [
    () => tar,
    () => tar,
    () => tar,
    () => zlib.gzipSync(tar, { level: 1 }),
    () => Buffer.concat([zlib.gzipSync(tar.subarray(0, cut), { level: 1 }), zlib.gzipSync(tar.subarray(cut))]),
    () => zlib.zstdCompressSync(tar),
    () => Buffer.concat([zlib.zstdCompressSync(tar.subarray(0, cut)), zlib.zstdCompressSync(tar.subarray(cut))])
  ])()
  return random(6) === 0 ? mutateBytes(random, wrapped) : wrapped
}

/** An EROFS image with changed bytes, mostly in its metadata, and mostly with a right checksum. */
export const mutateErofs = (random: Random, input: Uint8Array): Buffer => {
  const bytes = random(8) === 0 ? mutateBytes(random, input) : Buffer.from(input)
  if (bytes.length < 4096) return bytes
  const meta = Math.min(bytes.readUInt32LE(1024 + 40) * 4096, bytes.length - 1)
  for (let left = random(12); left >= 0; left -= 1) {
    const place = random(4)
    const at =
      place === 0 ? 1024 + random(128) : place === 1 ? random(bytes.length) : meta + random(bytes.length - meta)
    const value = pick(random, [0, 1, 2, 0x10, 0x7f, 0x80, 0xff, random(256)])
    if (random(3) === 0 && at + 4 <= bytes.length) bytes.fill(value, at, at + 4)
    else bytes[at] = value
  }
  if (random(8) > 0) {
    bytes.writeUInt32LE(0, 1024 + 4)
    bytes.writeUInt32LE(crc32c(bytes.subarray(1024, 4096)), 1024 + 4)
  }
  return bytes
}

const odd: ReadonlyArray<unknown> = [
  null,
  true,
  0,
  -1,
  1.5,
  1e308,
  2 ** 53,
  "",
  "x",
  "sha256:",
  `sha256:${"0".repeat(64)}`,
  `sha256:${"A".repeat(64)}`,
  "\u001b[2J\n",
  [],
  {},
  [[]],
  "a".repeat(3000),
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.oci.image.manifest.v1+json"
]

const mutateValue = (random: Random, value: unknown, depth = 0): unknown => {
  if (depth > 40 || random(12) === 0) return pick(random, odd)
  if (Array.isArray(value)) {
    const list = value.map((each) => (random(3) === 0 ? mutateValue(random, each, depth + 1) : each))
    if (random(6) === 0 && list.length > 0) list.push(...Array.from({ length: random(300) }, () => list[0]))
    if (random(8) === 0) list.shift()
    return list
  }
  if (value !== null && typeof value === "object") {
    const entries = Object.entries(value).map(([key, each]): readonly [string, unknown] => [
      random(20) === 0 ? pick(random, ["__proto__", "constructor", "toString", "x"]) : key,
      random(3) === 0 ? mutateValue(random, each, depth + 1) : each
    ])
    if (random(8) === 0) entries.splice(random(entries.length + 1), 1)
    return Object.fromEntries(entries)
  }
  return random(4) === 0 ? pick(random, odd) : value
}

/** A JSON text with other values, or other bytes. */
export const mutateJson = (random: Random, input: Uint8Array): Buffer => {
  if (random(6) === 0) return mutateBytes(random, input)
  // Deeper than any stack, in place of some value.
  if (random(100) === 0) {
    const deep = "[".repeat(300_000) + "]".repeat(300_000)
    return Buffer.from(
      Buffer.from(input)
        .toString("latin1")
        .replace(/"[^"]*"(?=[,}\]])/, deep),
      "latin1"
    )
  }
  try {
    return Buffer.from(JSON.stringify(mutateValue(random, JSON.parse(Buffer.from(input).toString()))) ?? "")
  } catch {
    return mutateBytes(random, input)
  }
}
