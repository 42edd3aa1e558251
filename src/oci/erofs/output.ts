/**
 * Takes the bytes of an image in order, with one late overwrite of its start. To a file in large writes, at once or behind the
 * caller's back, or to memory.
 */
import fs from "node:fs"
import { BLOCK, roundUp } from "./format.ts"

export interface Output {
  /** Bytes taken so far. */
  readonly position: number
  readonly write: (bytes: Uint8Array) => void
  readonly zeros: (count: number) => void
  /** Fills up with zeros to a block boundary and answers the number of the next block. */
  readonly align: () => number
  /** Writes everything out, then `bytes` over the first bytes. */
  readonly finish: (start: Uint8Array) => void
}

const FIRST = 64 * 1024
const BUFFER = 1 << 20
/** Buffers that may wait for the disk before the caller waits for them. */
const QUEUE = 3
const ZEROS = new Uint8Array(64 * 1024)

abstract class Buffered implements Output {
  position = 0
  abstract write(bytes: Uint8Array): void
  abstract finish(start: Uint8Array): void
  zeros(count: number): void {
    for (let left = count; left > 0; left -= ZEROS.length)
      this.write(left >= ZEROS.length ? ZEROS : ZEROS.subarray(0, left))
  }
  align(): number {
    this.zeros(roundUp(this.position, BLOCK) - this.position)
    return this.position / BLOCK
  }
}

const writeAll = (fd: number, bytes: Uint8Array, position: number): void => {
  for (let done = 0; done < bytes.length; ) done += fs.writeSync(fd, bytes, done, bytes.length - done, position + done)
}

/** Fills one buffer after the other; `put` gets each with its place in the file. */
abstract class Pieces extends Buffered {
  /** Small at first: most images of a small layer fit. */
  #buffer = Buffer.allocUnsafeSlow(FIRST)
  #held = 0
  /** Writing begins at `position`. */
  constructor(
    readonly fd: number,
    position = 0
  ) {
    super()
    this.position = position
  }
  protected abstract put(buffer: Buffer<ArrayBuffer>, length: number, position: number): void
  /** A buffer to fill. */
  protected abstract next(): Buffer<ArrayBuffer>
  write(bytes: Uint8Array): void {
    this.position += bytes.length
    for (let from = 0; from < bytes.length; ) {
      const take = Math.min(bytes.length - from, this.#buffer.length - this.#held)
      this.#buffer.set(from === 0 && take === bytes.length ? bytes : bytes.subarray(from, from + take), this.#held)
      this.#held += take
      from += take
      if (this.#held === this.#buffer.length) this.#flush(from - bytes.length)
    }
  }
  /** `ahead` is how much of `position` is not in the buffer yet, negative. */
  #flush(ahead: number): void {
    const end = this.position + ahead
    this.put(this.#buffer, this.#held, end - this.#held)
    this.#buffer = this.next()
    this.#held = 0
  }
  /** Nothing is written after it. */
  protected flushRest(): void {
    if (this.#held === 0) return
    this.put(this.#buffer, this.#held, this.position - this.#held)
    this.#held = 0
  }
}

/** Writes to an open file at once; the caller opens, syncs and closes it. Throws what node:fs throws. */
export class FileOutput extends Pieces {
  #large: Buffer<ArrayBuffer> | undefined
  protected put(buffer: Buffer<ArrayBuffer>, length: number, position: number): void {
    writeAll(this.fd, buffer.subarray(0, length), position)
  }
  protected next(): Buffer<ArrayBuffer> {
    return (this.#large ??= Buffer.allocUnsafeSlow(BUFFER))
  }
  finish(start: Uint8Array): void {
    this.flushRest()
    writeAll(this.fd, start, 0)
  }
}

/**
 * Writes to an open file on threads of the pool while the caller goes on. It must wait for `room` whenever there is something to
 * wait for, and for `settled` before it syncs or closes the file. Both reject with what the first failed write said.
 */
export class QueuedOutput extends Pieces {
  readonly #free: Array<Buffer<ArrayBuffer>> = []
  readonly #waiting: Array<() => void> = []
  #writing = 0
  #failure: unknown
  #start: Uint8Array | undefined

  /** Undefined while more can be taken; otherwise resolves when it can. */
  room(): Promise<void> | undefined {
    if (this.#failure === undefined && this.#writing <= QUEUE) return undefined
    return this.#until(() => this.#writing <= QUEUE)
  }
  /** Resolves when all that was taken is in the file; needed also after a failure, since writes may still go on. */
  async settled(): Promise<void> {
    await this.#until(() => this.#writing === 0)
    const start = this.#start
    if (start === undefined || start.length === 0) return
    this.#start = undefined
    this.put(Buffer.from(start), start.length, 0)
    await this.#until(() => this.#writing === 0)
  }
  finish(start: Uint8Array): void {
    this.flushRest()
    this.#start = start
  }
  protected put(buffer: Buffer<ArrayBuffer>, length: number, position: number): void {
    this.#writing += 1
    this.#continue(buffer, 0, length, position)
  }
  protected next(): Buffer<ArrayBuffer> {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(BUFFER)
  }
  #continue(buffer: Buffer<ArrayBuffer>, from: number, length: number, position: number): void {
    fs.write(this.fd, buffer, from, length - from, position + from, (cause, count) => {
      if (cause === null && from + count < length) return this.#continue(buffer, from + count, length, position)
      if (cause !== null) this.#failure ??= cause
      this.#writing -= 1
      if (buffer.length === BUFFER) this.#free.push(buffer)
      for (const wake of this.#waiting.splice(0)) wake()
    })
  }
  async #until(reached: () => boolean): Promise<void> {
    // Not before its own writes ended: the descriptor may be closed after this.
    while (!reached()) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    if (this.#failure !== undefined) throw this.#failure
  }
}

/** Collects a small image in memory. */
export class MemoryOutput extends Buffered {
  #bytes = new Uint8Array(BUFFER)
  write(bytes: Uint8Array): void {
    if (this.position + bytes.length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#bytes.length * 2, roundUp(this.position + bytes.length, BUFFER)))
      grown.set(this.#bytes.subarray(0, this.position))
      this.#bytes = grown
    }
    this.#bytes.set(bytes, this.position)
    this.position += bytes.length
  }
  finish(start: Uint8Array): void {
    this.#bytes.set(start, 0)
  }
  toBytes(): Uint8Array {
    return this.#bytes.slice(0, this.position)
  }
}
