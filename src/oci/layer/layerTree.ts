/**
 * Grows the tree of one layer from tar entries, in memory: no path of the host is ever touched, so nothing can escape.
 * A later entry replaces an earlier one, except that a directory keeps its children. Whiteouts become overlayfs's, whatever
 * their order. A path through a symbolic link of the same layer is followed inside the tree, `/` being the tree's root.
 * Memory is bounded by the count of entries. Throws `RejectedInput`.
 */
import {
  encodeDevice,
  NAME_MAX,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFREG,
  XATTR_BODY_MAX,
  XATTR_VALUE_MAX
} from "../erofs/format.ts"
import { Inode, implicitDirectory, type Xattr } from "../erofs/inode.ts"
import { storable, xattrBodySize } from "../erofs/xattr.ts"
import type { TarEntry } from "../tar/reader.ts"
import { RejectedInput, readable } from "../tar/rejected.ts"

export interface TreeLimits {
  /** Inodes and hard links, directories without an entry of their own included. Default 1 million. */
  readonly entriesMax: number
  /** Bytes of a path. Default 4096. */
  readonly pathBytesMax: number
  /** Components of a path. Default 128. */
  readonly depthMax: number
  /** Bytes of one file. Default 16 GiB. */
  readonly fileBytesMax: number
}

export const TREE_LIMITS: TreeLimits = {
  entriesMax: 1_000_000,
  pathBytesMax: 4096,
  depthMax: 128,
  fileBytesMax: 16 * 2 ** 30
}

/** As many symbolic links as Linux follows in one path. */
const LINKS_MAX = 40
const ID_MAX = 0xfffffffe
const WHITEOUT = ".wh."
const OPAQUE = ".wh..wh..opq"
/** Names that aufs kept for itself; they never were part of a tree. */
const AUFS = ".wh..wh."

const MODES = {
  file: S_IFREG,
  symlink: S_IFLNK,
  char: S_IFCHR,
  block: S_IFBLK,
  directory: S_IFDIR,
  fifo: S_IFIFO
} as const

/** Components of a path; `/` at the start, doubled slashes and `.` are dropped. */
const splitPath = (path: string, limits: TreeLimits): Array<string> => {
  if (path.length > limits.pathBytesMax)
    throw new RejectedInput(`a path has more than ${limits.pathBytesMax} bytes`, path)
  const parts: Array<string> = []
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue
    if (part === "..") throw new RejectedInput("a path has a `..` component", path)
    // A whiteout's name is as long as the name that it hides, and its prefix.
    const lengthMax = part.startsWith(WHITEOUT) ? WHITEOUT.length + NAME_MAX : NAME_MAX
    if (part.length > lengthMax) throw new RejectedInput(`a name has more than ${NAME_MAX} bytes`, path)
    if (part.includes("\0")) throw new RejectedInput("a path holds a NUL byte", path)
    parts.push(part)
  }
  if (parts.length > limits.depthMax) throw new RejectedInput(`a path is deeper than ${limits.depthMax}`, path)
  return parts
}

/** A directory that is there for the sake of whiteouts alone. */
const onlyWhiteouts = (inode: Inode): boolean =>
  inode.implicit && [...inode.children!.values()].every((child) => child.isWhiteout || onlyWhiteouts(child))

export class LayerTree {
  readonly root = implicitDirectory()
  #entries = 0
  constructor(readonly limits: TreeLimits = TREE_LIMITS) {}

  /** Applies an entry. Answers the inode that its data belongs to, undefined when there is none. */
  apply(entry: TarEntry): Inode | undefined {
    const parts = splitPath(entry.path, this.limits)
    const name = parts.pop()
    if (parts.some((part) => part.startsWith(WHITEOUT)) || name?.startsWith(WHITEOUT)) {
      this.#whiteout(parts, name!, entry)
      return undefined
    }
    if (name === undefined) {
      if (entry.type !== "directory") throw new RejectedInput("the root of the layer is not a directory", entry.path)
      this.#describe(this.root, entry)
      return undefined
    }
    const directory = this.#directory(parts, entry.path)
    if (entry.type === "hardlink") {
      this.#put(directory, name, this.#linkTarget(entry), entry.path)
      return undefined
    }
    const old = directory.children!.get(name)
    if (entry.type === "directory" && old?.isDirectory) {
      this.#describe(old, entry)
      return undefined
    }
    const inode = new Inode(MODES[entry.type])
    this.#describe(inode, entry)
    // What stood here in this very layer hid the lower layers' directory of this name.
    if (inode.isDirectory && old !== undefined) inode.opaque = true
    this.#put(directory, name, inode, entry.path)
    return inode.isFile ? inode : undefined
  }

