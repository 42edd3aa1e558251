/** Measures a rate with a bucket: how much may pass now, and when the next may. Sets no timer. */
export class Rate {
  private level: number
  private filledAt = 0
  /** `perSecond` 0: no limit. The bucket holds `burst`, by default what comes in a second. */
  constructor(
    private readonly perSecond: number,
    private readonly burst = perSecond
  ) {
    this.level = burst
  }

  get limited(): boolean {
    return this.perSecond > 0
  }

  /** Milliseconds until something may pass; 0: now. */
  wait(nowMs: number): number {
    if (this.perSecond === 0) return 0
    this.fill(nowMs)
    return this.level > 0 ? 0 : Math.max(1, Math.ceil((-this.level / this.perSecond) * 1000))
  }

  /** Something passed, which may take the level below zero: it is paid back before the next passes. */
  spend(amount: number): void {
    if (this.perSecond > 0) this.level -= amount
  }

  /** Takes one if there is a whole one. */
  tryOne(nowMs: number): boolean {
    if (this.perSecond === 0) return true
    this.fill(nowMs)
    if (this.level < 1) return false
    this.level -= 1
    return true
  }

  private fill(nowMs: number): void {
    if (this.filledAt === 0) this.filledAt = nowMs
    this.level = Math.min(this.burst, this.level + ((nowMs - this.filledAt) * this.perSecond) / 1000)
    this.filledAt = nowMs
  }
}
