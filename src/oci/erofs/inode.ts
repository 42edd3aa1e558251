/**
 * The inode model that tar tree, writer, reader and merge share. Plain data: names are binary strings (one char per byte),
 * so that names which are not UTF-8 stay exact and sort as bytes. Knows no bytes on disk.
 */
import { NULL_ADDRESS, S_IFCHR, S_IFDIR, S_IFMT, S_IFREG } from "./format.ts"

export interface Xattr {
  /** Whole name as a binary string, for example `security.capability`. */
  readonly name: string
  readonly value: Uint8Array
}

/** Marks a directory that no tar entry described, so that a merge leaves the lower layer's mode, owner and times alone. */
export const IMPLICIT_XATTR = "trusted.bunker.implicit"
/** overlayfs's mark of a directory that hides everything below it (kernel, Documentation/filesystems/overlayfs.rst). */
export const OPAQUE_XATTR = "trusted.overlay.opaque"

/** On an empty file: its value is the path of the file in the lower layers that this is another name of. */
export const LOWER_LINK_XATTR = "trusted.bunker.lower-link"
/** On the root of a layer that has such files. */
export const LINKS_LOWER_XATTR = "trusted.bunker.links-lower"

/** Stretches of a sparse file: triples of first logical block, count of blocks, first block on the device. */
export type Runs = ReadonlyArray<number>

export class Inode {
  /** Type and permission bits of stat(2). */
  mode: number
  uid = 0
  gid = 0
  /** Unix seconds, may be negative, and nanoseconds within them. */
  mtimeSeconds = 0
  mtimeNanos = 0
  /** Bytes of a regular file. */
  size = 0
  /** Encoded device number of a device node. */
  rdev = 0
  /** Target of a symbolic link, a binary string. */
  target: string | undefined = undefined
  xattrs: ReadonlyArray<Xattr> | undefined = undefined
  children: Map<string, Inode> | undefined = undefined
  /** Device of the data: 0 is the image itself, n the n-th extra device. */
  device = 0
  /** First block of a file that lies in one piece. */
  block = NULL_ADDRESS
  /** Set for a file with holes, instead of `block`. */
  runs: Runs | undefined = undefined
  /** Logarithm of the chunk size of a file with holes. */
  chunkBits = 0
  opaque = false
  implicit = false
  /** Path, a binary string, of the lower layers' file that this name shares its inode with; a merge puts that inode here. */
  lowerLink: string | undefined = undefined
  /** On a layer's root: names in it share inodes with lower layers. */
  linksLower = false
  /** Filled in by the writer. */
  nid = -1
  nlink = 0
  parent: Inode | undefined = undefined

  constructor(mode: number) {
    this.mode = mode
    if ((mode & S_IFMT) === S_IFDIR) this.children = new Map()
  }

  get isDirectory(): boolean {
    return this.children !== undefined
  }
  get isFile(): boolean {
    return (this.mode & S_IFMT) === S_IFREG
  }
  /** overlayfs's whiteout: a character device 0:0. */
  get isWhiteout(): boolean {
    return (this.mode & S_IFMT) === S_IFCHR && this.rdev === 0
  }
}

/** A directory that exists only because something lies in it. */
export const implicitDirectory = (): Inode => {
  const inode = new Inode(S_IFDIR | 0o755)
  inode.implicit = true
  return inode
}

/** Takes over everything of `from` but its type, place and children. */
export const copyAttributes = (from: Inode, to: Inode): void => {
  to.mode = (to.mode & S_IFMT) | (from.mode & 0o7777)
  to.uid = from.uid
  to.gid = from.gid
  to.mtimeSeconds = from.mtimeSeconds
  to.mtimeNanos = from.mtimeNanos
  to.xattrs = from.xattrs
}
