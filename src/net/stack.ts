/**
 * Is the other end of a guest's network card: a user-mode network stack that terminates what the guest sends and carries it on
 * from the host where the policy allows it. Starts no process and reads no configuration: its owner brings link, policy and dialer.
 */
import type { Addresses, Dialer, Intercept, Link, NetworkEvent, NetworkLimits, NetworkPolicy } from "./types.ts"

export interface StackOptions {
  readonly link: Link
  readonly addresses: Addresses
  readonly policy: NetworkPolicy
  readonly dialer: Dialer
  readonly events: (event: NetworkEvent) => void
  /** Those that are left out: `defaultLimits`. */
  readonly limits?: Partial<NetworkLimits>
  readonly intercept?: Intercept
}

/** Counters since the start; gauges end in `Open`. */
export interface StackStats {
  readonly framesIn: number
  readonly framesOut: number
}

export interface Stack {
  /** Swaps the policy and rechecks. */
  readonly setPolicy: (policy: NetworkPolicy) => void
  /** Resets flows that are denied now; names that are denied now stop resolving. */
  readonly recheck: () => void
  readonly stats: () => StackStats
  /** Resets all flows and closes the link. */
  readonly close: () => void
}

export const makeStack = (options: StackOptions): Stack => {
  let policy = options.policy
  let framesIn = 0
  options.link.attach({
    frame: () => void (framesIn += 1),
    settled: () => {},
    writable: () => {},
    closed: (reason) => options.events({ kind: "link", protocol: "link", reason })
  })
  const recheck = () => void policy
  return {
    setPolicy: (next) => {
      policy = next
      recheck()
    },
    recheck,
    stats: () => ({ framesIn, framesOut: 0 }),
    close: () => options.link.close()
  }
}
