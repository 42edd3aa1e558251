/**
 * Encodes and decodes the frames of the guest channel, version 1 (native/guest/README.md). Pure: does no input or output and
 * does not look into payloads.
 */

/** Version both sides name in their HELLO. */
export const protocolVersion = 1

/** Bytes before each payload: magic, type, flags, stream, length. */
export const frameHeaderBytes = 12

/** Longest raw payload, in bytes. */
export const dataBytesMax = 65_536

/** Longest JSON payload, in bytes. */
export const jsonBytesMax = 262_144

/** Bytes of DATA towards the guest that may be unacknowledged on one connection. */
export const windowBytes = 131_072

/** Third byte of a header. */
export const FrameType = {
  Hello: 1,
  Request: 2,
  Response: 3,
  Event: 4,
  Data: 5,
  Eof: 6,
  Ack: 7,
  Exit: 8,
  Close: 9
} as const
export type FrameType = (typeof FrameType)[keyof typeof FrameType]

/** One frame; `payload` may share memory with the bytes it was decoded from. */
export interface Frame {
  readonly type: FrameType
  /** Stream of an exec connection: 0 stdin, 1 stdout, 2 stderr. */
  readonly stream: number
  readonly payload: Uint8Array
}

const magic0 = 0x42
const magic1 = 0x4b
const empty = new Uint8Array(0)
const utf8 = new TextEncoder()

const lengthAllowed = (type: number, length: number): boolean => {
  switch (type) {
    case FrameType.Hello:
    case FrameType.Request:
    case FrameType.Response:
    case FrameType.Event:
    case FrameType.Exit:
      return length >= 2 && length <= jsonBytesMax
    case FrameType.Data:
      return length >= 1 && length <= dataBytesMax
    case FrameType.Ack:
      return length === 4
    case FrameType.Eof:
    case FrameType.Close:
      return length === 0
    default:
      return false
  }
}

/** Bytes of one frame. A payload that the protocol forbids for the type is a defect of the caller. */
export const encodeFrame = (type: FrameType, stream: number, payload: Uint8Array = empty): Uint8Array => {
  if (!lengthAllowed(type, payload.length)) {
    throw new RangeError(`a frame of type ${type} can not carry ${payload.length} bytes`)
  }
  const bytes = new Uint8Array(frameHeaderBytes + payload.length)
  const view = new DataView(bytes.buffer)
  bytes[0] = magic0
  bytes[1] = magic1
  bytes[2] = type
  view.setUint32(4, stream, true)
  view.setUint32(8, payload.length, true)
  bytes.set(payload, frameHeaderBytes)
  return bytes
}

/** JSON text as payload bytes; `undefined` when it is longer than a frame may be. */
export const jsonPayload = (value: unknown): Uint8Array | undefined => {
  const payload = utf8.encode(JSON.stringify(value))
  return payload.length <= jsonBytesMax ? payload : undefined
}

/** Frame of a small JSON value that is known to fit. */
export const encodeJson = (type: FrameType, value: unknown): Uint8Array =>
  encodeFrame(type, 0, utf8.encode(JSON.stringify(value)))

/** Frame that acknowledges so many bytes of a stream. */
export const encodeAck = (stream: number, bytes: number): Uint8Array => {
  const count = new Uint8Array(4)
  new DataView(count.buffer).setUint32(0, bytes, true)
  return encodeFrame(FrameType.Ack, stream, count)
}

/** Bytes that an ACK acknowledges. */
export const acknowledged = ({ payload }: Frame): number =>
  new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true)

/**
 * Cuts frames out of a byte stream that arrives in arbitrary pieces.
 *
 * Invariants: holds at most one incomplete frame (256 KiB and a header); memory for a payload is taken only after its
 * header was checked; after the first malformed byte it takes nothing more.
 */
export class FrameDecoder {
  private readonly header = new Uint8Array(frameHeaderBytes)
  private readonly view = new DataView(this.header.buffer)
  private headerLength = 0
  private payload: Uint8Array | undefined
  private payloadLength = 0
  private malformed: string | undefined

  /** Feeds bytes and emits each frame that is complete. Answers why the stream is malformed, once and for ever. */
  push(bytes: Uint8Array, emit: (frame: Frame) => void): string | undefined {
    let at = 0
    while (this.malformed === undefined && at < bytes.length) {
      at = this.payload === undefined ? this.takeHeader(bytes, at, emit) : this.takePayload(bytes, at, emit)
    }
    return this.malformed
  }

  /** Whether the stream may end here: not in the middle of a frame. */
  get atBoundary(): boolean {
    return this.headerLength === 0 && this.malformed === undefined
  }

  private takeHeader(bytes: Uint8Array, from: number, emit: (frame: Frame) => void): number {
    let at = from
    while (at < bytes.length && this.headerLength < frameHeaderBytes) {
      this.header[this.headerLength++] = bytes[at++]!
    }
    this.malformed = this.headerFault()
    if (this.malformed !== undefined || this.headerLength < frameHeaderBytes) return at
    const length = this.view.getUint32(8, true)
    if (bytes.length - at >= length) {
      this.finish(bytes.subarray(at, at + length), emit)
      return at + length
    }
    this.payload = new Uint8Array(length)
    this.payloadLength = 0
    return at
  }

  private takePayload(bytes: Uint8Array, at: number, emit: (frame: Frame) => void): number {
    const payload = this.payload!
    const count = Math.min(bytes.length - at, payload.length - this.payloadLength)
    payload.set(bytes.subarray(at, at + count), this.payloadLength)
    this.payloadLength += count
    if (this.payloadLength === payload.length) this.finish(payload, emit)
    return at + count
  }

  private finish(payload: Uint8Array, emit: (frame: Frame) => void): void {
    const type = this.header[2] as FrameType
    const stream = this.view.getUint32(4, true)
    this.headerLength = 0
    this.payload = undefined
    emit({ type, stream, payload })
  }

  private headerFault(): string | undefined {
    const [first, second, type, flags] = this.header
    if (this.headerLength > 0 && first !== magic0) return "it does not start with a frame"
    if (this.headerLength > 1 && second !== magic1) return "it does not start with a frame"
    if (this.headerLength < frameHeaderBytes) return undefined
    if (flags !== 0) return `frame flags ${flags} are unknown`
    const length = this.view.getUint32(8, true)
    return lengthAllowed(type!, length) ? undefined : `a frame of type ${type} has ${length} bytes`
  }
}
