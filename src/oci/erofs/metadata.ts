/**
 * Writes the metadata and the superblock of an EROFS image, after its data, so that a layer is written in one pass.
 * Equal trees and places give equal bytes: no clock and no random number goes in. Does not compress and shares no xattrs.
 */
import { Buffer } from "node:buffer"
import { directorySize, sortedNames, writeDirectory } from "./directory.ts"
import {
  BLOCK,
  BLOCK_BITS,
  CHUNK_INDEX_SIZE,
  CHUNK_INDEXES,
  COMPAT_MTIME,
  COMPAT_SB_CHKSUM,
  crc32c,
  DEVICE_SLOT,
  DEVICE_TAG,
  INCOMPAT_CHUNKED_FILE,
  INCOMPAT_DEVICE_TABLE,
  INODE_EXTENDED,
  INODE_SIZE,
  INODE_SLOT_BITS,
  LAYOUT_CHUNK,
  LAYOUT_INLINE,
  LAYOUT_PLAIN,
  NOTE_OFFSET,
  NULL_ADDRESS,
  roundUp,
  SUPER_MAGIC,
  SUPER_OFFSET,
  SUPER_SIZE,
  XATTR_HEADER
} from "./format.ts"
import type { Inode } from "./inode.ts"
import type { Output } from "./output.ts"
import { writeXattrBody, xattrBodySize } from "./xattr.ts"

/** An extra device that chunk indexes point into. */
export interface Device {
  /** At most 64 ASCII bytes, not empty; names the device for humans. */
  readonly tag: string
  readonly blocks: number
}

/** Where the metadata went. */
interface Placed {
  readonly metaBlock: number
  readonly rootNid: number
  readonly inodes: number
  readonly blocks: number
}

/** Blocks at the start of an image that superblock and device table take. */
export const reservedBlocks = (devices: number): number =>
  roundUp(SUPER_OFFSET + SUPER_SIZE + devices * DEVICE_SLOT, BLOCK) / BLOCK

/** Room before the root inode, so that no inode has number 0 (readdir treats such entries as deleted). */
const FIRST_INODE = INODE_SIZE

/** How an inode is stored. Worked out twice, for places and for bytes, because keeping it for a million inodes costs more. */
interface Shape {
  readonly layout: number
  readonly xattrBytes: number
  /** Bytes of data as `i_size` says. */
  readonly size: number
  /** Where inline data or chunk indexes begin, counted from the inode, and their length. */
  readonly tailStart: number
  readonly tailBytes: number
  /** Sorted names of a directory. */
  readonly names: ReadonlyArray<string>
}

/** Every inode once, each directory's children together, with link counts and parents set. */
const collect = (root: Inode): Array<Inode> => {
  const order: Array<Inode> = [root]
  root.parent = root
  root.nlink = 2
  for (let i = 0; i < order.length; i++) {
    const directory = order[i]!
    if (!directory.isDirectory) continue
    for (const name of [...directory.children!.keys()].sort()) {
      const child = directory.children!.get(name)!
      if (child.isDirectory) {
        child.parent = directory
        child.nlink = 2
        directory.nlink++
        order.push(child)
      } else if (child.nlink++ === 0) {
        order.push(child)
      }
    }
  }
  return order
}

const chunkCount = (inode: Inode): number => Math.ceil(inode.size / 2 ** inode.chunkBits)

/** Files whose data is elsewhere or has holes need chunk indexes; a piece in this image needs only its first block. */
const isChunked = (inode: Inode): boolean =>
  inode.isFile && inode.size > 0 && (inode.device !== 0 || inode.runs !== undefined)

const NO_NAMES: ReadonlyArray<string> = []

