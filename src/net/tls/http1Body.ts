/**
 * Finds where the body of an HTTP/1.1 message ends. Changes nothing of it; reads chunk sizes strictly, so that no server sees another
 * end.
 */
import { type Framing, headBytesMax, MessageError } from "./http1Message.ts"

/** Most bytes of the line that says a chunk's size. */
const sizeLineBytesMax = 1024

/** What a piece of a connection holds of the body. */
export interface BodyPiece {
  /** Bytes that belong to the body and may go on. */
  readonly body: Buffer
  /** The fields behind a chunked body, with the empty line that ends them: once, whole. */
  readonly trailers?: Buffer
  /** What follows the body; only when it is complete. */
  readonly rest: Buffer
}

type Stage = "size" | "data" | "dataEnd" | "trailers" | "done"

const empty = Buffer.alloc(0)

export class BodyReader {
  private stage: Stage
  /** Bytes that are left of the body, or of a chunk. */
  private left: number
  /** A line that is not complete, or the trailers. */
  private held: Buffer = empty

  constructor(private readonly framing: Framing) {
    this.left = framing.kind === "length" ? framing.bytes : framing.kind === "untilEnd" ? Number.POSITIVE_INFINITY : 0
    this.stage = framing.kind === "chunked" ? "size" : this.left === 0 ? "done" : "data"
  }

  get done(): boolean {
    return this.stage === "done"
  }

  /** Throws `MessageError` for chunks that are none. */
  push(bytes: Buffer): BodyPiece {
    let at = 0
    let trailers: Buffer | undefined
    let bodyEnd = 0
    while (at < bytes.length && !this.done) {
      if (this.stage === "data") {
        const take = Math.min(this.left, bytes.length - at)
        this.left -= take
        at += take
        if (this.left === 0) this.stage = this.framing.kind === "chunked" ? "dataEnd" : "done"
        bodyEnd = at
      } else if (this.stage === "trailers") {
        const used = this.pushTrailers(bytes.subarray(at))
        at += used
        if (this.stage === ("done" as Stage)) trailers = this.held
      } else {
        at += this.pushLine(bytes.subarray(at))
        bodyEnd = at
      }
    }
    const rest = this.done ? bytes.subarray(at) : empty
    return { body: bytes.subarray(0, bodyEnd), ...(trailers === undefined ? {} : { trailers }), rest }
  }

  private pushLine(bytes: Buffer): number {
    const end = bytes.indexOf(0x0a)
    const used = end < 0 ? bytes.length : end + 1
    this.held = this.held.length === 0 ? bytes.subarray(0, used) : Buffer.concat([this.held, bytes.subarray(0, used)])
    if (this.held.length > sizeLineBytesMax) throw new MessageError("the line of a chunk's size is too long")
    if (end < 0) return used
    const line = this.held.toString("latin1")
    this.held = empty
    if (this.stage === "dataEnd") {
      if (line !== "\r\n") throw new MessageError("a chunk is longer than its size")
      this.stage = "size"
      return used
    }
    const size = /^([0-9a-f]{1,12})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n$/i.exec(line)
    if (size === null) throw new MessageError("a chunk has no proper size")
    this.left = Number.parseInt(size[1] ?? "", 16)
    this.stage = this.left === 0 ? "trailers" : "data"
    return used
  }

  /** Holds the trailers back until they are whole; the empty line ends them. */
  private pushTrailers(bytes: Buffer): number {
    const before = this.held.length
    const joined = before === 0 ? bytes : Buffer.concat([this.held, bytes])
    const end = joined.subarray(0, 2).equals(Buffer.from("\r\n")) ? 2 : joined.indexOf("\r\n\r\n") + 4
    if (end === 3) {
      if (joined.length > headBytesMax) throw new MessageError("the fields behind its body are too long")
      this.held = joined
      return bytes.length
    }
    this.held = joined.subarray(0, end)
    this.stage = "done"
    return end - before
  }
}
