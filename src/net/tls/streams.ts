/** Reads and writes Node's streams piece by piece with back pressure. Knows no protocol. */
import type { Duplex } from "node:stream"

/** Bytes of a stream as somebody asks for them; nothing is read ahead of that. */
export class ByteReader {
  private held: Buffer = Buffer.alloc(0)
  private readonly pieces: AsyncIterator<Buffer>

  constructor(stream: Duplex) {
    this.pieces = stream.iterator({ destroyOnReturn: false })
  }

  /** The next bytes; undefined at the end of the stream. Rejects when it breaks. */
  async next(): Promise<Buffer | undefined> {
    if (this.held.length > 0) {
      const bytes = this.held
      this.held = Buffer.alloc(0)
      return bytes
    }
    const { done, value } = await this.pieces.next()
    return done === true ? undefined : value
  }

  /** Puts bytes back in front of those that come. */
  unread(bytes: Buffer): void {
    this.held = this.held.length === 0 ? bytes : Buffer.concat([bytes, this.held])
  }

  /** Everything up to and with the mark, which is within the first `bytesMax`; undefined at an end before it, null beyond that. */
  async until(mark: string, bytesMax: number): Promise<Buffer | undefined | null> {
    const pieces: Array<Buffer> = []
    let length = 0
    // The mark may lie across the borders of pieces.
    let tail: Buffer = Buffer.alloc(0)
    for (;;) {
      const piece = await this.next()
      if (piece === undefined) {
        this.unread(Buffer.concat(pieces))
        return undefined
      }
      const joined = Buffer.concat([tail, piece])
      const found = joined.indexOf(mark)
      pieces.push(piece)
      length += piece.length
      if (found >= 0) {
        const whole = Buffer.concat(pieces)
        const end = length - joined.length + found + mark.length
        this.unread(whole.subarray(end))
        return end > bytesMax ? null : whole.subarray(0, end)
      }
      if (length > bytesMax) return null
      tail = joined.subarray(Math.max(0, joined.length - mark.length + 1))
    }
  }
}

/** Resolves when the stream takes more; rejects when it has ended first. */
export const write = (stream: Duplex, bytes: Uint8Array): Promise<void> | undefined => {
  if (bytes.length === 0) return undefined
  if (stream.destroyed || stream.writableEnded) throw new Error("the connection has ended")
  if (stream.write(bytes)) return undefined
  return new Promise((resolve, reject) => {
    const settle = () => {
      stream.off("drain", settle)
      stream.off("close", settle)
      if (stream.destroyed) reject(new Error("the connection has ended"))
      else resolve()
    }
    stream.on("drain", settle)
    stream.on("close", settle)
  })
}

/** Resolves when everything written has left, or the stream is gone. */
export const finish = (stream: Duplex): Promise<void> =>
  new Promise((resolve) => {
    if (stream.destroyed || stream.writableFinished) return resolve()
    stream.once("finish", resolve)
    stream.once("close", resolve)
    stream.end()
  })