  #put(directory: Inode, name: string, inode: Inode, path: string): void {
    if (++this.#entries > this.limits.entriesMax) {
      throw new RejectedInput(`the layer has more than ${this.limits.entriesMax} entries`, path)
    }
    directory.children!.set(name, inode)
  }

  /** The directory with the given path; missing ones are made. */
  #directory(parts: ReadonlyArray<string>, path: string): Inode {
    let at = this.root
    const above: Array<Inode> = []
    const left = [...parts].reverse()
    for (let links = 0; left.length > 0; ) {
      const part = left.pop()!
      if (part === "" || part === ".") continue
      if (part === "..") {
        at = above.pop() ?? this.root
        continue
      }
      let next = at.children!.get(part)
      if (next?.target !== undefined) {
        if (++links > LINKS_MAX) throw new RejectedInput("a path goes through too many symbolic links", path)
        if (next.target.startsWith("/")) {
          at = this.root
          above.length = 0
        }
        left.push(...next.target.split("/").reverse())
        continue
      }
      if (next === undefined || next.isWhiteout) {
        const hidden = next !== undefined
        if (part.length > NAME_MAX) throw new RejectedInput("a symbolic link leads to a name that is too long", path)
        next = implicitDirectory()
        // Below a whiteout a new directory begins that shows nothing of the lower one.
        next.implicit = !hidden
        next.opaque = hidden
        this.#put(at, part, next, path)
      }
      if (!next.isDirectory) throw new RejectedInput("an entry lies below something that is not a directory", path)
      above.push(at)
      if (above.length > this.limits.depthMax)
        throw new RejectedInput(`a path is deeper than ${this.limits.depthMax}`, path)
      at = next
    }
    return at
  }

  /**
   * What a hard link is another name of: an inode of this layer, or, where the layer has nothing in the way, a note of the lower
   * layers' one (umoci, containerd and Docker link to whatever the layers so far have made).
   */
  #linkTarget(entry: TarEntry): Inode {
    const parts = splitPath(entry.linkName, this.limits)
    const name = parts.pop()
    const target = name === undefined ? undefined : this.#find(parts, name, entry.path)
    if (target === undefined && name !== undefined && !this.#hides([...parts, name])) {
      const lower = new Inode(S_IFREG)
      lower.lowerLink = [...parts, name].join("/")
      this.root.linksLower = true
      return lower
    }
    if (target === undefined || target.isWhiteout) {
      throw new RejectedInput(
        `a hard link leads to "${readable(entry.linkName)}", which this layer has removed or replaced before`,
        entry.path
      )
    }
    if (target.isDirectory) throw new RejectedInput("a hard link leads to a directory", entry.path)
    return target
  }

  /** Whether the lower layers' file of this path can not be seen through what the layer has made so far. */
  #hides(parts: ReadonlyArray<string>): boolean {
    let at: Inode | undefined = this.root
    for (const part of parts) {
      const next: Inode | undefined = at.children?.get(part)
      if (next === undefined) return at.opaque || !at.isDirectory
      at = next
    }
    return true
  }

  #find(parts: ReadonlyArray<string>, name: string, path: string): Inode | undefined {
    let at: Inode | undefined = this.root
    for (const part of parts) {
      at = at.children?.get(part)
      if (at === undefined) return undefined
      if (at.target !== undefined) return this.#directory(parts, path).children!.get(name)
    }
    return at.children?.get(name)
  }

  /**
   * Whether something other than a directory, a whiteout too, stands in the path in this layer: it hides all that a whiteout
   * below could.
   * Builders that compare trees write such whiteouts for a directory that became a file or a link.
   */
  #hidesLower(parts: ReadonlyArray<string>): boolean {
    let at: Inode | undefined = this.root
    for (const part of parts) {
      at = at.children!.get(part)
      if (at === undefined) return false
      if (!at.isDirectory) return true
    }
    return false
  }

  #whiteout(parts: ReadonlyArray<string>, name: string, entry: TarEntry): void {
    if (parts.some((part) => part.startsWith(AUFS)) || (name.startsWith(AUFS) && name !== OPAQUE)) return
    if (parts.some((part) => part.startsWith(WHITEOUT)))
      throw new RejectedInput("an entry lies below a whiteout", entry.path)
    if (this.#hidesLower(parts)) return
    if (name === OPAQUE) {
      this.#directory(parts, entry.path).opaque = true
      return
    }
    const hidden = name.slice(WHITEOUT.length)
    if (hidden === "" || hidden === "." || hidden === "..")
      throw new RejectedInput("a whiteout has no valid name", entry.path)
    const directory = this.#directory(parts, entry.path)
    const old = directory.children!.get(hidden)
    if (old === undefined || onlyWhiteouts(old)) {
      const whiteout = new Inode(S_IFCHR)
      whiteout.mtimeSeconds = entry.mtimeSeconds
      whiteout.mtimeNanos = entry.mtimeNanos
      this.#put(directory, hidden, whiteout, entry.path)
    } else if (old.isDirectory) {
      // This layer's own directory stays, the lower layers' goes with its mode and owner.
      old.opaque = true
      old.implicit = false
    }
  }

  #describe(inode: Inode, entry: TarEntry): void {
    if (entry.uid < 0 || entry.uid > ID_MAX || entry.gid < 0 || entry.gid > ID_MAX) {
      throw new RejectedInput("an owner id is out of the range of Linux", entry.path)
    }
    if (entry.size > this.limits.fileBytesMax) {
      throw new RejectedInput(`a file has more than ${this.limits.fileBytesMax} bytes`, entry.path)
    }
    inode.implicit = false
    inode.mode = MODES[entry.type as keyof typeof MODES] | entry.mode
    inode.uid = entry.uid
    inode.gid = entry.gid
    inode.mtimeSeconds = entry.mtimeSeconds
    inode.mtimeNanos = entry.mtimeNanos
    inode.size = entry.size
    if (entry.type === "symlink") {
      if (entry.linkName === "" || entry.linkName.length >= 4096) {
        throw new RejectedInput("the target of a symbolic link is empty or has more than 4095 bytes", entry.path)
      }
      inode.target = entry.linkName
      // As Linux makes every link, whatever a builder noted.
      inode.mode = S_IFLNK | 0o777
    }
    if (entry.type === "char" || entry.type === "block") {
      if (entry.devMajor < 0 || entry.devMajor > 0xfff || entry.devMinor < 0 || entry.devMinor > 0xfffff) {
        throw new RejectedInput("a device number is out of the range of Linux", entry.path)
      }
      inode.rdev = encodeDevice(entry.devMajor, entry.devMinor)
    }
    inode.xattrs = this.#xattrs(entry, inode)
  }

  /** Drops what Linux could not set and what would steer overlayfs or a merge; refuses what EROFS can not hold. */
  #xattrs(entry: TarEntry, inode: Inode): ReadonlyArray<Xattr> | undefined {
    if (entry.xattrs === undefined) return undefined
    const user = entry.type === "file" || entry.type === "directory"
    const kept = entry.xattrs.filter(
      ({ name }) =>
        storable(name) &&
        !name.startsWith("trusted.overlay.") &&
        !name.startsWith("trusted.bunker.") &&
        (user || !name.startsWith("user."))
    )
    for (const { name, value } of kept) {
      if (name.length > NAME_MAX) throw new RejectedInput("the name of an xattr is longer than 255 bytes", entry.path)
      if (value.length > XATTR_VALUE_MAX)
        throw new RejectedInput(`an xattr is longer than ${XATTR_VALUE_MAX} bytes`, entry.path)
    }
    inode.xattrs = kept
    if (xattrBodySize(inode) > XATTR_BODY_MAX - 512) throw new RejectedInput("an entry has too many xattrs", entry.path)
    return kept.length === 0 ? undefined : kept
  }
}
