/**
 * Reads the metadata of an EROFS image of the subset that the writer makes. Trusts nothing: every offset is checked, and
 * what does not fit throws `RejectedInput`. Reads no file data, and in pieces, so that memory stays small.
 */
import { Buffer } from "node:buffer"
import fs from "node:fs"
import { RejectedInput } from "../tar/rejected.ts"
import { type DirectoryEntry, readDirectory } from "./directory.ts"
import {
  BLOCK,
  BLOCK_BITS,
  CHUNK_BITS_MASK,
  CHUNK_INDEX_SIZE,
  CHUNK_INDEXES,
  crc32c,
  INCOMPAT_CHUNKED_FILE,
  INODE_EXTENDED,
  INODE_SIZE,
  INODE_SLOT_BITS,
  LAYOUT_CHUNK,
  LAYOUT_INLINE,
  LAYOUT_PLAIN,
  NOTE_OFFSET,
  NOTE_SIZE,
  NULL_ADDRESS,
  roundUp,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  SUPER_MAGIC,
  SUPER_OFFSET,
  XATTR_HEADER
} from "./format.ts"
import { Inode } from "./inode.ts"
import { readXattrBody } from "./xattr.ts"

const PAGE = 64 * 1024
const PAGES = 64
/** Most bytes of one directory: a million entries with long names. */
const DIRECTORY_MAX = 512 * 2 ** 20
const CHUNKS_MAX = 16 * 2 ** 20

interface ReadInode {
  readonly inode: Inode
  /** Of a directory; the inode's own `children` stay empty. */
  readonly entries: ReadonlyArray<DirectoryEntry> | undefined
  readonly nlink: number
}

export class ErofsReader {
  readonly #pages = new Map<number, Buffer>()
  readonly bytes: number
  readonly blocks: number
  readonly rootNid: number
  readonly inodes: number
  readonly uuid: Uint8Array
  /** What the writer noted in the first block; zeros where it noted nothing. */
  readonly note: Uint8Array
  readonly #meta: number

  /** Reads and checks the superblock of an open file, which the caller closes. */
  constructor(
    readonly fd: number,
    readonly name: string
  ) {
    this.bytes = fs.fstatSync(fd).size
    if (this.bytes < BLOCK || this.bytes % BLOCK !== 0)
      throw this.#broken("its length is not a multiple of the block size")
    const first = Buffer.from(this.#read(0, BLOCK))
    const sb = first.subarray(SUPER_OFFSET)
    if (sb.readUInt32LE(0) !== SUPER_MAGIC) throw this.#broken("it has no superblock")
    const checksum = sb.readUInt32LE(4)
    sb.writeUInt32LE(0, 4)
    if (crc32c(sb) !== checksum) throw this.#broken("the checksum of its superblock is wrong")
    if (sb[12] !== BLOCK_BITS || sb.readUInt32LE(80) !== INCOMPAT_CHUNKED_FILE)
      throw this.#broken("it was not made by Bunker")
    this.blocks = sb.readUInt32LE(36)
    if (this.blocks * BLOCK !== this.bytes) throw this.#broken("it is not as long as its superblock says")
    this.rootNid = sb.readUInt16LE(14)
    this.inodes = sb.readUInt32LE(16)
    this.#meta = sb.readUInt32LE(40) * BLOCK
    this.uuid = Uint8Array.from(sb.subarray(48, 64))
    this.note = Uint8Array.from(first.subarray(NOTE_OFFSET, NOTE_OFFSET + NOTE_SIZE))
  }

  #broken(why: string): RejectedInput {
    return new RejectedInput(`the converted image ${this.name} is damaged: ${why}; remove it and pull again`)
  }

  #page(number: number): Buffer {
    const known = this.#pages.get(number)
    if (known !== undefined) return known
    if (this.#pages.size >= PAGES) this.#pages.delete(this.#pages.keys().next().value!)
    const page = Buffer.allocUnsafeSlow(PAGE)
    let have = 0
    while (have < PAGE) {
      const got = fs.readSync(this.fd, page, have, PAGE - have, number * PAGE + have)
      if (got === 0) break
      have += got
    }
    const read = page.subarray(0, have)
    this.#pages.set(number, read)
    return read
  }

