/**
 * Holds bytes of one TCP flow: those on their way to the guest until it acknowledges them, those that the upstream did not take yet,
 * and those that came out of order. Bounds none of them: their owner does.
 */
import { after, before, distance } from "./segment.ts"

/** Smaller pieces are copied together, so that the number of pieces is bounded by the bytes. */
const smallBytes = 4096
const collectBytes = 16_384

/** Bytes in order, added at the end, taken at the start. */
export class ByteQueue {
  length = 0
  private pieces: Array<Buffer> = []
  private head = 0
  /** Bytes of the first piece that are gone. */
  private gone = 0
  /** Bytes of the last piece that are used, when it is one that collects. */
  private collected = -1
  /** Where the last copy ended: the next one mostly goes on there. */
  private cursorPiece = 0
  private cursorStart = 0

  /** Takes the bytes over. */
  push(bytes: Buffer): void {
    if (bytes.length === 0) return
    this.length += bytes.length
    if (bytes.length >= smallBytes) {
      this.close()
      this.pieces.push(bytes)
      return
    }
    let at = 0
    while (at < bytes.length) {
      if (this.collected < 0 || this.collected === collectBytes) {
        this.close()
        this.pieces.push(Buffer.allocUnsafeSlow(collectBytes))
        this.collected = 0
      }
      const taken = bytes.copy(this.pieces.at(-1)!, this.collected, at)
      this.collected += taken
      at += taken
    }
  }

  /** Copies bytes from `offset` on; the caller asks for no more than there are. */
  copyTo(offset: number, length: number, out: Buffer, at: number): void {
    let piece = this.head
    let start = -this.gone
    if (this.cursorPiece >= this.head && this.cursorStart <= offset) {
      piece = this.cursorPiece
      start = this.cursorStart
    }
    let done = 0
    while (done < length) {
      const bytes = this.pieces[piece]!
      const size = this.sizeOf(piece)
      const from = offset + done - start
      if (from < size) done += bytes.copy(out, at + done, from, Math.min(size, from + length - done))
      if (done === length) break
      start += size
      piece += 1
    }
    this.cursorPiece = piece
    this.cursorStart = start
  }

  /** Drops bytes at the start. */
  advance(count: number): void {
    this.length -= count
    this.cursorStart -= count
    this.gone += count
    while (this.head < this.pieces.length && this.gone >= this.sizeOf(this.head)) {
      if (this.head === this.pieces.length - 1 && this.collected >= 0) {
        // The one that collects is used again from its start.
        if (this.gone === this.collected) {
          this.gone = this.collected = 0
          this.cursorPiece = -1
        }
        break
      }
      this.gone -= this.sizeOf(this.head)
      this.pieces[this.head] = empty
      this.head += 1
    }
    if (this.head > 64 || this.head === this.pieces.length) this.compact()
  }

  /** The bytes at the start that lie together. */
  first(): Buffer {
    return this.pieces[this.head]!.subarray(this.gone, this.sizeOf(this.head))
  }

  clear(): void {
    this.pieces = []
    this.length = this.head = this.gone = 0
    this.collected = -1
    this.cursorPiece = -1
  }

  private sizeOf(piece: number): number {
    return piece === this.pieces.length - 1 && this.collected >= 0 ? this.collected : this.pieces[piece]!.length
  }

  private close(): void {
    if (this.collected >= 0 && this.collected < collectBytes) {
      const last = this.pieces.length - 1
      this.pieces[last] = this.pieces[last]!.subarray(0, this.collected)
    }
    this.collected = -1
  }

  private compact(): void {
    this.pieces.splice(0, this.head)
    this.cursorPiece -= this.head
    this.head = 0
  }
}

const empty = Buffer.alloc(0)

interface Piece {
  sequence: number
  bytes: Buffer
}

/** Bytes that came out of order, sorted and without overlaps. */
export class Reassembly {
  bytes = 0
  private pieces: Array<Piece> = []
  /** Start of what came last. */
  private latest = 0

  /** Ranges that are here, as start and end, `max` at most; the one that came last is the first (RFC 2018, 4). */
  ranges(max: number): ReadonlyArray<readonly [start: number, end: number]> {
    const found: Array<[number, number]> = []
    for (const { bytes, sequence } of this.pieces) {
      const last = found.at(-1)
      const end = (sequence + bytes.length) | 0
      if (last !== undefined && last[1] === sequence) last[1] = end
      else found.push([sequence, end])
    }
    const at = found.findIndex(([start, end]) => !before(this.latest, start) && before(this.latest, end))
    return at > 0 ? [found[at]!, ...found.toSpliced(at, 1)].slice(0, max) : found.slice(0, max)
  }

  /** Keeps a copy of what is not there yet; the bytes that came first stay. */
  add(sequence: number, bytes: Buffer, start: number, length: number): void {
    this.latest = sequence
    let from = sequence
    const end = (sequence + length) | 0
    let index = 0
    while (from !== end) {
      const next = this.pieces[index]
      if (next !== undefined && !after((next.sequence + next.bytes.length) | 0, from)) {
        index += 1
        continue
      }
      const stop = next !== undefined && before(next.sequence, end) ? next.sequence : end
      if (before(from, stop)) {
        const at = start + distance(from, sequence)
        const copy = Buffer.from(bytes.subarray(at, at + distance(stop, from)))
        this.pieces.splice(index, 0, { sequence: from, bytes: copy })
        this.bytes += copy.length
        index += 1
      }
      if (stop === end) return
      const behind = (next!.sequence + next!.bytes.length) | 0
      if (!before(behind, end)) return
      from = behind
      index += 1
    }
  }

  /** Takes the bytes that follow on `sequence`, as far as they lie together; undefined when they are not there yet. */
  take(sequence: number): Buffer | undefined {
    for (;;) {
      const first = this.pieces[0]
      if (first === undefined || after(first.sequence, sequence)) return undefined
      this.pieces.shift()
      this.bytes -= first.bytes.length
      const known = distance(sequence, first.sequence)
      if (known < first.bytes.length) return first.bytes.subarray(known)
    }
  }

  clear(): void {
    this.pieces = []
    this.bytes = 0
  }
}
