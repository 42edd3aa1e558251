/**
 * Merges the layers of an image into one metadata-only EROFS whose files point into the layers' images as extra devices.
 * Follows overlayfs: upper files hide lower ones, directories merge and take the upper one's attributes, whiteouts and opaque
 * marks take effect and vanish. A directory that a layer never described keeps the lower one's attributes, and where the lower
 * layers have a symbolic link to a directory there, leads into that. Reads metadata only.
 *
 * fsmeta followed by the layers, end to end, is one valid image; so is fsmeta with the layers as `device=` options.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import type { LayerRejected } from "../../domain/errors/image.ts"
import type { DiskFull, StoreFailed } from "../../domain/errors/store.ts"
import { toFailure, writingFile } from "../layer/layer.ts"
import { TREE_LIMITS } from "../layer/layerTree.ts"
import { RejectedInput, readable } from "../tar/rejected.ts"
import { BLOCK } from "./format.ts"
import { copyAttributes, type Inode, implicitDirectory } from "./inode.ts"
import { type Device, reservedBlocks, superblock, writeMetadata } from "./metadata.ts"
import { FileOutput } from "./output.ts"
import { ErofsReader } from "./reader.ts"
import { mergedUuid } from "./seal.ts"
import type { Extent } from "./vmdk.ts"

/** Most layers of an image. */
const LAYERS_MAX = 256
/** Most entries of a merged tree and of all layers together. */
const MERGED_ENTRIES_MAX = 4_000_000
/** A layer's own tree is at most this deep; links between layers can add a little. */
const DEPTH_MAX = 2 * TREE_LIMITS.depthMax
const LINKS_MAX = 40

/** Applies one layer after the other to a tree in memory. */
class Merge {
  readonly root = implicitDirectory()
  #entries = 0
  #reader!: ErofsReader
  #device = 0
  /** Inodes of the current layer that have several names, or names in lower layers. */
  #linked = new Map<number, Inode>()

  add(reader: ErofsReader, device: number): void {
    this.#reader = reader
    this.#device = device
    this.#linked = new Map()
    const { entries, inode } = reader.read(reader.rootNid)
    if (entries === undefined) throw new RejectedInput(`the root of ${reader.name} is not a directory`)
    // Before the layer changes anything: its links mean what the layers below it have.
    if (inode.linksLower) this.#linkLower(entries, "", 0)
    this.#merge(this.root, inode, entries, [])
  }

  /** Applies an upper directory to the one in the tree. `above` are the tree's directories from the root to `lower`. */
  #merge(
    lower: Inode,
    upper: Inode,
    entries: ReadonlyArray<{ readonly name: string; readonly nid: number }>,
    above: ReadonlyArray<Inode>
  ): void {
    if (above.length > DEPTH_MAX) throw new RejectedInput("a directory tree is too deep")
    if (upper.opaque) lower.children!.clear()
    if (!upper.implicit) {
      copyAttributes(upper, lower)
      lower.implicit = false
    }
    const path = [...above, lower]
    for (const { name, nid } of entries) {
      if (++this.#entries > MERGED_ENTRIES_MAX) throw new RejectedInput("the layers have too many entries together")
      const known = this.#linked.get(nid)
      if (known !== undefined) {
        lower.children!.set(name, known)
        continue
      }
      const read = this.#reader.read(nid)
      const inode = read.inode
      if (inode.lowerLink !== undefined)
        throw new RejectedInput(`${this.#reader.name} has a link that its root does not tell of`)
      if (read.entries !== undefined) this.#mergeDirectory(name, inode, read.entries, path)
      else if (inode.isWhiteout) lower.children!.delete(name)
      else {
        if (inode.isFile && inode.size > 0) inode.device = this.#device
        if (read.nlink > 1) this.#linked.set(nid, inode)
        lower.children!.set(name, inode)
      }
    }
  }

  /** Finds, for each file of the layer that is another name of a lower layers' file, that file's inode. */
  #linkLower(
    entries: ReadonlyArray<{ readonly name: string; readonly nid: number }>,
    above: string,
    depth: number
  ): void {
    if (depth > DEPTH_MAX) throw new RejectedInput("a directory tree is too deep")
    for (const { name, nid } of entries) {
      if (++this.#entries > MERGED_ENTRIES_MAX) throw new RejectedInput("the layers have too many entries together")
      const read = this.#reader.read(nid)
      if (read.entries !== undefined) this.#linkLower(read.entries, `${above}${name}/`, depth + 1)
      const { lowerLink } = read.inode
      if (lowerLink === undefined) continue
      const parts = lowerLink.split("/")
      const last = parts.pop()!
      const target = this.#follow([this.root], parts.join("/"))?.at(-1)?.children?.get(last)
      if (target === undefined || target.isDirectory) {
        const reason = target === undefined ? "which neither its layer nor those below have" : "a directory"
        throw new RejectedInput(`a hard link leads to "${readable(lowerLink)}", ${reason}`, `${above}${name}`)
      }
      this.#linked.set(nid, target)
    }
  }

  #mergeDirectory(
    name: string,
    inode: Inode,
    entries: ReadonlyArray<{ readonly name: string; readonly nid: number }>,
    path: ReadonlyArray<Inode>
  ): void {
    const parent = path[path.length - 1]!
    const old = parent.children!.get(name)
    const there = old?.isDirectory
      ? [...path, old]
      : old?.target !== undefined && inode.implicit
        ? this.#follow(path, old.target)
        : undefined
    if (there !== undefined) {
      this.#merge(there[there.length - 1]!, inode, entries, there.slice(0, -1))
      return
    }
    const fresh = implicitDirectory()
    this.#merge(fresh, inode, entries, path)
    // A layer may whiteout what the lower layers never had; that makes no directory.
    if (fresh.implicit && fresh.children!.size === 0) return
    parent.children!.set(name, fresh)
  }

  /** The directories from the root to where a link in `path` leads; undefined when it leads to no directory. */
  #follow(path: ReadonlyArray<Inode>, target: string): Array<Inode> | undefined {
    let at = target.startsWith("/") ? [this.root] : [...path]
    const left = target.split("/").reverse()
    for (let links = 0; left.length > 0; ) {
      const part = left.pop()!
      if (part === "" || part === ".") continue
      if (part === "..") {
        if (at.length > 1) at.pop()
        continue
      }
      const next = at[at.length - 1]!.children!.get(part)
      if (next?.target !== undefined) {
        if (++links > LINKS_MAX) return undefined
        if (next.target.startsWith("/")) at = [this.root]
        left.push(...next.target.split("/").reverse())
      } else if (next?.isDirectory) at.push(next)
      else return undefined
    }
    return at
  }
}

