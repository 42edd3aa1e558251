/**
 * Reads a tar stream that is pushed into it piece by piece, and hands entries and their data to a sink, synchronously.
 * Understands ustar, V7, star, GNU (long names, sparse, base-256) and pax (global headers, xattrs, sparse 0.0, 0.1, 1.0).
 * Names stay binary strings. Does not judge paths; every header it collects is bounded. Throws `RejectedInput`.
 */
import type { Xattr } from "../erofs/inode.ts"
import { isZeroBlock, parseHeader, parseNumber, type RawHeader, TAR_BLOCK } from "./header.ts"
import { checkSparse, emptyPax, type PaxRecords, parseDecimal, parsePax, parseTime, xattrList } from "./pax.ts"
import { RejectedInput, readable } from "./rejected.ts"

type TarType = "file" | "hardlink" | "symlink" | "char" | "block" | "directory" | "fifo"

export interface TarEntry {
  readonly type: TarType
  /** As stored, a binary string. */
  readonly path: string
  readonly linkName: string
  /** Permission bits, at most 0o7777. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** Bytes of the file; more than `storedBytes` when it is sparse. */
  readonly size: number
  readonly mtimeSeconds: number
  readonly mtimeNanos: number
  readonly devMajor: number
  readonly devMinor: number
  readonly xattrs: ReadonlyArray<Xattr> | undefined
  /** Offset and length pairs of the stored data, in order; undefined when the file is not sparse. */
  readonly sparse: ReadonlyArray<number> | undefined
  readonly storedBytes: number
}

/** Receives, for each entry, one `entry`, then the stored bytes in pieces, then one `end`. A piece is only valid during the call. */
export interface TarSink {
  /** All other bytes of the stream, in order: headers, padding, the end. Those that begin an entry come before its `entry`. */
  readonly raw: (bytes: Uint8Array) => void
  readonly entry: (entry: TarEntry) => void
  readonly data: (bytes: Uint8Array) => void
  readonly end: () => void
}

/** Most bytes of one extended header (or of all global ones), of one long name, and most entries of one sparse map. */
const TAR_LIMITS = { paxBytesMax: 1 << 20, longNameBytesMax: 64 * 1024, sparseEntriesMax: 1 << 18 } as const

const TYPES: Readonly<Record<string, TarType>> = {
  "0": "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "directory",
  "6": "fifo",
  "7": "file",
  S: "file"
}

type State = "header" | "meta" | "sparse-old" | "sparse-1.0" | "data" | "padding" | "trailer"

export class TarReader {
  #state: State = "header"
  readonly #sink: TarSink
  /** A block or an extended header that is not whole yet. */
  #collect = Buffer.allocUnsafeSlow(TAR_BLOCK)
  #have = 0
  #want = TAR_BLOCK
  /** Bytes of data or padding still to come. */
  #left = 0
  #padding = 0
  #offset = 0
  #zeroBlocks = 0
  #header: RawHeader | undefined
  #sparse: Array<number> = []
  #realSize = -1
  /** Text of a sparse 1.0 map so far, its numbers so far and how many it will have. */
  #mapText = ""
  #mapLines = 0
  #mapWanted = 0
  readonly #global: PaxRecords = emptyPax()
  #globalBytes = 0
  #pax: PaxRecords | undefined
  #longName: string | undefined
  #longLink: string | undefined

  constructor(sink: TarSink) {
    this.#sink = sink
  }

