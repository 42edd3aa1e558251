/**
 * Holds one TCP flow's bytes to the guest until it has acknowledged them and says which segment goes next. Writes no segments and
 * keeps no timer.
 *
 * Invariants: una ≤ nxt ≤ max; the bytes from `una` on are in the queue; an end follows after the last byte and is sent as often as one.
 */
import type { Budget } from "../budget.ts"
import { Congestion } from "./congestion.ts"
import { ByteQueue } from "./queues.ts"
import { after, before, distance, FIN, type Segment } from "./segment.ts"

/** Data in a segment to the guest: more delays its acknowledgements, and a frame must be one atomic write. */
const segmentBytesMax = 16_384
/** A guest that says less makes work. */
const mssMin = 88

/** The segment that goes next. */
export interface Next {
  readonly sequence: number
  readonly offset: number
  readonly size: number
  readonly ends: boolean
  /** The last byte that there is for now. */
  readonly last: boolean
}

/** What an acknowledgement means: nothing to us, of something that was never sent, or that it moved. */
export type Acknowledged = "same" | "wrong" | "moved"

export class Sender {
  readonly first = (Math.random() * 2 ** 32) | 0
  readonly queue = new ByteQueue()
  readonly congestion = new Congestion(this.first)
  una = this.first
  nxt = this.first
  /** The highest that was ever sent, plus one. */
  max = this.first
  /** The window that the guest gives. */
  window = 0
  /** No more bytes come. */
  ended = false
  endAcknowledged = false
  bytes = 0
  /** A single segment of a byte or so asks for a window. */
  probing = false
  /** The oldest segment goes once more. */
  again = false
  scaled = false
  /** The guest understands selective acknowledgements. */
  sack = false
  /** The oldest segment was sent again before its time had run out. */
  hurried = false
  private scale = 0
  private mss: number
  private windowMax = 0
  private windowSequence = 0
  private windowAck = 0
  private timed: number | undefined
  private timedAt = 0

  constructor(
    family: 4 | 6,
    private readonly budget: Budget
  ) {
    this.mss = family === 4 ? 536 : 1220
  }

  /** The guest's SYN; its window is never scaled. */
  start(segment: Segment): void {
    if (segment.mss > 0) this.mss = Math.max(mssMin, segment.mss)
    this.scaled = segment.scale >= 0
    this.scale = Math.max(0, segment.scale)
    this.sack = segment.sack
    this.window = this.windowMax = segment.window
    this.windowSequence = segment.sequence
    this.windowAck = this.first
  }

  /** Our SYN was acknowledged. */
  opened(): void {
    this.una = this.nxt = this.max = (this.first + 1) | 0
    this.congestion.answered()
  }

  push(bytes: Buffer): void {
    this.queue.push(bytes)
    this.budget.hold(bytes.length)
  }

  setWindow(segment: Segment): void {
    this.window = segment.window << this.scale
    if (this.window > this.windowMax) this.windowMax = this.window
    this.windowSequence = segment.sequence
    this.windowAck = segment.acknowledgement
  }

  acknowledge(segment: Segment, now: () => number): Acknowledged {
    const { acknowledgement } = segment
    if (after(acknowledgement, this.max)) return "wrong"
    const acked = distance(acknowledgement, this.una)
    if (acked > 0) this.advance(acknowledgement, acked, now)
    const newer =
      before(this.windowSequence, segment.sequence) ||
      (this.windowSequence === segment.sequence && !after(this.windowAck, acknowledgement))
    const windowBefore = this.window
    if (newer) this.setWindow(segment)
    if (windowBefore === 0 && this.window > 0) {
      // What was beyond the closed window may have been thrown away.
      this.probing = false
      this.nxt = this.una
      this.congestion.answered()
      return "moved"
    }
    if (acked > 0) return "moved"
    const duplicate = acked === 0 && segment.length === 0 && !(segment.flags & FIN) && windowBefore === this.window
    if (!duplicate || this.outstanding === 0) return "same"
    if (this.congestion.duplicate(this.una, this.outstanding, this.segmentBytes(), this.max)) this.again = true
    return "same"
  }

