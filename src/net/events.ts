/** Passes events on, not more than their reader can bear: those above the rate are counted and told with the next one. */
import { Rate } from "./rate.ts"
import type { NetworkEvent } from "./types.ts"

const perSecond = 100
const burst = 400

export class Events {
  private readonly rate = new Rate(perSecond, burst)
  private suppressed = 0
  /** All events, by kind, those left out included. */
  readonly counts: Record<NetworkEvent["kind"], number> = {
    denied: 0,
    opened: 0,
    closed: 0,
    limit: 0,
    unreachable: 0,
    unsupported: 0,
    link: 0
  }
  constructor(private readonly listener: (event: NetworkEvent) => void) {}

  tell(event: NetworkEvent): void {
    this.counts[event.kind] += 1
    // What was opened and closed is the list of flows for a successor: none may be missing.
    const exempt = event.kind === "opened" || event.kind === "closed" || event.kind === "link"
    if (!exempt && !this.rate.tryOne(performance.now())) {
      this.suppressed += 1
      return
    }
    const { suppressed } = this
    this.suppressed = 0
    this.listener(suppressed > 0 ? { ...event, suppressed } : event)
  }
}
