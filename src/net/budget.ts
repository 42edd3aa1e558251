/**
 * Bounds the bytes that all flows of a sandbox hold in memory for one direction. Whoever holds bytes says so here; the budget says how
 * much one flow may hold, less when all together hold much.
 */

/** A flow that stopped taking bytes because of the budget. */
export interface Waiter {
  readonly roomAgain: () => void
}

export class Budget {
  used = 0
  private readonly waiters = new Set<Waiter>()
  constructor(
    private readonly flowBytes: number,
    private readonly flowBytesWhenMuch: number,
    private readonly muchBytes: number,
    /** Above it flows hold nothing more. */
    readonly maxBytes: number
  ) {}

  /** Bytes that one flow may hold before it stops taking more. */
  get share(): number {
    if (this.used >= this.maxBytes) return 0
    return this.used >= this.muchBytes ? this.flowBytesWhenMuch : this.flowBytes
  }

  get full(): boolean {
    return this.used >= this.maxBytes
  }

  hold(bytes: number): void {
    this.used += bytes
  }

  release(bytes: number): void {
    this.used -= bytes
    if (this.waiters.size === 0 || this.used >= this.muchBytes) return
    // Those that still find no room wait again, so they are taken out first.
    const waiters = [...this.waiters]
    this.waiters.clear()
    for (const waiter of waiters) waiter.roomAgain()
  }

  wait(waiter: Waiter): void {
    this.waiters.add(waiter)
  }

  forget(waiter: Waiter): void {
    this.waiters.delete(waiter)
  }
}
