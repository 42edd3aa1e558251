/**
 * Is one end of a TCP connection with the guest (RFC 9293), between the card and an upstream. Decides nothing about who may connect.
 *
 * Invariants: a flow sends one segment at a time when it is asked to (`emit`), so nothing is queued at the card; after `gone` was
 * called with `stays` false nothing is held and no timer runs.
 */
import type { Budget, Waiter } from "../budget.ts"
import type { Card } from "../card.ts"
import type { Upstream, UpstreamHandler } from "../types.ts"
import { ownScale, Receiver } from "./receiver.ts"
import { ACK, distance, FIN, PSH, RST, type Segment, SYN } from "./segment.ts"
import { Sender } from "./sender.ts"
import { type FlowKey, rangesMax, sendReset, writeSegment } from "./writer.ts"

const synRetriesMax = 5
const retriesMax = 12
const probesMax = 9
const probeGapMs = 75_000
/** Twice the longest life of a segment, on a link of one machine. */
const timeWaitMs = 4000

export type FlowState = "dialing" | "synReceived" | "synSent" | "open" | "timeWait" | "closed"
/** What became of an `emit`: nothing more to send, more to send, or the card is full. */
export type Emitted = "done" | "more" | "blocked"

/** What a flow needs of those around it. */
export interface FlowContext {
  readonly card: Card
  /** Milliseconds of a clock that never goes back. */
  readonly now: () => number
  /** Bytes from the guest that the upstream did not take; bytes to the guest. */
  readonly up: Budget
  readonly down: Budget
  readonly keepAliveMs: number
  /** The flow has something to send. */
  readonly ready: (flow: TcpFlow) => void
  /** The flow's `deadline` changed. */
  readonly armed: (flow: TcpFlow) => void
  /** The flow is over; or, when `stays`, in TIME_WAIT. */
  readonly gone: (flow: TcpFlow, stays: boolean) => void
}

export class TcpFlow implements UpstreamHandler, Waiter {
  state: FlowState = "dialing"
  /** Next flow with the same hash. */
  next: TcpFlow | undefined
  /** True while it is in the queue of those that have something to send. */
  queued = false
  deadline = Number.POSITIVE_INFINITY
  readonly receiver: Receiver
  readonly sender: Sender
  private upstream: Upstream | undefined
  private readonly addressesSum: number
  private ackNeeded = false
  private paused = false
  /** Our end was sent before the guest's came: this side waits for what is still under way. */
  private endedFirst = false
  private retries = 0
  private lastHeard: number

  constructor(
    readonly key: FlowKey,
    private readonly context: FlowContext
  ) {
    this.addressesSum = context.card.sumOf(key.remote) + context.card.sumOf(context.card.guest(key.family))
    this.lastHeard = context.now()
    this.sender = new Sender(key.family, context.down)
    this.receiver = new Receiver(
      context.up,
      (bytes, at, length) => this.upstream?.write(bytes, at, length),
      () => this.acknowledge()
    )
  }

  /** The guest asks to connect. */
  asked(segment: Segment): void {
    this.receiver.start(segment.sequence)
    this.sender.start(segment)
  }

  /** The destination is connected: the guest is told. Or ("synSent") the guest is connected to. */
  begin(upstream: Upstream, state: "synReceived" | "synSent"): void {
    this.upstream = upstream
    if (this.paused) upstream.pause()
    this.state = state
    this.restartTimer()
    this.context.ready(this)
  }

  // From the guest.

  input(segment: Segment, bytes: Buffer): void {
    const { flags } = segment
    const { receiver } = this
    const offset = distance(segment.sequence, receiver.received)
    this.lastHeard = this.context.now()
    if (this.state === "closed") return
    if (this.state === "dialing") {
      if (flags & RST && offset === 0) this.finish(true)
      return
    }
    if (this.state === "synSent") {
      this.inputAnswer(segment)
      return
    }
    const size = segment.length + (flags & FIN ? 1 : 0)
    const acceptable = receiver.acceptable(segment.sequence, size)
    if (flags & RST) {
      // Elsewhere in the window it may be forged (RFC 5961, 3).
      if (offset === 0) this.finish(true)
      else if (acceptable) this.acknowledge()
      return
    }
    if (flags & SYN) {
      if (this.state !== "synReceived" || offset !== -1) {
        this.acknowledge()
        return
      }
      this.sender.nxt = this.sender.first
      this.context.ready(this)
      return
    }
    if (!acceptable) {
      this.acknowledge()
      return
    }
    if (!(flags & ACK)) return
    if (this.state === "synReceived" && !this.opened(segment)) return
    this.inputOpen(segment, bytes, size)
  }

