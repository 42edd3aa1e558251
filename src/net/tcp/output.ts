/**
 * Lets flows send in turn, one segment each, as long as the card takes them, and wakes flows whose time has come. One timer at most
 * runs, and only while a flow waits for something.
 */
import type { Card } from "../card.ts"
import type { Rate } from "../rate.ts"
import type { TcpFlow } from "./flow.ts"

export class Output {
  private ready: Array<TcpFlow> = []
  private head = 0
  private pumps = false
  /** Flows whose data waits for the rate. */
  private readonly shaped: Array<TcpFlow> = []
  private shapedTimer: ReturnType<typeof setTimeout> | undefined
  private timer: ReturnType<typeof setTimeout> | undefined
  private timerAt = Number.POSITIVE_INFINITY

  constructor(
    private readonly card: Card,
    private readonly rate: Rate,
    private readonly now: () => number,
    private readonly flows: () => Iterable<TcpFlow>
  ) {}

  add(flow: TcpFlow): void {
    if (flow.queued) return
    flow.queued = true
    this.ready.push(flow)
    if (this.pumps) return
    // At the end of this turn: by then a flow knows all that it has to say.
    this.pumps = true
    queueMicrotask(() => {
      this.pumps = false
      this.pump()
    })
  }

  /** Sends what there is until the card is full. */
  pump(): void {
    if (!this.card.sendWaiting()) return
    while (this.head < this.ready.length) {
      const flow = this.ready[this.head]!
      const withData = !this.rate.limited || this.rate.wait(this.now()) === 0
      const before = flow.sender.max
      const outcome = flow.emit(withData)
      if (outcome === "blocked") break
      this.head += 1
      flow.queued = false
      if (withData) this.rate.spend((flow.sender.max - before) | 0)
      if (outcome === "more") this.add(flow)
      else if (!withData && flow.sender.sendable() >= 0) this.shape(flow)
      if (this.head > 256) this.compact()
    }
    if (this.head === this.ready.length) this.compact()
  }

  private compact(): void {
    this.ready.splice(0, this.head)
    this.head = 0
  }

  private shape(flow: TcpFlow): void {
    if (!this.shaped.includes(flow)) this.shaped.push(flow)
    this.shapedTimer ??= setTimeout(() => {
      this.shapedTimer = undefined
      for (const each of this.shaped.splice(0)) this.add(each)
      this.pump()
    }, this.rate.wait(this.now()))
  }

  /** A flow's deadline changed. */
  arm(flow: TcpFlow): void {
    if (flow.deadline < this.timerAt) this.wakeAt(flow.deadline)
  }

  private wakeAt(at: number): void {
    clearTimeout(this.timer)
    this.timerAt = at
    this.timer = undefined
    // The longest that a timer takes.
    if (at < Number.POSITIVE_INFINITY)
      this.timer = setTimeout(() => this.wake(), Math.min(2 ** 31 - 1, Math.max(1, at - this.now())))
  }

  private wake(): void {
    const now = this.now()
    this.timerAt = Number.POSITIVE_INFINITY
    const due = [...this.flows()].filter(({ deadline }) => deadline <= now)
    for (const flow of due) flow.timeout(now)
    let earliest = Number.POSITIVE_INFINITY
    for (const { deadline } of this.flows()) earliest = Math.min(earliest, deadline)
    this.wakeAt(earliest)
    this.pump()
  }

  /** Called when a flow has gone: without flows no timer runs. */
  idle(): void {
    this.wakeAt(Number.POSITIVE_INFINITY)
  }

  close(): void {
    clearTimeout(this.timer)
    clearTimeout(this.shapedTimer)
    this.shaped.length = this.ready.length = this.head = 0
  }
}
