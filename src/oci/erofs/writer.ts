/** Builds a small EROFS image in memory from a list of entries. Streams nothing: layers go through `oci/layer/layer.ts`. */
import { BLOCK, encodeDevice, S_IFDIR, S_IFMT } from "./format.ts"
import { Inode, implicitDirectory } from "./inode.ts"
import { reservedBlocks, superblock, writeMetadata } from "./metadata.ts"
import { MemoryOutput } from "./output.ts"

/** One file of an in-memory image. */
export interface ImageEntry {
  /** Absolute or relative path, UTF-8; missing parents become directories of mode 0755. `/` is the root. */
  readonly path: string
  /** Type and permission bits of stat(2), for example `0o100755`. */
  readonly mode: number
  /** Default 0. */
  readonly uid?: number
  readonly gid?: number
  /** Unix seconds, default 0. */
  readonly mtime?: number
  /** Content of a regular file, default empty. */
  readonly data?: Uint8Array
  /** Target of a symbolic link, UTF-8. */
  readonly linkTarget?: string
  /** Device number of a device node, default 0:0. */
  readonly rdev?: { readonly major: number; readonly minor: number }
  readonly xattrs?: Readonly<Record<string, Uint8Array>>
}

const binary = (text: string): string => Buffer.from(text, "utf8").toString("latin1")

const place = (root: Inode, entry: ImageEntry): Inode => {
  const parts = binary(entry.path)
    .split("/")
    .filter((part) => part !== "" && part !== ".")
  let directory = root
  for (const part of parts.slice(0, -1)) {
    const next = directory.children!.get(part) ?? implicitDirectory()
    if (!next.isDirectory) throw new RangeError(`"${entry.path}" lies below a file`)
    directory.children!.set(part, next)
    directory = next
  }
  const name = parts.at(-1)
  const old = name === undefined ? root : directory.children!.get(name)
  if (old?.isDirectory && (entry.mode & S_IFMT) === S_IFDIR) {
    old.mode = entry.mode
    return old
  }
  if (name === undefined || old !== undefined) throw new RangeError(`"${entry.path}" is given twice`)
  const inode = new Inode(entry.mode)
  directory.children!.set(name, inode)
  return inode
}

const clearMarks = (inode: Inode): void => {
  inode.implicit = false
  for (const child of inode.children?.values() ?? []) clearMarks(child)
}

/**
 * The bytes of an EROFS image with the given entries; a multiple of 4096. Equal entries give equal bytes.
 * `uuid` is 16 bytes, default zeros. A path given twice, or below a file, is a bug of the caller and throws.
 */
export const buildImage = (entries: ReadonlyArray<ImageEntry>, uuid: Uint8Array = new Uint8Array(16)): Uint8Array => {
  const root = implicitDirectory()
  const out = new MemoryOutput()
  out.zeros(reservedBlocks(0) * BLOCK)
  for (const entry of entries) {
    const inode = place(root, entry)
    inode.uid = entry.uid ?? 0
    inode.gid = entry.gid ?? 0
    inode.mtimeSeconds = entry.mtime ?? 0
    if (entry.linkTarget !== undefined) inode.target = binary(entry.linkTarget)
    if (entry.rdev !== undefined) inode.rdev = encodeDevice(entry.rdev.major, entry.rdev.minor)
    if (entry.xattrs !== undefined) {
      inode.xattrs = Object.entries(entry.xattrs).map(([name, value]) => ({ name: binary(name), value }))
    }
    if (entry.data !== undefined && entry.data.length > 0) {
      inode.size = entry.data.length
      inode.block = out.align()
      out.write(entry.data)
    }
  }
  clearMarks(root)
  out.finish(superblock(writeMetadata(root, out), uuid))
  return out.toBytes()
}