  /** The guest acknowledges our SYN, or something that was never sent (RFC 9293, 3.10.7.4). */
  private opened(segment: Segment): boolean {
    if (distance(segment.acknowledgement, this.sender.first) !== 1) {
      sendReset(this.context.card, this.key, segment.acknowledgement, undefined)
      this.finish(true)
      return false
    }
    this.state = "open"
    this.sender.opened()
    this.sender.setWindow(segment)
    this.retries = 0
    this.restartTimer()
    return true
  }

  private inputAnswer(segment: Segment): void {
    if (!(segment.flags & ACK) || distance(segment.acknowledgement, this.sender.first) !== 1) return
    if (segment.flags & RST) this.finish(true)
    if (!(segment.flags & SYN) || this.state !== "synSent") return
    this.asked(segment)
    this.state = "open"
    this.sender.opened()
    this.retries = 0
    this.ackNeeded = true
    this.restartTimer()
    this.context.ready(this)
  }

  private inputOpen(segment: Segment, bytes: Buffer, size: number): void {
    const { receiver, sender } = this
    const outcome = sender.acknowledge(segment, this.context.now)
    if (outcome === "wrong") {
      this.acknowledge()
      return
    }
    if (outcome === "moved" || sender.window === 0) this.retries = 0
    if (outcome === "moved") {
      this.restartTimer()
      this.roomAgain()
    }
    if (size > 0) {
      const ended = receiver.ended
      const due = receiver.take(segment, bytes)
      // The upstream may have reset the flow meanwhile.
      if ((this.state as FlowState) === "closed") return
      if (due === "lost") {
        this.reset()
        return
      }
      if (due === "now") this.acknowledge()
      else this.ackNeeded = true
      if (receiver.ended && !ended) {
        this.endedFirst = sender.endSent
        if (receiver.empty) this.upstream?.end()
      }
    }
    this.maybeFinished()
    if (this.state !== "closed" && (this.ackNeeded || sender.stuck || sender.sendable() >= 0)) this.context.ready(this)
  }

  // From the upstream.

  data(bytes: Buffer): void {
    if (this.state === "closed" || this.state === "timeWait" || this.sender.ended) return
    this.sender.push(bytes)
    if (this.sender.queue.length >= this.context.down.share) this.pause()
    this.context.ready(this)
  }

  /** Stops the upstream until the guest has taken enough. */
  pause(): void {
    if (this.paused) return
    this.paused = true
    this.upstream?.pause()
    this.context.down.wait(this)
  }

  roomAgain(): void {
    if (!this.paused || this.state === "closed") return
    if (this.sender.queue.length * 2 > this.context.down.share || this.context.down.full) {
      this.context.down.wait(this)
      return
    }
    this.paused = false
    this.context.down.forget(this)
    this.upstream?.resume()
  }

  drain(): void {
    if (this.state === "closed" || this.receiver.empty) return
    this.receiver.drain()
    if (this.receiver.empty && this.receiver.ended) this.upstream?.end()
    this.maybeFinished()
  }

  end(): void {
    if (this.sender.ended) return
    this.sender.ended = true
    if (this.state !== "closed") this.context.ready(this)
  }

  closed(reset: boolean): void {
    if (this.state === "closed" || this.state === "timeWait") return
    if (reset) {
      this.reset()
      return
    }
    this.end()
    this.upstream = undefined
    // Bytes that it did not take are lost.
    if (!this.receiver.empty) this.reset()
  }

  // To the guest.

  /** Sends at most one segment. `withData` is false while the rate of bytes is used up. */
  emit(withData: boolean): Emitted {
    const { sender } = this
    if (this.state === "synReceived" || this.state === "synSent") return this.emitSyn()
    if (this.state !== "open" && this.state !== "timeWait") return "done"
    const size = withData ? sender.sendable() : -1
    if (size < 0) {
      // Nothing that comes by itself tells of a window that opens again.
      if (sender.stuck && this.deadline > this.context.now() + sender.congestion.rtoMs) this.restartTimer()
      return !this.ackNeeded || this.write(ACK, sender.nxt, 0, 0) ? "done" : "blocked"
    }
    const next = sender.next(size)
    const flags = ACK | (next.last ? PSH : 0) | (next.ends ? FIN : 0)
    if (!this.write(flags, next.sequence, next.offset, size)) return "blocked"
    if (sender.sent(next, this.context.now)) this.restartTimer()
    return sender.sendable() < 0 ? "done" : "more"
  }