  #read(at: number, length: number): Buffer {
    if (!Number.isSafeInteger(at) || at < 0 || at + length > this.bytes)
      throw this.#broken("an address lies outside of it")
    const from = at % PAGE
    const first = this.#page(Math.floor(at / PAGE))
    if (from + length <= first.length) return first.subarray(from, from + length)
    const whole = Buffer.allocUnsafeSlow(length)
    for (let done = 0; done < length; ) {
      const page = this.#page(Math.floor((at + done) / PAGE))
      const start = (at + done) % PAGE
      const take = Math.min(length - done, page.length - start)
      if (take <= 0) throw this.#broken("it is cut")
      page.copy(whole, done, start, start + take)
      done += take
    }
    return whole
  }

  /** Reads one inode with its xattrs, its link target, its directory entries or the places of its data. */
  read(nid: number): ReadInode {
    const at = this.#meta + nid * 2 ** INODE_SLOT_BITS
    const raw = this.#read(at, INODE_SIZE)
    const format = raw.readUInt16LE(0)
    const layout = (format >> 1) & 7
    if ((format & INODE_EXTENDED) === 0 || format >> 4 !== 0) throw this.#broken("it has an inode of an unknown kind")
    const inode = new Inode(raw.readUInt16LE(4))
    const size = raw.readUInt32LE(8) + raw.readUInt32LE(12) * 2 ** 32
    if (!Number.isSafeInteger(size)) throw this.#broken("it has an inode of an absurd size")
    const address = raw.readUInt32LE(16)
    inode.uid = raw.readUInt32LE(24)
    inode.gid = raw.readUInt32LE(28)
    inode.mtimeSeconds = Number(raw.readBigInt64LE(32))
    if (!Number.isSafeInteger(inode.mtimeSeconds)) throw this.#broken("it has an inode of an absurd time")
    inode.mtimeNanos = raw.readUInt32LE(40)
    const nlink = raw.readUInt32LE(44)
    const units = raw.readUInt16LE(2)
    const xattrBytes = units === 0 ? 0 : XATTR_HEADER + 4 * (units - 1)
    if (xattrBytes > 0 && !readXattrBody(inode, this.#read(at + INODE_SIZE, xattrBytes))) {
      throw this.#broken("it has malformed xattrs")
    }
    const tail = at + INODE_SIZE + xattrBytes
    const type = inode.mode & S_IFMT
    if (type === S_IFDIR || type === S_IFLNK) {
      if (size > (type === S_IFDIR ? DIRECTORY_MAX : BLOCK)) throw this.#broken("a directory or link is too large")
      if (layout !== LAYOUT_INLINE && layout !== LAYOUT_PLAIN) throw this.#broken("it has an inode of an unknown kind")
      const data = this.#read(layout === LAYOUT_INLINE ? tail : address * BLOCK, size)
      if (type === S_IFLNK) {
        inode.target = data.toString("latin1")
        return { inode, entries: undefined, nlink }
      }
      const entries = readDirectory(data)
      if (entries === undefined) throw this.#broken("it has a malformed directory")
      return { inode, entries, nlink }
    }
    if (type === S_IFREG) this.#place(inode, size, layout, address, tail)
    else inode.rdev = address
    return { inode, entries: undefined, nlink }
  }

  #place(inode: Inode, size: number, layout: number, address: number, tail: number): void {
    inode.size = size
    if (layout === LAYOUT_PLAIN) {
      inode.block = address
      if (size > 0) this.#inside(address, Math.ceil(size / BLOCK))
      return
    }
    if (layout !== LAYOUT_CHUNK || (address & ~CHUNK_BITS_MASK) !== CHUNK_INDEXES) {
      throw this.#broken("it has an inode of an unknown kind")
    }
    inode.chunkBits = BLOCK_BITS + (address & CHUNK_BITS_MASK)
    const chunk = 2 ** (inode.chunkBits - BLOCK_BITS)
    const count = Math.ceil(size / BLOCK / chunk)
    if (count > CHUNKS_MAX) throw this.#broken("it has a file of too many pieces")
    const indexes = this.#read(roundUp(tail, CHUNK_INDEX_SIZE), count * CHUNK_INDEX_SIZE)
    const total = Math.ceil(size / BLOCK)
    const runs: Array<number> = []
    for (let i = 0; i < count; i++) {
      const block = indexes.readUInt32LE(i * CHUNK_INDEX_SIZE + 4)
      if (block === NULL_ADDRESS) continue
      if (indexes.readUInt16LE(i * CHUNK_INDEX_SIZE + 2) !== 0) throw this.#broken("a file lies on another device")
      const first = i * chunk
      const length = Math.min(chunk, total - first)
      this.#inside(block, length)
      const last = runs.length - 3
      if (last >= 0 && runs[last]! + runs[last + 1]! === first && runs[last + 2]! + runs[last + 1]! === block) {
        runs[last + 1] = runs[last + 1]! + length
      } else runs.push(first, length, block)
    }
    inode.runs = runs
  }

  #inside(block: number, count: number): void {
    if (block === 0 || block + count > this.blocks) throw this.#broken("a file lies outside of it")
  }
}
