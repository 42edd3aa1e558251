/**
 * Takes one TCP flow's bytes from the guest and passes them upstream, once and in order. Writes no segments.
 *
 * Invariants: the window's right edge never moves back; what is held (not taken by the upstream, or out of order) is in the budget.
 */
import type { Budget, Waiter } from "../budget.ts"
import { ByteQueue, Reassembly } from "./queues.ts"
import { after, distance, FIN, type Segment } from "./segment.ts"

/** Window that the guest gets; scale 7 carries up to 8 MiB. */
const windowBytes = 1_048_576
/** Announced with a SYN. */
export const ownScale = 7
const reassemblyBytesMax = 1_048_576

/** Takes what it can, as `Upstream.write`; undefined when there is nobody any more. */
type Sink = (bytes: Buffer, at: number, length: number) => number | undefined

/** What is due after a segment: an acknowledgement with what is sent next, or at once; or the flow has nobody to take its bytes. */
export type Received = "later" | "now" | "lost"

export class Receiver implements Waiter {
  /** Next sequence number that is expected. */
  received = 0
  /** First that is outside of the window. */
  edge = 0
  /** The guest sends no more. */
  ended = false
  bytes = 0
  private readonly reassembly = new Reassembly()
  private readonly pending = new ByteQueue()

  constructor(
    private readonly budget: Budget,
    private readonly sink: Sink,
    /** The window opened so far that the guest should hear of it. */
    private readonly opened: () => void
  ) {}

  start(sequence: number): void {
    this.received = this.edge = (sequence + 1) | 0
  }

  /** Whether a segment has a part in the window (RFC 9293, 3.10.7.4). */
  acceptable(sequence: number, size: number): boolean {
    const offset = distance(sequence, this.received)
    return offset < Math.max(distance(this.edge, this.received), 1) && offset + size >= 0
  }

  /** Everything that came in order was taken. */
  get empty(): boolean {
    return this.pending.length === 0
  }

  /** What came out of order, for a selective acknowledgement. */
  ranges(max: number): ReadonlyArray<readonly [start: number, end: number]> {
    return this.reassembly.bytes === 0 ? [] : this.reassembly.ranges(max)
  }

  take(segment: Segment, bytes: Buffer): Received {
    let { at, length, sequence } = segment
    let ends = (segment.flags & FIN) !== 0
    const known = distance(this.received, sequence)
    if (this.ended || known > length || (known === length && !ends)) return "now"
    if (known > 0) {
      at += known
      length -= known
      sequence = this.received
    }
    const over = distance((sequence + length) | 0, this.edge)
    if (over > 0) {
      length -= over
      ends = false
      if (length < 0) return "now"
    }
    // Each one out of order draws an acknowledgement of its own, by which the guest sees what is missing.
    if (sequence !== this.received) return this.keep(sequence, bytes, at, length)
    if (length > 0) {
      const outcome = this.deliver(bytes, at, length)
      if (outcome !== "later") return outcome
    }
    if (this.reassembly.bytes > 0) this.deliverReassembled()
    if (ends && this.received === ((sequence + length) | 0)) {
      this.received = (this.received + 1) | 0
      this.ended = true
    }
    return "later"
  }

  private keep(sequence: number, bytes: Buffer, at: number, length: number): Received {
    const room = Math.min(reassemblyBytesMax - this.reassembly.bytes, this.budget.maxBytes - this.budget.used)
    if (length <= 0 || length > room) return "now"
    const held = this.reassembly.bytes
    this.reassembly.add(sequence, bytes, at, length)
    this.budget.hold(this.reassembly.bytes - held)
    return "now"
  }

  /** "now": there was no room for all, the rest is as if it had been lost. */
  private deliver(bytes: Buffer, at: number, length: number): Received {
    let taken = 0
    if (this.pending.length === 0) {
      const wrote = this.write(bytes, at, length)
      if (wrote === undefined) return "lost"
      taken = wrote
    }
    const rest = length - taken
    const room = rest > 0 && !this.budget.full
    this.received = (this.received + (room ? length : taken)) | 0
    if (rest === 0) return "later"
    if (!room) return "now"
    this.pending.push(Buffer.from(bytes.subarray(at + taken, at + length)))
    this.budget.hold(rest)
    return "later"
  }

  private deliverReassembled(): void {
    for (;;) {
      const held = this.reassembly.bytes
      const bytes = this.reassembly.take(this.received)
      this.budget.release(held - this.reassembly.bytes)
      if (bytes === undefined || this.deliver(bytes, 0, bytes.length) !== "later") return
    }
  }

  private write(bytes: Buffer, at: number, length: number): number | undefined {
    const taken = this.sink(bytes, at, length)
    if (taken === undefined) return undefined
    this.bytes += Math.max(0, taken)
    return Math.max(0, taken)
  }

  /** The upstream takes bytes again. */
  drain(): void {
    while (this.pending.length > 0) {
      const bytes = this.pending.first()
      const taken = this.write(bytes, 0, bytes.length) ?? 0
      this.pending.advance(taken)
      this.budget.release(taken)
      if (taken < bytes.length) break
    }
    this.roomAgain()
  }

  roomAgain(): void {
    if (this.ended) return
    const edge = (this.received + this.window()) | 0
    // A little room is not worth a segment (RFC 9293, 3.8.6.2.2).
    if (distance(edge, this.edge) >= windowBytes / 4) this.opened()
    else if (this.budget.share < windowBytes) this.budget.wait(this)
  }

  private window(): number {
    const share = Math.min(windowBytes, this.budget.share)
    return Math.max(0, share - this.pending.length - this.reassembly.bytes)
  }

  /** The window field of a segment that is sent now; moves the right edge on. */
  advertise(scale: number): number {
    const held = Math.max(0, distance(this.edge, this.received))
    const field = Math.min(65_535, Math.max(this.window(), held) >> scale)
    const edge = (this.received + (field << scale)) | 0
    if (after(edge, this.edge)) this.edge = edge
    if (this.budget.share < windowBytes) this.budget.wait(this)
    return field
  }

  release(): void {
    this.budget.release(this.pending.length + this.reassembly.bytes)
    this.pending.clear()
    this.reassembly.clear()
    this.budget.forget(this)
  }
}
