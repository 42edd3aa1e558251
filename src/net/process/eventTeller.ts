/**
 * Tells network events without drowning their reader: the first of its kind to a destination at once, more like it as one with their
 * number, at most once a second. Keeps no history.
 *
 * Invariant: memory is bounded, whatever a guest does; what there is no room for is counted in the events that are told.
 */
import type { NetworkEvent } from "../../domain/network/events.ts"

/** Destinations that are told apart at once. */
const keysMax = 1024
/** Shortest time between two events alike, in milliseconds. */
const gapMs = 1000
/** Events that may be told at once, before anything is counted alone. */
const burstMax = 256

interface Entry {
  /** The newest one, not told yet when `count` is above 0. */
  event: NetworkEvent
  count: number
}

/** Two events with one key concern one destination, and went the same way. */
const keyOf = (event: NetworkEvent): string =>
  [event.kind, event.protocol, event.name, event.address, event.port, event.rule, event.reason].join(" ")

export class EventTeller {
  private readonly entries = new Map<string, Entry>()
  private timer: ReturnType<typeof setTimeout> | undefined
  private told = 0
  /** Events without a place of their own since the last round. */
  private crowd: Entry | undefined
  constructor(private readonly tell: (event: NetworkEvent) => void) {}

  add(event: NetworkEvent): void {
    const key = keyOf(event)
    const entry = this.entries.get(key)
    if (entry !== undefined) {
      entry.event = event
      entry.count += event.count
      // What a destination was once used for is said once.
      if (event.kind === "used") entry.count = 0
    } else if (this.entries.size < keysMax && this.told < burstMax) {
      this.told += 1
      this.entries.set(key, { event, count: 0 })
      this.tell(event)
    } else {
      this.crowd = { event, count: (this.crowd?.count ?? 0) + event.count }
    }
    this.timer ??= setTimeout(() => this.round(), gapMs)
  }

  /** Tells what was only counted. */
  flush(): void {
    clearTimeout(this.timer)
    this.timer = undefined
    for (const [key, entry] of this.entries) {
      if (entry.count > 0) this.tell({ ...entry.event, count: entry.count })
      // One that was quiet for a round is told at once again; what is used is remembered while there is room.
      if (entry.count === 0 && (entry.event.kind !== "used" || this.entries.size >= keysMax / 2))
        this.entries.delete(key)
      entry.count = 0
    }
    if (this.crowd !== undefined) {
      const { event, count } = this.crowd
      this.tell({ ...event, count, reason: count > 1 ? `${event.reason}; and others, too many to tell` : event.reason })
    }
    this.crowd = undefined
    this.told = 0
  }

  private round(): void {
    this.flush()
    if (this.entries.size > 0 && [...this.entries.values()].some(({ event }) => event.kind !== "used")) {
      this.timer = setTimeout(() => this.round(), gapMs)
    }
  }
}