const clearMarks = (directory: Inode): void => {
  directory.implicit = false
  directory.opaque = false
  for (const child of directory.children!.values()) if (child.isDirectory) clearMarks(child)
}

const withReader = <A>(layer: string, use: (reader: ErofsReader) => A): A => {
  const fd = fs.openSync(layer, "r")
  try {
    return use(new ErofsReader(fd, path.basename(layer)))
  } finally {
    fs.closeSync(fd)
  }
}

const build = (layers: ReadonlyArray<string>, fd: number): { bytes: number; extents: Array<Extent> } => {
  if (layers.length > LAYERS_MAX) throw new RejectedInput(`the image has more than ${LAYERS_MAX} layers`)
  const merge = new Merge()
  const numbers = new Map<string, number>()
  const devices: Array<Device> = []
  const extents: Array<Extent> = []
  const uuids: Array<string> = []
  for (const layer of layers.map((file) => path.resolve(file))) {
    withReader(layer, (reader) => {
      const uuid = Buffer.from(reader.uuid).toString("hex")
      uuids.push(uuid)
      let number = numbers.get(layer)
      if (number === undefined) {
        number = devices.push({ tag: uuid, blocks: reader.blocks })
        numbers.set(layer, number)
        extents.push({ path: layer, bytes: reader.bytes })
      }
      merge.add(reader, number)
    })
  }
  clearMarks(merge.root)
  const out = new FileOutput(fd)
  out.zeros(reservedBlocks(devices.length) * BLOCK)
  const placed = writeMetadata(merge.root, out)
  const total = devices.reduce((sum, device) => sum + device.blocks, placed.blocks)
  if (total >= 2 ** 32) throw new RejectedInput("the image has more than 16 TiB")
  out.finish(superblock(placed, Buffer.from(mergedUuid(uuids), "hex"), devices))
  return { bytes: out.position, extents }
}

/**
 * Merges layers (bottom to top, paths of EROFS layer images, the same may appear twice) into a metadata-only EROFS at `outPath`
 * (created, removed on any failure). Answers its length and the extents of the whole disk: the merged image at
 * `outPath`, then each distinct layer once.
 *
 * Fails with `LayerRejected` for a damaged layer image or a limit, `DiskFull`, `StoreFailed`.
 */
export const buildFsmeta: (
  layers: ReadonlyArray<string>,
  outPath: string
) => Effect.Effect<
  { readonly bytes: number; readonly extents: ReadonlyArray<Extent> },
  LayerRejected | DiskFull | StoreFailed
> = Effect.fn("Fsmeta.build")(function* (layers: ReadonlyArray<string>, outPath: string) {
  const built = yield* writingFile(outPath, "merge", (fd) =>
    Effect.try({ try: () => build(layers, fd), catch: toFailure("merge", outPath) })
  ).pipe(Effect.catchTag("DigestMismatch", (error) => Effect.die(error)))
  return { bytes: built.bytes, extents: [{ path: outPath, bytes: built.bytes }, ...built.extents] }
})
