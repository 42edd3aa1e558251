/**
 * Turns the entries of one layer's tar into its EROFS image: file data goes out as it comes, the tree stays in memory.
 * Each file begins on a block of its own; holes of sparse files are not stored. Between the files goes what the tar holds besides
 * their data (see tar-record.ts). Synchronous; knows no compression.
 */
import { BLOCK, BLOCK_BITS, roundUp } from "../erofs/format.ts"
import type { Inode } from "../erofs/inode.ts"
import { reservedBlocks, superblock, writeMetadata } from "../erofs/metadata.ts"
import type { Output } from "../erofs/output.ts"
import { type TarEntry, TarReader, type TarSink } from "../tar/reader.ts"
import { RejectedInput } from "../tar/rejected.ts"
import { LayerTree, type TreeLimits } from "./layerTree.ts"
import { TarRecorder } from "./tarSplit.ts"

/** Most chunks of one sparse file, and of all in a layer (8 bytes of metadata each). */
const CHUNKS_PER_FILE = 65_536
const CHUNKS_PER_LAYER = 16 * 2 ** 20

/** Places the stored pieces of one sparse file: whole chunks, neighbours in one run, zeros where a chunk is only part data. */
class SparseFile {
  readonly runs: Array<number> = []
  readonly #chunk: number
  /** Logical byte that the next written byte stands for, and the end of the chunk that it is in. */
  #at = 0
  #piece = 0
  #pieceDone = 0

  constructor(
    readonly inode: Inode,
    readonly map: ReadonlyArray<number>,
    readonly out: Output,
    readonly record: TarRecorder
  ) {
    inode.chunkBits = Math.max(BLOCK_BITS, Math.ceil(Math.log2(inode.size / CHUNKS_PER_FILE)))
    inode.runs = this.runs
    this.#chunk = 2 ** inode.chunkBits
  }

  write(bytes: Uint8Array): void {
    for (let from = 0; from < bytes.length; ) {
      const left = this.map[this.#piece + 1]! - this.#pieceDone
      const take = Math.min(left, bytes.length - from)
      if (this.#pieceDone === 0) this.#seek(this.map[this.#piece]!)
      this.record.copy(this.out.position, take)
      this.out.write(bytes.subarray(from, from + take))
      this.#at += take
      this.#pieceDone += take
      from += take
      if (this.#pieceDone === this.map[this.#piece + 1]!) {
        this.#piece += 2
        this.#pieceDone = 0
      }
    }
  }

  end(): void {
    if (this.runs.length > 0) this.#closeRun()
  }

  #seek(offset: number): void {
    const chunk = Math.floor(offset / this.#chunk)
    const reached = roundUp(this.#at, this.#chunk)
    if (this.runs.length > 0 && chunk * this.#chunk <= reached) {
      this.out.zeros(offset - this.#at)
    } else {
      if (this.runs.length > 0) this.#closeRun()
      this.runs.push((chunk * this.#chunk) / BLOCK, 0, this.out.align())
      this.out.zeros(offset - chunk * this.#chunk)
    }
    this.#at = offset
  }

  #closeRun(): void {
    const end = Math.min(roundUp(this.#at, this.#chunk), roundUp(this.inode.size, BLOCK))
    this.out.zeros(end - this.#at)
    const last = this.runs.length - 3
    this.runs[last + 1] = end / BLOCK - this.runs[last]!
  }
}

interface LayerWriterLimits extends TreeLimits {
  /** Most bytes of the EROFS image. */
  readonly bytesMax: number
}

export class LayerWriter implements TarSink {
  readonly #tree: LayerTree
  readonly #record: TarRecorder
  readonly tar: TarReader = new TarReader(this)
  #file: Inode | undefined
  #sparse: SparseFile | undefined
  #chunks = 0

  constructor(
    readonly out: Output,
    readonly limits: LayerWriterLimits
  ) {
    this.#tree = new LayerTree(limits)
    this.#record = new TarRecorder(out)
    out.zeros(reservedBlocks(0) * BLOCK)
  }

  raw(bytes: Uint8Array): void {
    this.#record.literal(bytes)
    this.#bound()
  }

  entry(entry: TarEntry): void {
    this.#file = this.#tree.apply(entry)
    if (this.#file === undefined || entry.size === 0) return
    if (entry.sparse === undefined || (entry.storedBytes === entry.size && entry.sparse.length <= 2)) {
      this.#file.block = this.out.align()
      return
    }
    this.#sparse = new SparseFile(this.#file, entry.sparse, this.out, this.#record)
    this.#chunks += Math.ceil(entry.size / 2 ** this.#file.chunkBits)
    if (this.#chunks > CHUNKS_PER_LAYER)
      throw new RejectedInput("the layer has too many large sparse files", entry.path)
  }

  data(bytes: Uint8Array): void {
    if (this.#sparse !== undefined) this.#sparse.write(bytes)
    else if (this.#file !== undefined) {
      this.#record.copy(this.out.position, bytes.length)
      this.out.write(bytes)
    } else this.#record.literal(bytes)
    this.#bound()
  }

  #bound(): void {
    if (this.out.position > this.limits.bytesMax) {
      throw new RejectedInput(`the layer takes more than ${this.limits.bytesMax} bytes`)
    }
  }

  end(): void {
    this.#sparse?.end()
    this.#sparse = undefined
    this.#file = undefined
  }

  /** Writes the record of the tar, the metadata and the superblock. `uuid` has 16 bytes. */
  finish(uuid: Uint8Array): void {
    const note = this.#record.finish()
    this.out.finish(superblock(writeMetadata(this.#tree.root, this.out), uuid, [], note))
  }
}
