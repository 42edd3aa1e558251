/**
 * Packs and unpacks the data of a directory: blocks of sorted `struct erofs_dirent` followed by their names.
 * Knows nothing of where the blocks lie.
 */
import { BLOCK, DIRENT_SIZE, fileType, NAME_MAX } from "./format.ts"
import type { Inode } from "./inode.ts"

/** Names of a directory with `.` and `..`, sorted as bytes. */
export const sortedNames = (directory: Inode): Array<string> => [".", "..", ...directory.children!.keys()].sort()

/** Bytes of the directory's data: full blocks, then as much of the last as is used. */
export const directorySize = (names: ReadonlyArray<string>): number => {
  let full = 0
  let used = 0
  for (const name of names) {
    const need = DIRENT_SIZE + name.length
    if (used + need > BLOCK) {
      full += BLOCK
      used = 0
    }
    used += need
  }
  return full + used
}

/** Writes the data of a directory at the start of `into`, which holds at least `directorySize` bytes rounded up to a block. */
export const writeDirectory = (directory: Inode, names: ReadonlyArray<string>, into: Buffer): void => {
  let block = 0
  for (let first = 0; first < names.length; ) {
    let used = 0
    let last = first
    while (last < names.length && used + DIRENT_SIZE + names[last]!.length <= BLOCK) {
      used += DIRENT_SIZE + names[last]!.length
      last++
    }
    let nameAt = (last - first) * DIRENT_SIZE
    for (let i = first; i < last; i++) {
      const name = names[i]!
      const inode =
        name === "." ? directory : name === ".." ? (directory.parent ?? directory) : directory.children!.get(name)!
      const at = block + (i - first) * DIRENT_SIZE
      into.writeUInt32LE(inode.nid >>> 0, at)
      into.writeUInt32LE(Math.floor(inode.nid / 2 ** 32), at + 4)
      into.writeUInt16LE(nameAt, at + 8)
      into[at + 10] = fileType(inode.mode)
      into[at + 11] = 0
      into.write(name, block + nameAt, "latin1")
      nameAt += name.length
    }
    if (last < names.length) into.fill(0, block + nameAt, block + BLOCK)
    block += BLOCK
    first = last
  }
}

export interface DirectoryEntry {
  readonly name: string
  readonly nid: number
}

/** Reads the entries, `.` and `..` left out. Answers undefined when the data is malformed or a name could leave its directory. */
export const readDirectory = (data: Buffer): Array<DirectoryEntry> | undefined => {
  const entries: Array<DirectoryEntry> = []
  for (let block = 0; block < data.length; block += BLOCK) {
    const piece = data.subarray(block, Math.min(block + BLOCK, data.length))
    if (piece.length < DIRENT_SIZE) return undefined
    const first = piece.readUInt16LE(8)
    if (first === 0 || first % DIRENT_SIZE !== 0 || first > piece.length) return undefined
    const count = first / DIRENT_SIZE
    for (let i = 0; i < count; i++) {
      const at = i * DIRENT_SIZE
      const start = piece.readUInt16LE(at + 8)
      const bound = i + 1 < count ? piece.readUInt16LE(at + DIRENT_SIZE + 8) : piece.length
      if (start < first || bound < start || bound > piece.length) return undefined
      const zero = i + 1 < count ? -1 : piece.indexOf(0, start)
      const name = piece.toString("latin1", start, zero === -1 || zero > bound ? bound : zero)
      if (name === "." || name === "..") continue
      if (name.length === 0 || name.length > NAME_MAX || name.includes("/") || name.includes("\0")) return undefined
      entries.push({ name, nid: piece.readUInt32LE(at) + piece.readUInt32LE(at + 4) * 2 ** 32 })
    }
  }
  return entries
}
