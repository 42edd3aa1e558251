/**
 * Turns tar streams (POSIX ustar and pax) into records of a tree and back, for pipes. Reads every dialect that the
 * layer reader knows; writes pax headers only for what ustar can not say.
 */

import { type TarEntry, TarReader } from "../../oci/tar/reader.ts"
import { RejectedInput } from "../../oci/tar/rejected.ts"
import {
  bareRecord,
  encodeRecord,
  isSafeTreeName,
  TreeMalformed,
  type TreeRecord,
  type TreeSink
} from "../../vm/trees/treeEntries.ts"

const block = 512
const zeros = Buffer.alloc(1_048_576)
/** Bytes of the holes of one stream: they cost it nothing, and the receiver all of them. */
const holeBytesMax = 64 * 1024 ** 3

const octal = (value: number, width: number): string => `${value.toString(8).padStart(width - 1, "0")}\0`
const fits = (value: number, width: number): boolean => value >= 0 && value < 8 ** (width - 1)

const flags = { file: "0", link: "1", symlink: "2", directory: "5", pax: "x" } as const

const ustar = (fields: {
  readonly flag: string
  readonly name: string
  readonly link: string
  readonly record: TreeRecord
  readonly size: number
}): Buffer => {
  const { record } = fields
  const header = Buffer.alloc(block)
  header.write(fields.name, 0, 100, "latin1")
  header.write(octal(record.mode, 8), 100)
  header.write(octal(fits(record.uid, 8) ? record.uid : 0, 8), 108)
  header.write(octal(fits(record.gid, 8) ? record.gid : 0, 8), 116)
  header.write(octal(fits(fields.size, 12) ? fields.size : 0, 12), 124)
  header.write(octal(fits(record.mtimeSeconds, 12) ? record.mtimeSeconds : 0, 12), 136)
  header.write("        ", 148)
  header.write(fields.flag, 156)
  header.write(fields.link, 157, 100, "latin1")
  header.write("ustar\x0000", 257, "latin1")
  header.write(
    octal(
      header.reduce((sum, byte) => sum + byte, 0),
      7
    ),
    148
  )
  return header
}

const padding = (size: number): Uint8Array => zeros.subarray(0, (block - (size % block)) % block)

/** `<length> key=value\n`, where the length counts itself. */
const paxRecord = (key: string, value: string): string => {
  const rest = ` ${key}=${value}\n`
  let length = rest.length
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length
  return `${length}${rest}`
}

/** Writes records as a tar stream to `write`. What is left out is told to `skipped`. */
export class TarWriter implements TreeSink {
  private padding: Uint8Array = new Uint8Array(0)

  constructor(
    private readonly write: (bytes: Uint8Array) => void,
    private readonly skipped: (what: string) => void
  ) {}

  record(record: TreeRecord): void {
    const { type } = record
    if (type === "done") return
    if (type === "skipped") this.skipped(`${record.name}: ${record.target}`)
    else if (type === "end") this.write(zeros.subarray(0, 2 * block))
    else this.entry(type, record)
  }

  private entry(type: "file" | "directory" | "symlink" | "link", record: TreeRecord): void {
    const { size } = record
    const name = type === "directory" ? `${record.name === "" ? "." : record.name}/` : record.name
    const link = type === "symlink" || type === "link" ? record.target : ""
    const pax = [
      ...(name.length > 100 ? [paxRecord("path", name)] : []),
      ...(link.length > 100 ? [paxRecord("linkpath", link)] : []),
      ...(fits(size, 12) ? [] : [paxRecord("size", String(size))]),
      ...(fits(record.uid, 8) ? [] : [paxRecord("uid", String(record.uid))]),
      ...(fits(record.gid, 8) ? [] : [paxRecord("gid", String(record.gid))]),
      ...(record.mtimeNanos === 0 && fits(record.mtimeSeconds, 12)
        ? []
        : [paxRecord("mtime", decimal(record.mtimeSeconds, record.mtimeNanos))])
    ].join("")
    if (pax !== "") {
      const data = Buffer.from(pax, "latin1")
      this.write(
        ustar({
          flag: flags.pax,
          name: "PaxHeaders/0",
          link: "",
          record: { ...record, mode: 0o644 },
          size: data.length
        })
      )
      this.write(data)
      this.write(padding(data.length))
    }
    this.write(ustar({ flag: flags[type], name, link, record, size }))
    this.padding = padding(size)
  }

  data(bytes: Uint8Array): void {
    // The piece is valid during the call only.
    this.write(Uint8Array.from(bytes))
  }

  fileEnd(): void {
    this.write(this.padding)
  }
}

/** Seconds since 1970 with nine digits behind the point; also before 1970. */
const decimal = (seconds: number, nanos: number): string => {
  const total = BigInt(seconds) * 1_000_000_000n + BigInt(nanos)
  const whole = total < 0n ? -total : total
  return `${total < 0n ? "-" : ""}${whole / 1_000_000_000n}.${String(whole % 1_000_000_000n).padStart(9, "0")}`
}