  /** Takes the next bytes of the stream. */
  push(chunk: Uint8Array): void {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    let at = 0
    while (at < bytes.length) {
      const before = at
      const available = bytes.length - at
      if (this.#state === "data" || this.#state === "padding") {
        const take = Math.min(this.#left, available)
        at += take
        this.#left -= take
        if (this.#state === "data") this.#sink.data(bytes.subarray(before, at))
        else this.#sink.raw(bytes.subarray(before, at))
        this.#offset += take
        if (this.#left === 0) {
          if (this.#state === "data") this.#endData()
          else this.#expectBlock("header")
        }
      } else if (this.#have === 0 && available >= this.#want) {
        at += this.#want
        this.#offset += this.#want
        this.#sink.raw(bytes.subarray(before, at))
        this.#whole(bytes.subarray(before, at))
      } else {
        const take = Math.min(this.#want - this.#have, available)
        at += take
        this.#offset += take
        this.#sink.raw(bytes.subarray(before, at))
        bytes.copy(this.#collect, this.#have, before, at)
        this.#have += take
        if (this.#have === this.#want) this.#whole(this.#collect.subarray(0, this.#want))
      }
    }
  }

  /**
   * Ends the stream. Returns whether it had its end mark; an entry that is not whole is refused. Padding may be missing after the
   * last entry, as some builders leave it out, and extended headers that no entry follows mean nothing.
   */
  finish(): { readonly endMark: boolean } {
    if (this.#state === "meta" && this.#have >= this.#header!.size) {
      this.#takeMeta(this.#collect.subarray(0, this.#header!.size))
    }
    const whole = this.#state === "padding" || this.#state === "trailer"
    if (!whole && !(this.#state === "header" && this.#have === 0)) {
      throw new RejectedInput(`the tar ends in the middle of an entry, after ${this.#offset} bytes`, this.#header?.name)
    }
    return { endMark: this.#zeroBlocks > 0 }
  }

  #expectBlock(state: State, want = TAR_BLOCK): void {
    this.#state = state
    this.#have = 0
    this.#want = want
    if (this.#collect.length < want) this.#collect = Buffer.allocUnsafeSlow(want)
  }

  /** The collected block or extended header is whole. */
  #whole(block: Buffer): void {
    this.#have = 0
    if (this.#state === "header") this.#takeHeader(block)
    else if (this.#state === "meta") this.#takeMeta(block)
    else if (this.#state === "sparse-old") this.#takeOldSparse(block)
    else if (this.#state === "sparse-1.0") this.#takeSparseMap(block)
    // In the state "trailer" what comes belongs to no entry.
  }

  #takeHeader(block: Buffer): void {
    if (block[0] === 0 && isZeroBlock(block)) {
      if (++this.#zeroBlocks === 2) this.#expectBlock("trailer")
      return
    }
    if (this.#zeroBlocks > 0) throw new RejectedInput("there is data after the end of the tar")
    const header = parseHeader(block)
    this.#header = header
    if ("xgLK".includes(header.typeflag)) {
      const max =
        header.typeflag === "x" || header.typeflag === "g" ? TAR_LIMITS.paxBytesMax : TAR_LIMITS.longNameBytesMax
      if (header.size > max)
        throw new RejectedInput(`an extended header has ${header.size} bytes, at most ${max} are allowed`)
      const padded = Math.ceil(header.size / TAR_BLOCK) * TAR_BLOCK
      if (padded === 0) this.#takeMeta(Buffer.alloc(0))
      else this.#expectBlock("meta", padded)
      return
    }
    this.#sparse = []
    if (header.typeflag === "S") {
      for (let i = 0; i < 4; i++) this.#pushOldSparse(block, 386 + i * 24)
      this.#realSize = parseNumber(block, 483, 12, "real size")
      if (block[482] !== 0) this.#expectBlock("sparse-old")
      else this.#begin(this.#realSize, this.#sparse, 0)
      return
    }
    this.#beginPax(header)
  }

  #takeMeta(padded: Buffer): void {
    const header = this.#header!
    const data = padded.subarray(0, header.size)
    this.#expectBlock("header")
    if (header.typeflag === "L" || header.typeflag === "K") {
      const zero = data.indexOf(0)
      const name = data.toString("latin1", 0, zero === -1 ? data.length : zero)
      if (header.typeflag === "L") this.#longName = name
      else this.#longLink = name
    } else if (header.typeflag === "g") {
      this.#globalBytes += data.length
      if (this.#globalBytes > TAR_LIMITS.paxBytesMax) throw new RejectedInput("the global pax headers are too large")
      parsePax(data, this.#global)
    } else {
      // Of several before one entry the last one counts, alone.
      this.#pax = emptyPax()
      parsePax(data, this.#pax)
    }
  }

  #pushOldSparse(block: Buffer, at: number): void {
    if (block[at] === 0 && block[at + 12] === 0) return
    this.#sparse.push(parseNumber(block, at, 12, "sparse map"), parseNumber(block, at + 12, 12, "sparse map"))
    if (this.#sparse.length > 2 * TAR_LIMITS.sparseEntriesMax)
      throw new RejectedInput("a sparse map has too many entries")
  }

  #takeOldSparse(block: Buffer): void {
    for (let i = 0; i < 21; i++) this.#pushOldSparse(block, i * 24)
    if (block[504] === 0) this.#begin(this.#realSize, this.#sparse, 0)
  }

  #value(key: string): string | undefined {
    return this.#pax?.values.get(key) ?? this.#global.values.get(key)
  }

  #beginPax(header: RawHeader): void {
    const major = this.#value("GNU.sparse.major")
    const map = this.#value("GNU.sparse.map")
    const realSize = this.#value("GNU.sparse.realsize") ?? this.#value("GNU.sparse.size")
    if ((TYPES[header.typeflag] !== "file" && header.typeflag !== "\0") || realSize === undefined) {
      this.#begin(undefined, undefined, 0)
      return
    }
    const real = parseDecimal(realSize, "the real size of a sparse file")
    if (major === "1" && this.#value("GNU.sparse.minor") === "0") {
      this.#realSize = real
      this.#mapText = ""
      this.#mapLines = 0
      this.#mapWanted = 0
      this.#expectBlock("sparse-1.0")
      return
    }
    const pairs =
      map === undefined
        ? (this.#pax?.sparse ?? [])
        : map.split(",").map((number) => (number === "" ? -1 : parseDecimal(number, "a sparse map entry")))
    if (pairs.length > 2 * TAR_LIMITS.sparseEntriesMax) throw new RejectedInput("a sparse map has too many entries")
    this.#begin(real, map === "" ? [] : pairs, 0)
  }

  /** Sparse 1.0: decimal numbers, one a line, count first, padded to whole blocks, before the data. */
  #takeSparseMap(block: Buffer): void {
    this.#mapText += block.toString("latin1")
    for (let i = block.indexOf(0x0a); i !== -1; i = block.indexOf(0x0a, i + 1)) this.#mapLines++
    if (this.#mapWanted === 0) {
      const count = parseDecimal(this.#mapText.slice(0, this.#mapText.indexOf("\n")), "the count of a sparse map")
      if (count > TAR_LIMITS.sparseEntriesMax) throw new RejectedInput("a sparse map has too many entries")
      this.#mapWanted = 1 + 2 * count
    }
    if (this.#mapText.length > 512 + this.#mapWanted * 17) throw new RejectedInput("a sparse map is malformed")
    if (this.#mapLines < this.#mapWanted) return
    const numbers = this.#mapText.split("\n").slice(1, this.#mapWanted)
    const used = this.#mapText.length
    this.#begin(
      this.#realSize,
      numbers.map((n) => parseDecimal(n, "a sparse map entry")),
      used
    )
  }

  /** All that describes the entry is known: `mapBytes` of its data were the sparse map. */
  #begin(realSize: number | undefined, sparse: ReadonlyArray<number> | undefined, mapBytes: number): void {
    const header = this.#header!
    const path = this.#value("GNU.sparse.name") || this.#longName || this.#value("path") || header.name
    // Writers before POSIX know directories by their names alone.
    const type = header.typeflag === "\0" ? (path.endsWith("/") ? "directory" : "file") : TYPES[header.typeflag]
    if (type === undefined) {
      throw new RejectedInput(`a tar entry has the unknown type "${readable(header.typeflag)}"`, path)
    }
    const number = (key: string, otherwise: number): number => {
      const value = this.#value(key)
      return value === undefined || value === "" ? otherwise : parseDecimal(value, `the pax ${key}`)
    }
    const mtime = this.#value("mtime")
    const time = mtime === undefined || mtime === "" ? { seconds: header.mtime, nanos: 0 } : parseTime(mtime)
    const declared = number("size", header.size)
    // Only files have data; links and directories may state a size that stands for nothing.
    const stored = type === "file" ? declared - mapBytes : 0
    if (stored < 0) throw new RejectedInput("a sparse map is longer than its entry", path)
    const size = type === "file" ? (realSize ?? stored) : 0
    const entry: TarEntry = {
      type,
      path,
      linkName: this.#longLink || this.#value("linkpath") || header.linkName,
      mode: header.mode & 0o7777,
      uid: number("uid", header.uid),
      gid: number("gid", header.gid),
      size,
      mtimeSeconds: time.seconds,
      mtimeNanos: time.nanos,
      devMajor: header.devMajor,
      devMinor: header.devMinor,
      xattrs: xattrList(this.#global.xattrs, this.#pax?.xattrs ?? new Map()),
      sparse: sparse === undefined ? undefined : checkSparse(sparse, size, stored, path),
      storedBytes: stored
    }
    this.#pax = undefined
    this.#longName = undefined
    this.#longLink = undefined
    this.#left = stored
    this.#padding = (TAR_BLOCK - (stored % TAR_BLOCK)) % TAR_BLOCK
    this.#sink.entry(entry)
    this.#state = "data"
    if (stored === 0) this.#endData()
  }

  #endData(): void {
    this.#sink.end()
    this.#header = undefined
    this.#left = this.#padding
    if (this.#left > 0) this.#state = "padding"
    else this.#expectBlock("header")
  }
}