const shapeOf = (inode: Inode): Shape => {
  const xattrBytes = xattrBodySize(inode)
  const head = INODE_SIZE + xattrBytes
  const names = inode.isDirectory ? sortedNames(inode) : NO_NAMES
  const size = inode.isDirectory ? directorySize(names) : (inode.target?.length ?? inode.size)
  if (isChunked(inode)) {
    if (inode.runs === undefined) inode.chunkBits = Math.max(BLOCK_BITS, Math.ceil(Math.log2(inode.size)))
    const tailBytes = chunkCount(inode) * CHUNK_INDEX_SIZE
    return { layout: LAYOUT_CHUNK, xattrBytes, size, tailStart: roundUp(head, CHUNK_INDEX_SIZE), tailBytes, names }
  }
  const inline = !inode.isFile && size > 0 && head + size <= BLOCK
  const layout = inline ? LAYOUT_INLINE : LAYOUT_PLAIN
  return { layout, xattrBytes, size, tailStart: head, tailBytes: inline ? size : 0, names }
}

/** Gives each inode its number. Answers the bytes that the inodes take, whole blocks. */
const place = (order: ReadonlyArray<Inode>): number => {
  let position = FIRST_INODE
  for (const inode of order) {
    const { tailBytes, tailStart } = shapeOf(inode)
    // Inline data must share the inode's block; other inodes stay whole because it costs nothing and reads once.
    const together = tailStart + tailBytes <= BLOCK ? tailStart + tailBytes : INODE_SIZE
    if ((position % BLOCK) + together > BLOCK) position = roundUp(position, BLOCK)
    inode.nid = position / 2 ** INODE_SLOT_BITS
    position = roundUp(position + tailStart + tailBytes, 2 ** INODE_SLOT_BITS)
  }
  return roundUp(position, BLOCK)
}

/** `block` is where directory or symlink data of its own lies; -1 when there is none. */
const writeInode = (inode: Inode, shape: Shape, block: number, number: number, into: Buffer): void => {
  into.fill(0, 0, INODE_SIZE)
  into.writeUInt16LE(INODE_EXTENDED | (shape.layout << 1), 0)
  into.writeUInt16LE(shape.xattrBytes === 0 ? 0 : (shape.xattrBytes - XATTR_HEADER) / 4 + 1, 2)
  into.writeUInt16LE(inode.mode, 4)
  into.writeUInt32LE(shape.size % 2 ** 32, 8)
  into.writeUInt32LE(Math.floor(shape.size / 2 ** 32), 12)
  if (shape.layout === LAYOUT_CHUNK) into.writeUInt16LE(CHUNK_INDEXES | (inode.chunkBits - BLOCK_BITS), 16)
  else if (block >= 0) into.writeUInt32LE(block, 16)
  else if (inode.isFile && inode.size > 0) into.writeUInt32LE(inode.block, 16)
  else if (!inode.isFile && !inode.isDirectory && inode.target === undefined) into.writeUInt32LE(inode.rdev, 16)
  into.writeUInt32LE(number, 20)
  into.writeUInt32LE(inode.uid, 24)
  into.writeUInt32LE(inode.gid, 28)
  into.writeBigInt64LE(BigInt(inode.mtimeSeconds), 32)
  into.writeUInt32LE(inode.mtimeNanos, 40)
  into.writeUInt32LE(inode.nlink, 44)
}

const writeChunks = (inode: Inode, into: Buffer, at: number): void => {
  const chunkBlocks = 2 ** (inode.chunkBits - BLOCK_BITS)
  const runs = inode.runs ?? [0, Math.ceil(inode.size / BLOCK), inode.block]
  const count = chunkCount(inode)
  for (let i = 0; i < count; i++) {
    into.writeUInt16LE(0, at + i * 8)
    into.writeUInt16LE(0, at + i * 8 + 2)
    into.writeUInt32LE(NULL_ADDRESS, at + i * 8 + 4)
  }
  for (let r = 0; r < runs.length; r += 3) {
    const first = runs[r]!
    for (let block = first; block < first + runs[r + 1]!; block += chunkBlocks) {
      const index = at + (block / chunkBlocks) * 8
      into.writeUInt16LE(inode.device, index + 2)
      into.writeUInt32LE(runs[r + 2]! + block - first, index + 4)
    }
  }
}

