/**
 * Keeps in a layer's EROFS image what its tar holds besides file data, so that the very same tar can be written again.
 * The recorder works in the writer's pass and holds at most a few hundred KiB; the reader gives the tar back in pieces and
 * leaves it to its caller to compare the digest.
 *
 * The record lies between the files' blocks, where no inode points: zstd chunks of two sequences, `literals` (headers,
 * padding, the end) and `steps` (varints: bytes to take from the literals, bytes to copy from the image, and how far from the
 * next block boundary the copy begins, zigzag), then an index of the chunks in order: u64 place, u32 stored bytes, u32 bytes
 * with the top bit set for steps. The note in the first block tells where the index is (little-endian): magic, u64 place of
 * the index, u64 count of chunks, u64 bytes of the tar.
 */
import { Buffer } from "node:buffer"
import fs from "node:fs"
import zlib from "node:zlib"
import { BLOCK, NOTE_SIZE, roundUp } from "../erofs/format.ts"
import type { Output } from "../erofs/output.ts"
import { ErofsReader } from "../erofs/reader.ts"
import { RejectedInput } from "../tar/rejected.ts"

const MAGIC = "BKTAR001"
const ENTRY = 16
const STEPS = 2 ** 31
/** Bytes of a chunk before compression; steps of one sparse file are never cut and may make more. */
const LITERALS_BYTES = 256 * 1024
const STEPS_BYTES = 32 * 1024
const CHUNK_MAX = 64 * 2 ** 20
/** Most chunks of one record: 64 GiB of literals. */
const CHUNKS_MAX = 2 ** 19

/** Varints of numbers up to 2^53, seven bits a byte, lowest first (LEB128). */
class Varints {
  #bytes = Buffer.allocUnsafeSlow(STEPS_BYTES * 2)
  length = 0

  push(number: number): void {
    if (this.length + 8 > this.#bytes.length) {
      const grown = Buffer.allocUnsafeSlow(this.#bytes.length * 2)
      this.#bytes.copy(grown)
      this.#bytes = grown
    }
    let left = number
    while (left >= 128) {
      this.#bytes[this.length++] = (left % 128) + 128
      left = Math.floor(left / 128)
    }
    this.#bytes[this.length++] = left
  }

  take(): Buffer {
    const bytes = this.#bytes.subarray(0, this.length)
    this.length = 0
    return bytes
  }
}

const zigzag = (number: number): number => (number < 0 ? -number * 2 - 1 : number * 2)
const unzigzag = (number: number): number => (number % 2 === 0 ? number / 2 : -(number + 1) / 2)

export class TarRecorder {
  readonly #literals = Buffer.allocUnsafeSlow(LITERALS_BYTES)
  #held = 0
  readonly #steps = new Varints()
  readonly #chunks: Array<number> = []
  /** Literal bytes since the last copy, and the copy that may still grow. */
  #literalBytes = 0
  #copyFrom = 0
  #copyBytes = 0
  /** Where the copy before ended. */
  #reached = 0
  #tarBytes = 0

  constructor(readonly out: Output) {}

