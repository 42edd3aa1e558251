/**
 * Says how much may be on its way to the guest and when it counts as lost: RTO (RFC 6298), NewReno (RFC 6582). Sends nothing.
 *
 * The card loses nothing, so there is no slow start before the first loss.
 */
import { after, distance } from "./segment.ts"

const rtoFirstMs = 1000
/** Above the guest's delayed acknowledgement (40 to 200 ms). */
const rtoMinMs = 250
const rtoMaxMs = 60_000
/** Above the shortest delay of an acknowledgement. */
const hurryMinMs = 50
const duplicatesMax = 3
const unlimited = 2 ** 30
const windowMax = 4_194_304

export class Congestion {
  rtoMs = rtoFirstMs
  window = unlimited
  recovering = false
  private threshold = unlimited
  private duplicates = 0
  /** Losses up to here have been dealt with. */
  private recover: number
  private smoothMs = 0
  private variationMs = 0
  private backOff = 0
  constructor(first: number) {
    this.recover = first
  }

  /** A round trip that was measured on a segment that was sent once (Karn). */
  measured(ms: number): void {
    if (this.smoothMs === 0) {
      this.smoothMs = ms
      this.variationMs = ms / 2
    } else {
      this.variationMs += (Math.abs(this.smoothMs - ms) - this.variationMs) / 4
      this.smoothMs += (ms - this.smoothMs) / 8
    }
    this.backOff = 0
    this.setRto()
  }

  /** Bytes were acknowledged; true when the next missing segment must be sent again at once. */
  acknowledged(una: number, bytes: number, segmentBytes: number): boolean {
    this.duplicates = 0
    if (this.recovering) {
      if (distance(una, this.recover) >= 0) {
        this.recovering = false
        this.window = this.threshold
        return false
      }
      this.window = Math.max(segmentBytes, this.window - bytes + segmentBytes)
      return true
    }
    if (this.window < unlimited) {
      const grown =
        this.window < this.threshold ? Math.min(bytes, segmentBytes) : (segmentBytes * segmentBytes) / this.window
      this.window = Math.min(windowMax, this.window + grown)
    }
    return false
  }

  /** An acknowledgement came again; true when a segment counts as lost now. */
  duplicate(una: number, flight: number, segmentBytes: number, sentUpTo: number): boolean {
    this.duplicates += 1
    if (this.recovering) {
      this.window += segmentBytes
      return false
    }
    if (this.duplicates !== duplicatesMax || !after(una, this.recover)) return false
    this.threshold = Math.max(flight / 2, 2 * segmentBytes)
    this.window = this.threshold + duplicatesMax * segmentBytes
    this.recover = sentUpTo
    this.recovering = true
    return true
  }

  /** After so long without an acknowledgement one segment is sent again. */
  get hurryMs(): number {
    return this.smoothMs === 0 ? this.rtoMs : Math.min(this.rtoMs, Math.max(hurryMinMs, 2 * this.smoothMs))
  }

  /** A segment counts as lost before its time: those behind it are looked after one by one. */
  hurried(flight: number, segmentBytes: number, sentUpTo: number): void {
    if (this.recovering) return
    this.threshold = Math.max(flight / 2, 2 * segmentBytes)
    this.window = this.threshold
    this.recover = sentUpTo
    this.recovering = true
  }

  /** Nothing was acknowledged in time. */
  timedOut(flight: number, segmentBytes: number, sentUpTo: number): void {
    if (this.backOff === 0) this.threshold = Math.max(flight / 2, 2 * segmentBytes)
    this.window = segmentBytes
    this.recovering = false
    this.recover = sentUpTo
    this.duplicates = 0
    this.backedOff()
  }

  backedOff(): void {
    this.backOff += 1
    this.setRto()
  }

  answered(): void {
    if (this.backOff === 0) return
    this.backOff = 0
    this.setRto()
  }

  private setRto(): void {
    const base = this.smoothMs === 0 ? rtoFirstMs : Math.max(rtoMinMs, this.smoothMs + 4 * this.variationMs)
    this.rtoMs = Math.min(rtoMaxMs, base * 2 ** Math.min(this.backOff, 10))
  }
}
