/**
 * Encodes and decodes the records by which trees of files travel between host and guest (native/guest/README.md, "Trees"). Pure.
 * Names are binary strings: one character per byte, whatever the encoding. Hostile input: every bound is checked.
 */

const types = ["file", "directory", "symlink", "link", "skipped", "end", "done"] as const

/** One record; a file's bytes follow it. */
export interface TreeRecord {
  /** `done` ends a directory and carries its attributes; `skipped` tells in `target` why something is not there. */
  readonly type: (typeof types)[number]
  /** Relative path of safe parts; "" is the tree itself. */
  readonly name: string
  /** Of a symlink: anything; of a link: the name of a file that came before. */
  readonly target: string
  /** Permission bits, at most 0o7777. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly mtimeSeconds: number
  readonly mtimeNanos: number
  /** Bytes of a file, else 0. */
  readonly size: number
}

/** A record of the given type without attributes. */
export const bareRecord = (type: TreeRecord["type"], name: string, target = ""): TreeRecord => ({
  ...{ type, name, target, mode: 0, uid: 0, gid: 0 },
  ...{ mtimeSeconds: 0, mtimeNanos: 0, size: 0 }
})

/** Receives a record, then, for a file, its bytes in pieces and one `fileEnd`. A piece is valid during the call only. */
export interface TreeSink {
  readonly record: (record: TreeRecord) => void
  readonly data: (bytes: Uint8Array) => void
  readonly fileEnd: () => void
}

/** Why a stream of records is refused. */
export class TreeMalformed extends Error {}

const headerBytes = 40
const nameBytesMax = 4096
const targetBytesMax = 4095
const partBytesMax = 255
/** Parts of a name. */
const depthMax = 256
/** Records of one tree. */
const recordsMax = 4_000_000

/** True for the empty name and for relative paths without empty, `.` and `..` parts, within the bounds. */
export const isSafeTreeName = (name: string): boolean => {
  if (name === "") return true
  if (name.length > nameBytesMax || name.includes("\0")) return false
  const parts = name.split("/")
  return (
    parts.length <= depthMax &&
    parts.every((part) => part !== "" && part !== "." && part !== ".." && part.length <= partBytesMax)
  )
}

const isSound = (record: TreeRecord): boolean => {
  const { type, name, target } = record
  if (!isSafeTreeName(name)) return false
  if (type === "symlink") return target !== "" && target.length <= targetBytesMax && !target.includes("\0")
  if (type === "link") return name !== "" && target !== "" && isSafeTreeName(target)
  if (type === "skipped") return true
  return target === "" && (type !== "end" || name === "")
}

/** Bytes of a record. One that the format forbids throws `TreeMalformed`. */
export const encodeRecord = (record: TreeRecord): Uint8Array => {
  const wide = Math.max(record.uid, record.gid) > 0xffff_ffff || Math.min(record.uid, record.gid) < 0
  if (wide || !isSound(record)) throw new TreeMalformed(`"${record.name.slice(0, 200)}" can not be carried`)
  const { name, target } = record
  const bytes = Buffer.alloc(headerBytes + name.length + target.length)
  bytes.write("BKT1", "latin1")
  bytes[4] = types.indexOf(record.type) + 1
  bytes.writeUInt16LE(name.length, 6)
  bytes.writeUInt16LE(target.length, 8)
  bytes.writeUInt16LE(record.mode & 0o7777, 10)
  bytes.writeUInt32LE(record.uid, 12)
  bytes.writeUInt32LE(record.gid, 16)
  bytes.writeUInt32LE(record.mtimeNanos, 20)
  bytes.writeBigInt64LE(BigInt(record.mtimeSeconds), 24)
  bytes.writeBigUInt64LE(BigInt(record.size), 32)
  bytes.write(name, headerBytes, "latin1")
  bytes.write(target, headerBytes + name.length, "latin1")
  return bytes
}

const safeInteger = (value: bigint): number => {
  const number = Number(value)
  if (!Number.isSafeInteger(number)) throw new TreeMalformed("a number is out of range")
  return number
}

/**
 * Takes a stream of records that comes in arbitrary pieces. Throws `TreeMalformed`, and what the sink throws.
 *
 * Invariant: holds at most one record without its data (8 KiB).
 */
export class TreeReader {
  private pending = Buffer.alloc(0)
  private wanted = headerBytes
  private left = 0
  private records = 0
  private ended = false

  constructor(private readonly sink: TreeSink) {}

  push(chunk: Uint8Array): void {
    let bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    while (bytes.length > 0) {
      if (this.ended) throw new TreeMalformed("there are bytes after the end")
      if (this.left > 0) {
        const piece = bytes.subarray(0, Math.min(this.left, bytes.length))
        bytes = bytes.subarray(piece.length)
        this.left -= piece.length
        this.sink.data(piece)
        if (this.left === 0) this.sink.fileEnd()
        continue
      }
      const take = Math.min(this.wanted - this.pending.length, bytes.length)
      this.pending = Buffer.concat([this.pending, bytes.subarray(0, take)])
      bytes = bytes.subarray(take)
      if (this.pending.length === this.wanted) this.advance()
    }
  }

  /** Ends the stream; one without its last record is refused. */
  finish(): void {
    if (!this.ended) throw new TreeMalformed("the stream was cut off")
  }

  private advance(): void {
    const header = this.pending
    const type = types[header[4]! - 1]
    const [nameLength, targetLength] = [header.readUInt16LE(6), header.readUInt16LE(8)]
    if (this.wanted === headerBytes) {
      if (header.toString("latin1", 0, 4) !== "BKT1" || type === undefined || header[5] !== 0) {
        throw new TreeMalformed("it is not a tree")
      }
      if (nameLength > nameBytesMax || targetLength > nameBytesMax) throw new TreeMalformed("a name is too long")
      if (nameLength + targetLength > 0) {
        this.wanted = headerBytes + nameLength + targetLength
        return
      }
    }
    const nameEnd = headerBytes + nameLength
    const record: TreeRecord = {
      type: type!,
      name: header.toString("latin1", headerBytes, nameEnd),
      target: header.toString("latin1", nameEnd),
      mode: header.readUInt16LE(10),
      uid: header.readUInt32LE(12),
      gid: header.readUInt32LE(16),
      mtimeNanos: header.readUInt32LE(20),
      mtimeSeconds: safeInteger(header.readBigInt64LE(24)),
      size: safeInteger(header.readBigUInt64LE(32))
    }
    if (record.mode > 0o7777 || record.mtimeNanos >= 1e9 || (record.type !== "file" && record.size > 0)) {
      throw new TreeMalformed("a field is out of range")
    }
    if (!isSound(record)) throw new TreeMalformed("a name is not allowed")
    if (++this.records > recordsMax) throw new TreeMalformed(`it has more than ${recordsMax} files`)
    this.pending = Buffer.alloc(0)
    this.wanted = headerBytes
    this.ended = record.type === "end"
    this.sink.record(record)
    this.left = record.size
    if (record.type === "file" && record.size === 0) this.sink.fileEnd()
  }
}

/** Puts the whole tree under another name: its root becomes `root`. */
export const renameRecord = (record: TreeRecord, root: string): TreeRecord => {
  if (root === "" || record.type === "end") return record
  const below = (name: string) => (name === "" ? root : `${root}/${name}`)
  return { ...record, name: below(record.name), target: record.type === "link" ? below(record.target) : record.target }
}