  private emitSyn(): Emitted {
    const { sender } = this
    if (sender.nxt !== sender.first) return "done"
    if (!this.write(this.state === "synSent" ? SYN : SYN | ACK, sender.first, 0, 0)) return "blocked"
    sender.nxt = sender.max = (sender.first + 1) | 0
    this.restartTimer()
    return "done"
  }

  private write(flags: number, sequence: number, offset: number, size: number): boolean {
    const { receiver, sender } = this
    const scaled = sender.scaled || this.state === "synSent"
    const syn = (flags & SYN) !== 0
    const fields = {
      flags,
      sequence,
      acknowledgement: receiver.received,
      window: receiver.advertise(syn || !scaled ? 0 : ownScale),
      scale: scaled ? ownScale : -1,
      sack: sender.sack || this.state === "synSent",
      ranges: sender.sack && !syn && size === 0 ? receiver.ranges(rangesMax) : []
    }
    if (!writeSegment(this.context.card, this.key, this.addressesSum, fields, sender.queue, offset, size)) return false
    this.ackNeeded = false
    return true
  }

  private acknowledge(): void {
    if (this.state !== "open" && this.state !== "timeWait") return
    if (this.write(ACK, this.sender.nxt, 0, 0)) return
    this.ackNeeded = true
    this.context.ready(this)
  }

  // Time.

  /** Decides what is waited for next, from now on. */
  private restartTimer(): void {
    this.deadline = this.nextDeadline(this.context.now())
    this.context.armed(this)
  }

  private nextDeadline(now: number): number {
    if (this.state === "closed" || this.state === "dialing") return Number.POSITIVE_INFINITY
    if (this.state === "timeWait") return now + timeWaitMs
    const { context, sender } = this
    if (this.state !== "open" || sender.outstanding > 0 || sender.stuck) {
      const { hurryMs, rtoMs } = sender.congestion
      return now + (this.state !== "open" || sender.stuck || sender.hurried ? rtoMs : hurryMs)
    }
    return this.retries > 0
      ? now + Math.min(probeGapMs, context.keepAliveMs)
      : Math.max(now, this.lastHeard) + context.keepAliveMs
  }

  /** The deadline has come. */
  timeout(now: number): void {
    if (this.state === "timeWait") {
      this.finish(false)
      return
    }
    if (this.state === "closed" || this.state === "dialing") return
    const { sender } = this
    if (this.state !== "open") {
      if (++this.retries > synRetriesMax) {
        this.reset()
        return
      }
      sender.nxt = sender.first
      sender.congestion.backedOff()
    } else if (sender.stuck) {
      if (++this.retries > retriesMax) {
        this.reset()
        return
      }
      sender.probe()
    } else if (sender.outstanding > 0 && !sender.hurried) {
      sender.hurry()
    } else if (sender.outstanding > 0) {
      if (++this.retries > retriesMax) {
        this.reset()
        return
      }
      sender.timedOut()
    } else if (now - this.lastHeard < this.context.keepAliveMs) {
      this.retries = 0
    } else {
      if (++this.retries > probesMax) {
        this.reset()
        return
      }
      this.write(ACK, sender.una - 1, 0, 0)
    }
    this.restartTimer()
    this.context.ready(this)
  }

  // The end.

  private maybeFinished(): void {
    const { receiver, sender } = this
    if (this.state !== "open" || !receiver.ended || !receiver.empty || !sender.endAcknowledged) return
    if (!this.endedFirst) {
      this.finish(false)
      return
    }
    this.release()
    this.state = "timeWait"
    this.restartTimer()
    this.context.gone(this, true)
  }

  /** Resets both sides; of a flow that was never answered it refuses the guest's SYN. */
  reset(): void {
    if (this.state === "closed") return
    sendReset(this.context.card, this.key, this.state === "dialing" ? 0 : this.sender.nxt, this.receiver.received)
    this.finish(true)
  }

  private release(): void {
    this.sender.release()
    this.receiver.release()
    this.context.down.forget(this)
  }

  private finish(reset: boolean): void {
    if (this.state === "closed") return
    const waited = this.state === "timeWait"
    this.state = "closed"
    if (reset && !waited) this.upstream?.reset()
    this.upstream = undefined
    this.release()
    this.deadline = Number.POSITIVE_INFINITY
    this.context.gone(this, false)
  }
}
