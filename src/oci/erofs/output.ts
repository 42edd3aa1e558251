/** Takes the bytes of an image in order, with one late overwrite of its start. To a file in large writes, or to memory. */
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

const BUFFER = 1 << 20
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

/** Writes to an open file in pieces of 1 MiB; the caller opens, syncs and closes it. Throws what node:fs throws. */
export class FileOutput extends Buffered {
  readonly #buffer = Buffer.allocUnsafeSlow(BUFFER)
  #held = 0
  constructor(readonly fd: number) {
    super()
  }
  write(bytes: Uint8Array): void {
    this.position += bytes.length
    for (let from = 0; from < bytes.length; ) {
      const take = Math.min(bytes.length - from, BUFFER - this.#held)
      this.#buffer.set(from === 0 && take === bytes.length ? bytes : bytes.subarray(from, from + take), this.#held)
      this.#held += take
      from += take
      if (this.#held === BUFFER) this.#flush(from - bytes.length)
    }
  }
  /** `ahead` is how much of `position` is not in the buffer yet, negative. */
  #flush(ahead: number): void {
    const end = this.position + ahead
    writeAll(this.fd, this.#buffer.subarray(0, this.#held), end - this.#held)
    this.#held = 0
  }
  finish(start: Uint8Array): void {
    if (this.#held > 0) this.#flush(0)
    writeAll(this.fd, start, 0)
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
