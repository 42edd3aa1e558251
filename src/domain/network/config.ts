/** Says what the definition of a sandbox can hold about its network, and what is wrong with one. Pure. */
import { Schema } from "effect"
import { parseAddress } from "./address.ts"
import { normalizeName } from "./names.ts"
import { parseRule, ruleLengthMax } from "./rules.ts"

const rulesMax = 1024
const hostPortsMax = 64
const hostsMax = 256

const Rules = Schema.Array(Schema.String.check(Schema.isMaxLength(ruleLengthMax))).check(
  Schema.isMaxLength(rulesMax, {
    expected: `at most ${rulesMax} rules; a block of addresses or *.name can stand for many`
  })
)
const count = (maximum: number) => Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum })))

/** Bounds of what one sandbox's network may hold; past one a connection or question is refused, and an event says so. */
const NetworkLimits = Schema.Struct({
  /** TCP connections at once; default 1024. */
  flows: count(65_536),
  /** Of these, connections that are not established yet; default 128. */
  halfOpen: count(65_536),
  /** UDP flows at once; default 512. */
  udpFlows: count(65_536),
  /** Names that were given an address; default 65,536. */
  names: count(131_072),
  /** Connections that may be opened in a second; default: no bound. */
  newFlowsPerSecond: count(1_000_000),
  /** Bytes a second from the guest; default: no bound. */
  bytesPerSecondUp: count(1_000_000_000_000),
  /** Bytes a second to the guest; default: no bound. */
  bytesPerSecondDown: count(1_000_000_000_000)
})
export type NetworkLimits = typeof NetworkLimits.Type

/** The network of a sandbox. Absent from a definition: the guest has none at all. */
export const NetworkConfig = Schema.Struct({
  /** Every public address, and every name that leads to one; default false. */
  public: Schema.optionalKey(Schema.Boolean),
  /** Rules for what else may be reached; see rules.ts. */
  allow: Schema.optionalKey(Rules),
  /** Rules that win over everything else. */
  deny: Schema.optionalKey(Rules),
  /** TCP ports of the host's loopback, which the guest reaches as `host.bunker.internal`. */
  hostPorts: Schema.optionalKey(
    Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))).check(
      Schema.isMaxLength(hostPortsMax)
    )
  ),
  /** Addresses by the name that leads to them in place of the host's own lookup; a rule must still allow the name. */
  hosts: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  /** Names whose TLS is opened though no secret is for them, so that each request is an event. */
  inspect: Schema.optionalKey(Schema.Array(Schema.String.check(Schema.isMaxLength(253))).check(Schema.isMaxLength(64))),
  limits: Schema.optionalKey(NetworkLimits)
})
export type NetworkConfig = typeof NetworkConfig.Type

interface NetworkProblem {
  /** As on the wire, below `network`. */
  readonly field: string
  readonly reason: string
}

/** What is wrong with a list of names, undefined for nothing. */
const namesProblem = (field: string, names: ReadonlyArray<string> = []): NetworkProblem | undefined => {
  for (const text of names) {
    const name =
      parseAddress(text) === undefined ? normalizeName(text) : "it is an address, for which no certificate can be made"
    if (typeof name === "string") return { field, reason: `"${text.slice(0, 64)}" can not be inspected: ${name}` }
  }
  return undefined
}

const ruleProblem = (field: string, rules: ReadonlyArray<string> = []): NetworkProblem | undefined => {
  const reason = rules.map(parseRule).find((each) => typeof each === "string")
  return reason === undefined ? undefined : { field, reason: reason as string }
}

/** Names that the reader of a definition takes for an attack on the program. */
const unsafeNames = ["__proto__", "constructor", "prototype"]

const hostProblem = ([name, address]: readonly [string, string]): NetworkProblem | undefined => {
  const shown = name.length > 64 ? `${name.slice(0, 64)}…` : name
  const wrong = (reason: string) => ({ field: "hosts", reason })
  if (unsafeNames.includes(name)) return wrong(`"${name}" can not be used as a name`)
  const normal = normalizeName(name)
  if (typeof normal === "string") return wrong(`the name "${shown}" can not be used: ${normal}`)
  return parseAddress(address) === undefined
    ? wrong(`"${address.slice(0, 64)}", the address of "${shown}", is no IP address`)
    : undefined
}

/** What is wrong with the network of a definition, undefined for nothing. */
export const networkProblem = (config: NetworkConfig): NetworkProblem | undefined => {
  const hosts = Object.entries(config.hosts ?? {})
  return (
    ruleProblem("allow", config.allow) ??
    ruleProblem("deny", config.deny) ??
    namesProblem("inspect", config.inspect) ??
    (hosts.length > hostsMax ? { field: "hosts", reason: `there are more than ${hostsMax} names` } : undefined) ??
    hosts.map(hostProblem).find((each) => each !== undefined)
  )
}

const joined = <A>(one: ReadonlyArray<A> | undefined, other: ReadonlyArray<A> | undefined) =>
  one === undefined && other === undefined ? undefined : [...new Set([...(one ?? []), ...(other ?? [])])]

/** A network with more rules: lists grow, what else is given takes the place of what was. */
export const mergeNetwork = (before: NetworkConfig, more: NetworkConfig): NetworkConfig => {
  const lists = {
    allow: joined(before.allow, more.allow),
    deny: joined(before.deny, more.deny),
    hostPorts: joined(before.hostPorts, more.hostPorts),
    inspect: joined(before.inspect, more.inspect)
  }
  const kept = Object.fromEntries(Object.entries(lists).filter(([, value]) => value !== undefined))
  const hosts =
    before.hosts === undefined && more.hosts === undefined ? {} : { hosts: { ...before.hosts, ...more.hosts } }
  const limits =
    before.limits === undefined && more.limits === undefined ? {} : { limits: { ...before.limits, ...more.limits } }
  return { ...before, ...more, ...kept, ...hosts, ...limits }
}