  /** Bytes of the tar that the image does not hold. Writes to the image now and then: no file may be open in it. */
  literal(bytes: Uint8Array): void {
    this.#endCopy()
    // Before the literals, so that the same tar makes the same image whatever pieces it comes in.
    if (this.#steps.length >= STEPS_BYTES) this.#flush(this.#steps.take(), STEPS)
    this.#tarBytes += bytes.length
    this.#literalBytes += bytes.length
    for (let from = 0; from < bytes.length; ) {
      const take = Math.min(bytes.length - from, LITERALS_BYTES - this.#held)
      this.#literals.set(bytes.subarray(from, from + take), this.#held)
      this.#held += take
      from += take
      if (this.#held === LITERALS_BYTES) this.#flushLiterals()
    }
  }

  /** Bytes of the tar that lie in the image at `position`. */
  copy(position: number, bytes: number): void {
    this.#tarBytes += bytes
    if (this.#copyBytes > 0 && this.#copyFrom + this.#copyBytes === position) {
      this.#copyBytes += bytes
      return
    }
    this.#endCopy()
    this.#copyFrom = position
    this.#copyBytes = bytes
  }

  #endCopy(): void {
    if (this.#copyBytes === 0) return
    this.#steps.push(this.#literalBytes)
    this.#steps.push(this.#copyBytes)
    this.#steps.push(zigzag(this.#copyFrom - roundUp(this.#reached, BLOCK)))
    this.#reached = this.#copyFrom + this.#copyBytes
    this.#literalBytes = 0
    this.#copyBytes = 0
  }

  #flushLiterals(): void {
    this.#flush(this.#literals.subarray(0, this.#held), 0)
    this.#held = 0
  }

  #flush(bytes: Uint8Array, kind: number): void {
    const stored = zlib.zstdCompressSync(bytes, { params: { [zlib.constants.ZSTD_c_compressionLevel]: 3 } })
    this.#chunks.push(this.out.position, stored.length, bytes.length + kind)
    this.out.write(stored)
  }

  /** Writes the rest of the record and answers the note for the first block. */
  finish(): Uint8Array {
    this.#endCopy()
    if (this.#held > 0) this.#flushLiterals()
    if (this.#steps.length > 0) this.#flush(this.#steps.take(), STEPS)
    const place = this.out.position
    const count = this.#chunks.length / 3
    const entry = Buffer.alloc(ENTRY)
    for (let i = 0; i < this.#chunks.length; i += 3) {
      entry.writeBigUInt64LE(BigInt(this.#chunks[i]!), 0)
      entry.writeUInt32LE(this.#chunks[i + 1]!, 8)
      entry.writeUInt32LE(this.#chunks[i + 2]!, 12)
      this.out.write(entry)
    }
    const note = Buffer.alloc(NOTE_SIZE)
    note.write(MAGIC, 0, "latin1")
    note.writeBigUInt64LE(BigInt(place), 8)
    note.writeBigUInt64LE(BigInt(count), 16)
    note.writeBigUInt64LE(BigInt(this.#tarBytes), 24)
    return note
  }
}

interface Chunk {
  readonly place: number
  readonly stored: number
  readonly bytes: number
}

const PIECE = 512 * 1024

/** The record in one layer image, which stays open until `close`. */
export class TarRecord {
  /** Length of the tar. */
  readonly bytes: number
  readonly #literals: Array<Chunk> = []
  readonly #steps: Array<Chunk> = []
  readonly #imageBytes: number

  private constructor(
    readonly fd: number,
    readonly name: string,
    reader: ErofsReader
  ) {
    const note = Buffer.from(reader.note)
    this.#imageBytes = reader.bytes
    const place = Number(note.readBigUInt64LE(8))
    const count = Number(note.readBigUInt64LE(16))
    this.bytes = Number(note.readBigUInt64LE(24))
    if (count > CHUNKS_MAX || !Number.isSafeInteger(this.bytes)) throw this.#broken()
    const index = this.#read(place, count * ENTRY)
    for (let at = 0; at < index.length; at += ENTRY) {
      const kind = index.readUInt32LE(at + 12)
      const chunk = {
        place: Number(index.readBigUInt64LE(at)),
        stored: index.readUInt32LE(at + 8),
        bytes: kind % STEPS
      }
      if (chunk.bytes > CHUNK_MAX || chunk.stored > CHUNK_MAX) throw this.#broken()
      if (kind >= STEPS) this.#steps.push(chunk)
      else this.#literals.push(chunk)
    }
  }

  /** Opens a layer image; undefined when it holds no record. Throws `RejectedInput` for a damaged one, and what node:fs throws. */
  static open(file: string, name: string): TarRecord | undefined {
    const fd = fs.openSync(file, "r")
    try {
      const reader = new ErofsReader(fd, name)
      if (Buffer.from(reader.note).toString("latin1", 0, MAGIC.length) === MAGIC) return new TarRecord(fd, name, reader)
    } catch (cause) {
      fs.closeSync(fd)
      throw cause
    }
    fs.closeSync(fd)
    return undefined
  }

  close(): void {
    fs.closeSync(this.fd)
  }

  #broken(): RejectedInput {
    return new RejectedInput(`the record of the tar in ${this.name} is damaged`)
  }

  #read(at: number, length: number): Buffer {
    if (!Number.isSafeInteger(at) || at < 0 || !(length >= 0) || at + length > this.#imageBytes) throw this.#broken()
    const bytes = Buffer.allocUnsafeSlow(length)
    for (let done = 0; done < length; ) {
      const got = fs.readSync(this.fd, bytes, done, length - done, at + done)
      if (got === 0) throw this.#broken()
      done += got
    }
    return bytes
  }

  #inflate(chunk: Chunk): Buffer {
    const stored = this.#read(chunk.place, chunk.stored)
    let bytes: Buffer
    try {
      bytes = zlib.zstdDecompressSync(stored, { maxOutputLength: Math.max(1, chunk.bytes) })
    } catch {
      throw this.#broken()
    }
    if (bytes.length !== chunk.bytes) throw this.#broken()
    return bytes
  }

  *#numbers(): Generator<number, void> {
    for (const chunk of this.#steps) {
      const bytes = this.#inflate(chunk)
      for (let at = 0; at < bytes.length; ) {
        let number = 0
        for (let scale = 1; ; scale *= 128) {
          const byte = bytes[at++]
          if (byte === undefined || scale > 2 ** 49) throw this.#broken()
          number += (byte % 128) * scale
          if (byte < 128) break
        }
        yield number
      }
    }
  }

  /** Literal bytes in order; `next(n)` gives at most n bytes. */
  *#literalPieces(): Generator<Buffer, void, number> {
    let most = yield Buffer.alloc(0)
    for (const chunk of this.#literals) {
      const bytes = this.#inflate(chunk)
      for (let at = 0; at < bytes.length; ) {
        const piece = bytes.subarray(at, at + most)
        at += piece.length
        most = yield piece
      }
    }
  }

  /** The tar, in pieces of at most 512 KiB. Throws `RejectedInput` when the record does not fit. */
  *pieces(): Generator<Buffer, void> {
    let piece = Buffer.allocUnsafeSlow(PIECE)
    let held = 0
    let given = 0
    const literals = this.#literalPieces()
    literals.next(0)
    let window: Buffer = Buffer.alloc(0)
    let windowAt = 0
    /** At most `most` bytes of the image from `at`; reads ahead, for files follow each other. */
    const image = (at: number, most: number): Buffer => {
      if (at < windowAt || at >= windowAt + window.length) {
        window = this.#read(at, Math.min(PIECE, this.#imageBytes - at))
        windowAt = at
        if (window.length === 0) throw this.#broken()
      }
      return window.subarray(at - windowAt, at - windowAt + most)
    }
    const numbers = this.#numbers()
    let reached = 0
    for (let last = false; !last; ) {
      const step = numbers.next()
      last = step.done === true
      let literal = step.done ? this.bytes - given - held : step.value
      const copy = step.done ? 0 : numbers.next().value
      const offset = step.done ? 0 : numbers.next().value
      if (copy === undefined || offset === undefined) throw this.#broken()
      let at = roundUp(reached, BLOCK) + unzigzag(offset)
      reached = at + copy
      if (literal < 0 || given + held + literal + copy > this.bytes || at < 0) throw this.#broken()
      for (let left = copy; literal > 0 || left > 0; ) {
        const room = PIECE - held
        let bytes: Buffer
        if (literal > 0) {
          const next = literals.next(Math.min(room, literal))
          if (next.done) throw this.#broken()
          bytes = next.value
          literal -= bytes.length
        } else {
          bytes = image(at, Math.min(room, left))
          at += bytes.length
          left -= bytes.length
        }
        bytes.copy(piece, held)
        held += bytes.length
        if (held === PIECE) {
          yield piece
          piece = Buffer.allocUnsafeSlow(PIECE)
          given += held
          held = 0
        }
      }
    }
    if (held > 0) yield piece.subarray(0, held)
    if (given + held !== this.bytes) throw this.#broken()
  }
}
