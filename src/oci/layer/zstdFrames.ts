/**
 * Follows the frame structure of a zstd stream (RFC 8878, section 3.1) without decompressing it, because the decoder below
 * neither notices a stream that is cut nor bytes after its end. Skippable frames and many frames are fine. Throws `RejectedInput`.
 */
import { RejectedInput } from "../tar/rejected.ts"

const MAGIC = 0xfd2fb528

export class ZstdFrames {
  #need: "magic" | "descriptor" | "skip-size" | "block" = "magic"
  readonly #bytes = new Uint8Array(8)
  #have = 0
  #want = 4
  #skip = 0
  #checksum = 0

  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#skip > 0) {
        const take = Math.min(this.#skip, chunk.length - at)
        this.#skip -= take
        at += take
        continue
      }
      this.#bytes[this.#have++] = chunk[at++]!
      if (this.#have === this.#want) this.#step()
    }
  }

  /** The stream may end only between frames. */
  finish(): void {
    if (this.#need !== "magic" || this.#have > 0 || this.#skip > 0) {
      throw new RejectedInput("the zstd stream ends in the middle of a frame")
    }
  }

  #expect(need: "magic" | "descriptor" | "skip-size" | "block", want: number): void {
    this.#need = need
    this.#want = want
    this.#have = 0
  }

  #step(): void {
    const word = (this.#bytes[0]! | (this.#bytes[1]! << 8) | (this.#bytes[2]! << 16) | (this.#bytes[3]! << 24)) >>> 0
    if (this.#need === "magic") {
      if (word === MAGIC) this.#expect("descriptor", 1)
      else if ((word & 0xfffffff0) >>> 0 === 0x184d2a50) this.#expect("skip-size", 4)
      else throw new RejectedInput("there is data after the end of the zstd stream, or it is corrupt")
    } else if (this.#need === "skip-size") {
      this.#skip = word
      this.#expect("magic", 4)
    } else if (this.#need === "descriptor") {
      const descriptor = this.#bytes[0]!
      const single = (descriptor & 0x20) !== 0
      const contentSize = [single ? 1 : 0, 2, 4, 8][descriptor >> 6]!
      const dictionary = [0, 1, 2, 4][descriptor & 3]!
      this.#checksum = (descriptor & 4) !== 0 ? 4 : 0
      this.#skip = (single ? 0 : 1) + dictionary + contentSize
      this.#expect("block", 3)
    } else {
      const header = this.#bytes[0]! | (this.#bytes[1]! << 8) | (this.#bytes[2]! << 16)
      const type = (header >> 1) & 3
      if (type === 3) throw new RejectedInput("the zstd stream is corrupt")
      const last = (header & 1) !== 0
      this.#skip = (type === 1 ? 1 : header >> 3) + (last ? this.#checksum : 0)
      this.#expect(last ? "magic" : "block", last ? 4 : 3)
    }
  }
}