  private advance(acknowledgement: number, acked: number, now: () => number): void {
    const data = Math.min(acked, this.queue.length)
    this.queue.advance(data)
    this.bytes += data
    this.una = acknowledgement
    if (before(this.nxt, this.una)) this.nxt = this.una
    this.probing = false
    this.hurried = false
    if (this.timed === undefined) this.congestion.answered()
    else if (!after(this.timed, acknowledgement)) {
      this.congestion.measured(now() - this.timedAt)
      this.timed = undefined
    }
    this.again = this.congestion.acknowledged(this.una, acked, this.segmentBytes())
    if (this.ended && acked > data) this.endAcknowledged = true
    this.budget.release(data)
  }

  /** Sent and not acknowledged, an end included. */
  get outstanding(): number {
    return distance(this.max, this.una)
  }

  /** An end was sent at least once. */
  get endSent(): boolean {
    return this.ended && (this.endAcknowledged || this.outstanding > this.queue.length)
  }

  /** There are bytes for a guest that takes none. */
  get stuck(): boolean {
    return this.window === 0 && this.queue.length > 0
  }

  segmentBytes(): number {
    return Math.min(this.mss, segmentBytesMax, Math.max(this.windowMax >> 2, 536))
  }

  /** Bytes that the next segment carries, 0 for an end alone, -1: no segment. */
  sendable(): number {
    if (this.again) return Math.min(this.queue.length, this.segmentBytes(), this.outstanding)
    const flight = distance(this.nxt, this.una)
    const unsent = this.queue.length - flight
    if (unsent < 0) return -1
    const usable = Math.min(this.window, this.congestion.window) - flight
    const segment = this.segmentBytes()
    const size = Math.min(unsent, segment, Math.floor(usable))
    if (size > 0) {
      // A little window is waited for (RFC 9293, 3.8.6.2.1).
      return size < unsent && size < segment && flight > 0 ? -1 : size
    }
    if (unsent > 0) return this.probing && flight === 0 ? 1 : -1
    return this.ended && !this.endAcknowledged ? 0 : -1
  }

  next(size: number): Next {
    const offset = this.again ? 0 : distance(this.nxt, this.una)
    const last = offset + size === this.queue.length
    return { sequence: (this.una + offset) | 0, offset, size, ends: this.ended && last, last }
  }

  /** The segment was sent; true when nothing was on its way before. */
  sent({ ends, sequence, size }: Next, now: () => number): boolean {
    const idle = this.outstanding === 0
    const upTo = (sequence + size + (ends ? 1 : 0)) | 0
    const fresh = !before(sequence, this.max)
    if (after(upTo, this.max)) this.max = upTo
    if (this.again) {
      this.again = false
      this.timed = undefined
      return true
    }
    if (this.probing) {
      // Still counts as to be sent: the guest may throw it away.
      this.probing = false
      return true
    }
    if (fresh && this.timed === undefined) {
      this.timed = upTo
      this.timedAt = now()
    }
    this.nxt = upTo
    return idle
  }

  /** Long for an acknowledgement on this link: the oldest segment goes once more before all do (after RFC 8985, 7). */
  hurry(): void {
    this.hurried = true
    this.again = true
    this.timed = undefined
    this.congestion.hurried(this.outstanding, this.segmentBytes(), this.max)
  }

  /** Nothing was acknowledged in time: all of it goes again. */
  timedOut(): void {
    this.congestion.timedOut(this.outstanding, this.segmentBytes(), this.max)
    this.nxt = this.una
    this.timed = undefined
    this.again = false
  }

  /** The guest has taken nothing for a while: it is asked. */
  probe(): void {
    this.nxt = this.una
    this.probing = true
    this.timed = undefined
    this.congestion.backedOff()
  }

  release(): void {
    this.budget.release(this.queue.length)
    this.queue.clear()
  }
}