/** `./a//b/` is `a/b`; `..` anywhere is refused. */
const cleanName = (name: string): string => {
  const clean = name
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/")
  if (!isSafeTreeName(clean)) throw new TreeMalformed(`the name "${name.slice(0, 200)}" is not allowed`)
  return clean
}

/**
 * Reads a tar stream and pushes records to `emit`. Directories that are missing in the stream are added; devices and pipes are told
 * to `skipped`. Throws `TreeMalformed`.
 */
export class TarToTree {
  /** The directories that are open in the stream of records, outermost first; undefined without attributes of their own. */
  private readonly open: Array<{ readonly name: string; record: TreeRecord | undefined }> = []
  private entry: { readonly sparse: ReadonlyArray<number> | undefined; readonly size: number; at: number } | undefined
  private readonly reader: TarReader
  private holeBytes = 0

  constructor(
    private readonly emit: (bytes: Uint8Array) => void,
    private readonly skipped: (what: string) => void
  ) {
    this.reader = new TarReader({
      entry: (entry) => this.take(entry),
      data: (bytes) => this.data(bytes),
      end: () => this.end(),
      raw: () => {}
    })
  }

  push(bytes: Uint8Array): void {
    this.judged(() => this.reader.push(bytes))
  }

  finish(): void {
    this.judged(() => this.reader.finish())
    this.leave([])
    this.emit(encodeRecord(bareRecord("end", "")))
  }

  private judged(act: () => void): void {
    try {
      act()
    } catch (cause) {
      throw cause instanceof RejectedInput ? new TreeMalformed(cause.message) : cause
    }
  }

  private take(entry: TarEntry): void {
    const name = cleanName(entry.path)
    const parts = name === "" ? [] : name.split("/")
    const base = { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtimeSeconds: entry.mtimeSeconds }
    const record = { ...bareRecord("file", name), ...base, mtimeNanos: entry.mtimeNanos }
    this.entry = undefined
    switch (entry.type) {
      case "directory":
        this.enter(parts)
        if (this.open.length > 0 && parts.length > 0) this.open.at(-1)!.record = { ...record, type: "done" }
        return
      case "file":
        this.enter(parts.slice(0, -1))
        this.entry = { sparse: entry.sparse, size: entry.size, at: 0 }
        this.emit(encodeRecord({ ...record, size: entry.size }))
        return
      case "symlink":
        this.enter(parts.slice(0, -1))
        this.emit(encodeRecord({ ...record, type: "symlink", target: entry.linkName }))
        return
      case "hardlink":
        this.enter(parts.slice(0, -1))
        this.emit(encodeRecord({ ...record, type: "link", target: cleanName(entry.linkName) }))
        return
      default:
        this.skipped(`${name}: it is a device or pipe`)
    }
  }

  /** Pieces of a sparse file come without their holes. */
  private data(bytes: Uint8Array): void {
    const { entry } = this
    if (entry === undefined) return
    let left = bytes
    while (left.length > 0) {
      const room = entry.sparse === undefined ? left.length : this.fill(entry, entry.sparse)
      this.emit(Uint8Array.from(left.subarray(0, room)))
      entry.at += Math.min(room, left.length)
      left = left.subarray(room)
    }
  }

  /** Says the hole before the next stored bytes, and how many of them follow. */
  private fill(entry: { readonly size: number; at: number }, map: ReadonlyArray<number>): number {
    for (let index = 0; index < map.length; index += 2) {
      const [start, end] = [map[index]!, map[index]! + map[index + 1]!]
      if (entry.at < start) this.hole(entry, start)
      if (entry.at < end) return end - entry.at
    }
    throw new TreeMalformed("a sparse file has more bytes than its map")
  }

  private hole(entry: { at: number }, until: number): void {
    this.holeBytes += Math.max(0, until - entry.at)
    if (this.holeBytes > holeBytesMax) throw new TreeMalformed("its sparse files have more than 64 GiB of holes")
    while (entry.at < until) {
      const count = Math.min(zeros.length, until - entry.at)
      this.emit(zeros.subarray(0, count))
      entry.at += count
    }
  }

  private end(): void {
    if (this.entry !== undefined) this.hole(this.entry, this.entry.size)
    this.entry = undefined
  }

  /** Opens the directories on the way to `parts` and closes all others. */
  private enter(parts: ReadonlyArray<string>): void {
    this.leave(parts)
    for (let depth = this.open.length; depth < parts.length; depth++) {
      const name = parts.slice(0, depth + 1).join("/")
      this.emit(encodeRecord(bareRecord("directory", name)))
      this.open.push({ name, record: undefined })
    }
  }

  private leave(parts: ReadonlyArray<string>): void {
    let keep = 0
    while (keep < this.open.length && this.open[keep]!.name === parts.slice(0, keep + 1).join("/")) keep++
    for (const { name, record } of this.open.splice(keep).reverse()) {
      const now = Math.trunc(Date.now() / 1000)
      this.emit(encodeRecord(record ?? { ...bareRecord("done", name), mode: 0o755, mtimeSeconds: now }))
    }
  }
}