/** Appends the metadata of the tree at the next block boundary of `out`. Sets `nid`, `nlink` and `parent` of each inode. */
export const writeMetadata = (root: Inode, out: Output): Placed => {
  const metaBlock = out.align()
  const start = out.position
  const order = collect(root)
  const end = place(order)
  let nextBlock = metaBlock + end / BLOCK
  let scratch = Buffer.allocUnsafeSlow(64 * 1024)
  const room = (bytes: number): Buffer => {
    if (scratch.length < bytes) scratch = Buffer.allocUnsafeSlow(bytes)
    return scratch
  }
  const writeData = (inode: Inode, names: ReadonlyArray<string>, into: Buffer): void => {
    if (inode.isDirectory) writeDirectory(inode, names, into)
    else into.write(inode.target!, "latin1")
  }
  const outside: Array<Inode> = []
  order.forEach((inode, number) => {
    const shape = shapeOf(inode)
    const { layout, names, size, tailBytes, tailStart, xattrBytes } = shape
    let block = -1
    if (layout === LAYOUT_PLAIN && size > 0 && !inode.isFile) {
      block = nextBlock
      nextBlock += Math.ceil(size / BLOCK)
      outside.push(inode)
    }
    out.zeros(start + inode.nid * 2 ** INODE_SLOT_BITS - out.position)
    const into = room(roundUp(tailStart + tailBytes, BLOCK))
    writeInode(inode, shape, block, number + 1, into)
    if (xattrBytes > 0) writeXattrBody(inode, into, INODE_SIZE)
    into.fill(0, INODE_SIZE + xattrBytes, tailStart)
    if (layout === LAYOUT_CHUNK) writeChunks(inode, into, tailStart)
    else if (layout === LAYOUT_INLINE) writeData(inode, names, into.subarray(tailStart))
    out.write(into.subarray(0, tailStart + tailBytes))
  })
  out.zeros(start + end - out.position)
  for (const inode of outside) {
    const { names, size } = shapeOf(inode)
    const into = room(roundUp(size, BLOCK))
    writeData(inode, names, into)
    out.write(into.subarray(0, size))
    out.align()
  }
  return { metaBlock, rootNid: root.nid, inodes: order.length, blocks: out.align() }
}

/**
 * Superblock and device table, as the first `reservedBlocks` blocks of the image. `uuid` has 16 bytes. `note` goes to byte
 * `NOTE_OFFSET`, which EROFS leaves alone, under the superblock's checksum; an image with devices has no room for one.
 */
export const superblock = (
  placed: Placed,
  uuid: Uint8Array,
  devices: ReadonlyArray<Device> = [],
  note: Uint8Array = new Uint8Array(0)
): Uint8Array => {
  const bytes = Buffer.alloc(reservedBlocks(devices.length) * BLOCK)
  bytes.set(note, NOTE_OFFSET)
  const sb = bytes.subarray(SUPER_OFFSET)
  sb.writeUInt32LE(SUPER_MAGIC, 0)
  sb.writeUInt32LE(COMPAT_SB_CHKSUM | COMPAT_MTIME, 8)
  sb[12] = BLOCK_BITS
  sb.writeUInt16LE(placed.rootNid, 14)
  sb.writeUInt32LE(placed.inodes, 16)
  sb.writeUInt32LE(placed.blocks, 36)
  sb.writeUInt32LE(placed.metaBlock, 40)
  sb.set(uuid.subarray(0, 16), 48)
  sb.writeUInt32LE(INCOMPAT_CHUNKED_FILE | (devices.length > 0 ? INCOMPAT_DEVICE_TABLE : 0), 80)
  sb.writeUInt16LE(devices.length, 86)
  if (devices.length > 0) {
    const table = SUPER_OFFSET + SUPER_SIZE
    sb.writeUInt16LE(table / DEVICE_SLOT, 88)
    // `mapped_blkaddr`: where the device begins when image and devices are one disk, end to end.
    let mapped = placed.blocks
    devices.forEach((device, i) => {
      const at = table + i * DEVICE_SLOT
      bytes.write(device.tag.slice(0, DEVICE_TAG), at, "latin1")
      bytes.writeUInt32LE(device.blocks, at + DEVICE_TAG)
      bytes.writeUInt32LE(mapped, at + DEVICE_TAG + 4)
      mapped += device.blocks
    })
  }
  sb.writeUInt32LE(crc32c(bytes.subarray(SUPER_OFFSET, BLOCK)), 4)
  return bytes
}
