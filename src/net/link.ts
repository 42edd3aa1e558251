/**
 * Carries ethernet frames over a unix stream as both engines speak it: u32 big-endian length, then the frame.
 * Knows nothing of what is in a frame.
 *
 * Invariants: what is written in one call is at most `batchBytesMax` long or one larger frame after the socket was seen writable,
 * so the kernel takes all of it or nothing and a process that dies leaves no half frame; a frame that was begun is finished before
 * anything else; no frame is longer than `frameBytesMax`; nothing is queued but one batch.
 */
import { isWritable } from "../ffi/posix.ts"
import { adoptDescriptor } from "./descriptor.ts"
import type { Link, LinkHandler } from "./types.ts"

/** A longer frame kills libkrun's network worker. */
export const frameBytesMax = 65_550
/** One non-blocking send of so many bytes on a unix stream is all or nothing. */
export const batchBytesMax = 32_768
const frameBytesMin = 14
const headerBytes = 4

/** Cuts a stream into frames. `guestMac`: a stream that begins in the middle of a frame is searched for it. */
export class FrameReader {
  /** What is left of a frame that is not whole yet. */
  private rest = Buffer.alloc(headerBytes + frameBytesMax)
  private have = 0
  private searching: boolean
  /** Bytes that belonged to no frame. */
  skipped = 0
  constructor(
    private readonly guestMac: Uint8Array,
    private readonly frame: (bytes: Buffer, start: number, end: number) => void,
    resynchronise: boolean
  ) {
    this.searching = resynchronise
  }

  push(chunk: Buffer): void {
    let at = 0
    if (this.have > 0) {
      at = this.complete(chunk)
      if (at < 0) return
    }
    while (chunk.length - at >= headerBytes) {
      const length = chunk.readUInt32BE(at)
      if (!this.sane(chunk, at, length)) {
        at += 1
        this.skipped += 1
        continue
      }
      const end = at + headerBytes + length
      if (end > chunk.length) break
      this.searching = false
      this.frame(chunk, at + headerBytes, end)
      at = end
    }
    this.have = chunk.copy(this.rest, 0, at)
  }

  /** Adds to the frame that was begun; the position behind it in the chunk, or -1 when the chunk is used up. */
  private complete(chunk: Buffer): number {
    let at = 0
    for (;;) {
      const length = this.have >= headerBytes ? this.rest.readUInt32BE(0) : -1
      if (length >= 0 && !this.sane(this.rest, 0, length, this.have)) {
        this.rest.copy(this.rest, 0, 1, this.have)
        this.have -= 1
        this.skipped += 1
        if (this.have === 0) return at
        continue
      }
      const wanted = this.wanted(length)
      const taken = Math.min(wanted - this.have, chunk.length - at)
      chunk.copy(this.rest, this.have, at, at + taken)
      this.have += taken
      at += taken
      if (this.have < wanted) return -1
      if (length < 0 || this.have < headerBytes + length) continue
      this.searching = false
      this.have = 0
      this.frame(this.rest, headerBytes, headerBytes + length)
      return at
    }
  }

  /** Up to where the frame that was begun is read next: its length, while it is searched for also its addresses, then all. */
  private wanted(length: number): number {
    if (length < 0) return headerBytes
    if (this.searching && this.have < headerBytes + frameBytesMin) return headerBytes + frameBytesMin
    return headerBytes + length
  }

  /** Whether a frame may begin here. Outside a search only the length counts: what else is wrong with a frame is not the link's. */
  private sane(bytes: Buffer, at: number, length: number, have = bytes.length): boolean {
    if (length > frameBytesMax || length < frameBytesMin) {
      this.searching = true
      return false
    }
    if (!this.searching || have - at < headerBytes + frameBytesMin) return true
    const source = at + headerBytes + 6
    for (let index = 0; index < 6; index++) if (bytes[source + index] !== this.guestMac[index]) return false
    return true
  }
}

/** Writes frames in batches. */
export class FrameWriter {
  readonly out = Buffer.alloc(headerBytes + frameBytesMax)
  private start = 0
  private end = 0
  private blocked = false
  constructor(
    private readonly write: (bytes: Buffer, start: number, length: number) => number,
    private readonly ready: () => boolean
  ) {}

  reserve(length: number): number {
    if (length > frameBytesMax || length < frameBytesMin) throw new RangeError(`a frame of ${length} bytes`)
    if (this.end > 0 && this.end + headerBytes + length > batchBytesMax) this.flush()
    if (this.blocked) return -1
    if (headerBytes + length > batchBytesMax && !this.ready()) {
      this.blocked = true
      return -1
    }
    this.out.writeUInt32BE(length, this.end)
    const at = this.end + headerBytes
    this.end = at + length
    return at
  }

  flush(): void {
    if (this.blocked || this.end === 0) return
    const taken = this.write(this.out, this.start, this.end - this.start)
    if (taken > 0) this.start += taken
    if (this.start === this.end) this.start = this.end = 0
    else this.blocked = true
  }

  /** The socket takes bytes again; true when all that was begun is out. */
  drain(): boolean {
    this.blocked = false
    this.flush()
    return !this.blocked
  }

  get pending(): number {
    return this.end - this.start
  }
}

/** A frame that the card has no room for is tried again so much later: no event tells of room without a short write. */
const roomRetryMs = 1

export interface StreamLinkOptions {
  /** One end of a connected unix stream socket; closed with the link. */
  readonly fd: number
  readonly guestMac: string
  /** True when another process has used this end before: it may have read half a frame. */
  readonly successor?: boolean
}

/** `02:00:…` as bytes. */
export const macBytes = (text: string): Uint8Array =>
  Uint8Array.from(text.split(":"), (byte) => Number.parseInt(byte, 16))

/** A link over a descriptor. Frames before `attach` are not read. */
export const openStreamLink = async ({ fd, guestMac, successor = false }: StreamLinkOptions): Promise<Link> => {
  let handler: LinkHandler | undefined
  let retry: ReturnType<typeof setTimeout> | undefined
  const reader = new FrameReader(
    macBytes(guestMac),
    (bytes, start, end) => handler?.frame(bytes, start, end),
    successor
  )
  const writer = new FrameWriter(
    (bytes, start, length) => socket.write(bytes, start, length),
    () => isWritable(fd)
  )
  const room = (): void => {
    retry = undefined
    if (writer.drain()) handler?.writable()
  }
  const closed = (reason: string): void => {
    clearTimeout(retry)
    const last = handler
    handler = undefined
    last?.closed(reason)
  }
  const socket = await adoptDescriptor(fd, {
    open: (opened) => void opened.pause(),
    data: (_, chunk) => {
      reader.push(chunk)
      handler?.settled()
    },
    drain: room,
    end: () => closed("the VM closed its end"),
    error: (_, cause) => closed(cause.message),
    close: (_, cause) => closed(cause === undefined ? "closed" : String(cause))
  })
  return {
    attach: (next) => {
      handler = next
      socket.resume()
    },
    reserve: (length) => {
      const at = writer.reserve(length)
      if (at < 0 && writer.pending === 0 && retry === undefined) retry = setTimeout(room, roomRetryMs)
      return at
    },
    out: writer.out,
    flush: () => writer.flush(),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    close: () => {
      handler = undefined
      clearTimeout(retry)
      socket.terminate()
    }
  }
}
