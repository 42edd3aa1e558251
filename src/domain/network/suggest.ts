/**
 * Makes the shortest list of rules that would have let through what was denied, and what was used, out of a sandbox's network events.
 * Pure. Widens nothing: each rule names one destination, with the ports that were asked for.
 */
import { Schema } from "effect"
import { isAddress } from "./address.ts"
import type { NetworkConfig } from "./config.ts"
import type { NetworkEvent } from "./events.ts"
import { compilePolicy, decideName, hostName } from "./policy.ts"
import { formatPorts, type PortRange } from "./rules.ts"

export const Suggestion = Schema.Struct({
  /** For `--allow-net`. */
  allow: Schema.Array(Schema.String),
  /** For `--allow-host-port`. */
  hostPorts: Schema.Array(Schema.Int),
  /** Deny rules that stand in the way: no allow rule helps against one. */
  denied: Schema.Array(Schema.String)
})
export type Suggestion = typeof Suggestion.Type

interface Destination {
  readonly host: string
  readonly udp: Set<number>
  readonly tcp: Set<number>
  /** It was looked up, and the answer was no: the port is not known. */
  looked: boolean
  ping: boolean
}

/** Ports as ranges, neighbours together. */
const rangesOf = (ports: ReadonlySet<number>): ReadonlyArray<PortRange> => {
  const ranges: Array<[number, number]> = []
  for (const port of [...ports].sort((a, b) => a - b)) {
    const last = ranges.at(-1)
    if (last !== undefined && port === last[1] + 1) last[1] = port
    else ranges.push([port, port])
  }
  return ranges
}

const rulesFor = ({ host, udp, tcp, looked, ping }: Destination): ReadonlyArray<string> => {
  const withPorts = (ports: ReadonlySet<number>, tail: string) => {
    const address = host.includes(":") ? `[${host}]` : host
    return ports.size === 0 ? [] : [`${address}:${formatPorts(rangesOf(ports))}${tail}`]
  }
  if (ping || (looked && tcp.size === 0 && udp.size === 0)) return [host]
  return [...withPorts(tcp, ""), ...withPorts(udp, "/udp")]
}

/** The rules that the events ask for, without those that `config` has already. */
export const suggestRules = (events: ReadonlyArray<NetworkEvent>, config: NetworkConfig): Suggestion => {
  const destinations = new Map<string, Destination>()
  const hostPorts = new Set<number>()
  const denied = new Set<string>()
  const policy = compilePolicy(config)
  const at = (host: string) => {
    const found = destinations.get(host) ?? { host, udp: new Set(), tcp: new Set(), looked: false, ping: false }
    destinations.set(host, found)
    return found
  }
  const note = (host: string, event: NetworkEvent) => {
    const destination = at(host)
    if (event.protocol === "dns") destination.looked = true
    else if (event.protocol === "icmp") destination.ping = true
    else destination[event.protocol].add(event.port)
  }
  for (const event of events) {
    if (event.kind !== "denied" && event.kind !== "used") continue
    if (event.kind === "denied" && event.rule !== null) denied.add(event.rule)
    const { name, address, port, protocol } = event
    if (name === hostName) {
      if (port > 0 && protocol === "tcp") hostPorts.add(port)
    } else if (name !== null && !isAddress(name)) {
      // The name alone does not allow an address that is not public.
      const inner = event.kind === "denied" && event.rule === null && address !== null && protocol !== "dns"
      if (inner) note(address, event)
      if (!(inner && decideName(policy, { name, port, protocol }).allowed)) note(name, event)
    } else if (address !== null) note(address, event)
  }
  const have = new Set(config.allow)
  return {
    allow: [...destinations.values()]
      .flatMap(rulesFor)
      .filter((rule) => !have.has(rule))
      .sort(),
    hostPorts: [...hostPorts].filter((port) => !(config.hostPorts ?? []).includes(port)).sort((a, b) => a - b),
    denied: [...denied].sort()
  }
}
