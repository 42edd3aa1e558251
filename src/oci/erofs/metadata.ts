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
  NULL_ADDRESS,
  roundUp,
  S_IFLNK,
  S_IFMT,
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
export interface Placed {
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

interface Plan {
  readonly inode: Inode
  readonly at: number
  readonly layout: number
  readonly xattrBytes: number
  /** Inline data or chunk indexes. */
  readonly tailAt: number
  readonly tailBytes: number
  /** First block of directory or symlink data, counted from the start of the image; -1 when there is none. */
  block: number
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

const plan = (order: ReadonlyArray<Inode>): { plans: Array<Plan>; end: number } => {
  const plans: Array<Plan> = []
  let position = FIRST_INODE
  for (const inode of order) {
    const xattrBytes = xattrBodySize(inode)
    const head = INODE_SIZE + xattrBytes
    const link = (inode.mode & S_IFMT) === S_IFLNK
    const dataBytes = inode.isDirectory ? directorySize(sortedNames(inode)) : link ? inode.target!.length : 0
    let layout = LAYOUT_PLAIN
    let tailBytes = 0
    if (isChunked(inode)) {
      layout = LAYOUT_CHUNK
      if (inode.runs === undefined) inode.chunkBits = Math.max(BLOCK_BITS, Math.ceil(Math.log2(inode.size)))
      tailBytes = chunkCount(inode) * CHUNK_INDEX_SIZE
    } else if (dataBytes > 0 && head + dataBytes <= BLOCK) {
      layout = LAYOUT_INLINE
      tailBytes = dataBytes
    }
    const tailStart = layout === LAYOUT_CHUNK ? roundUp(head, CHUNK_INDEX_SIZE) : head
    const together = layout === LAYOUT_INLINE || tailStart + tailBytes <= BLOCK ? tailStart + tailBytes : INODE_SIZE
    // Inline data must share the inode's block; other inodes stay whole because it costs nothing and reads once.
    if ((position % BLOCK) + together > BLOCK) position = roundUp(position, BLOCK)
    inode.nid = position / 2 ** INODE_SLOT_BITS
    plans.push({ inode, at: position, layout, xattrBytes, tailAt: position + tailStart, tailBytes, block: -1 })
    position = roundUp(position + tailStart + tailBytes, 2 ** INODE_SLOT_BITS)
  }
  return { plans, end: roundUp(position, BLOCK) }
}

const writeInode = (item: Plan, size: number, number: number, into: Buffer): void => {
  const { inode } = item
  into.fill(0, 0, INODE_SIZE)
  into.writeUInt16LE(INODE_EXTENDED | (item.layout << 1), 0)
  into.writeUInt16LE(item.xattrBytes === 0 ? 0 : (item.xattrBytes - XATTR_HEADER) / 4 + 1, 2)
  into.writeUInt16LE(inode.mode, 4)
  into.writeUInt32LE(size % 2 ** 32, 8)
  into.writeUInt32LE(Math.floor(size / 2 ** 32), 12)
  if (item.layout === LAYOUT_CHUNK) into.writeUInt16LE(CHUNK_INDEXES | (inode.chunkBits - BLOCK_BITS), 16)
  else if (item.block >= 0) into.writeUInt32LE(item.block, 16)
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
  const { plans, end } = plan(order)
  let nextBlock = metaBlock + end / BLOCK
  const sizeOf = (item: Plan): number => {
    if (item.inode.isDirectory) return directorySize(sortedNames(item.inode))
    return item.inode.target === undefined ? item.inode.size : item.inode.target.length
  }
  let scratch = Buffer.allocUnsafeSlow(64 * 1024)
  const room = (bytes: number): Buffer => {
    if (scratch.length < bytes) scratch = Buffer.allocUnsafeSlow(bytes)
    return scratch
  }
  const outside: Array<Plan> = []
  plans.forEach((item, number) => {
    const { inode } = item
    const size = sizeOf(item)
    if (item.layout === LAYOUT_PLAIN && size > 0 && !inode.isFile) {
      item.block = nextBlock
      nextBlock += Math.ceil(size / BLOCK)
      outside.push(item)
    }
    out.zeros(start + item.at - out.position)
    const into = room(roundUp(item.tailAt - item.at + item.tailBytes, BLOCK))
    writeInode(item, size, number + 1, into)
    if (item.xattrBytes > 0) writeXattrBody(inode, into, INODE_SIZE)
    const tail = item.tailAt - item.at
    into.fill(0, INODE_SIZE + item.xattrBytes, tail)
    if (item.layout === LAYOUT_CHUNK) writeChunks(inode, into, tail)
    else if (item.layout === LAYOUT_INLINE && inode.isDirectory)
      writeDirectory(inode, sortedNames(inode), into.subarray(tail))
    else if (item.layout === LAYOUT_INLINE) into.write(inode.target!, tail, "latin1")
    out.write(into.subarray(0, tail + item.tailBytes))
  })
  out.zeros(start + end - out.position)
  for (const item of outside) {
    const size = sizeOf(item)
    const into = room(roundUp(size, BLOCK))
    if (item.inode.isDirectory) writeDirectory(item.inode, sortedNames(item.inode), into)
    else into.write(item.inode.target!, 0, "latin1")
    out.write(into.subarray(0, size))
    out.align()
  }
  return { metaBlock, rootNid: root.nid, inodes: order.length, blocks: out.align() }
}

/** Superblock and device table, as the first `reservedBlocks` blocks of the image. `uuid` has 16 bytes. */
export const superblock = (placed: Placed, uuid: Uint8Array, devices: ReadonlyArray<Device> = []): Uint8Array => {
  const bytes = Buffer.alloc(reservedBlocks(devices.length) * BLOCK)
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
