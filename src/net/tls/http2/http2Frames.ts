/** Takes a connection of HTTP/2 apart into frames (RFC 9113, 4.1), and makes some. Keeps no state of streams. */

export const frameType = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9
} as const

export const flag = { endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 0x20 } as const

export const errorCode = { none: 0, cancel: 8 } as const

export const settingHeaderTableSize = 1
export const settingMaxFrameSize = 5

export const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1")
const frameHeadBytes = 9

export interface FrameHead {
  readonly length: number
  readonly type: number
  readonly flags: number
  readonly stream: number
}

export interface FrameSink {
  /** True for frames that are wanted whole, as `onFrame`; others come in pieces. */
  readonly wants: (head: FrameHead) => boolean
  readonly onFrame: (head: FrameHead, payload: Buffer) => void
  /** A piece of another frame; the first has the frame's head in front, `last` ends it. */
  readonly onPiece: (head: FrameHead, bytes: Buffer, first: boolean, last: boolean) => void
}

export class FrameError extends Error {}

/** Most bytes of a frame that is wanted whole. */
const wholeBytesMax = 64 * 1024

export const makeFrame = (
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array = Buffer.alloc(0)
): Buffer => {
  const frame = Buffer.allocUnsafe(frameHeadBytes + payload.length)
  frame.writeUIntBE(payload.length, 0, 3)
  frame[3] = type
  frame[4] = flags
  frame.writeUInt32BE(stream, 5)
  frame.set(payload, frameHeadBytes)
  return frame
}

export const number32 = (value: number): Buffer => {
  const bytes = Buffer.allocUnsafe(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export class FrameReader {
  private held: Buffer = Buffer.alloc(0)
  private head: FrameHead | undefined
  /** Bytes of the frame that have not come. */
  private left = 0

  constructor(private readonly sink: FrameSink) {}

  /** Throws `FrameError` for a frame that is wanted whole and too long. */
  push(bytes: Buffer): void {
    let rest = this.held.length === 0 ? bytes : Buffer.concat([this.held, bytes])
    this.held = Buffer.alloc(0)
    while (rest.length > 0) {
      if (this.head !== undefined) {
        const piece = rest.subarray(0, this.left)
        this.left -= piece.length
        rest = rest.subarray(piece.length)
        const { head } = this
        if (this.left === 0) this.head = undefined
        this.sink.onPiece(head, piece, false, this.left === 0)
        continue
      }
      if (rest.length < frameHeadBytes) break
      const head = {
        length: rest.readUIntBE(0, 3),
        type: rest[3] ?? 0,
        flags: rest[4] ?? 0,
        stream: rest.readUInt32BE(5) & 0x7fffffff
      }
      const end = frameHeadBytes + head.length
      if (this.sink.wants(head)) {
        if (head.length > wholeBytesMax) throw new FrameError("a frame is too long")
        if (rest.length < end) break
        this.sink.onFrame(head, rest.subarray(frameHeadBytes, end))
      } else {
        this.left = Math.max(0, end - rest.length)
        if (this.left > 0) this.head = head
        this.sink.onPiece(head, rest.subarray(0, end), true, this.left === 0)
      }
      rest = rest.subarray(end)
    }
    this.held = rest
  }
}
