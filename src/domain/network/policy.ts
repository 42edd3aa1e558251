/**
 * Decides which names a guest may look up and which connections it may make. Pure: resolves nothing, asks for no time; what kind of
 * address one is comes from the caller, who knows the host's own as well.
 *
 * Invariants: a deny rule wins over every allow rule, whatever their order; an address that is not public is reached only where a rule,
 * a host entry or a port of the host spells it; what no rule allows is denied.
 */
import { type AddressBlock, type AddressGroups, isInBlock, parseAddress } from "./address.ts"
import type { NetworkConfig } from "./config.ts"
import { normalizeName } from "./names.ts"
import { formatRule, type NetworkRule, parseRule, type RecordType } from "./rules.ts"

/** Name by which a guest reaches ports of the host's loopback that it was given. */
export const hostName = "host.bunker.internal"

export type Protocol = "tcp" | "udp" | "icmp"

interface TextRule {
  readonly rule: NetworkRule
  /** As it is shown: what decided. */
  readonly text: string
}

/** A policy that is ready to decide. */
export interface NetworkPolicy {
  /** Every public address, and every name that leads to one. */
  readonly public: boolean
  readonly allow: ReadonlyArray<TextRule>
  readonly deny: ReadonlyArray<TextRule>
  /** TCP ports of the host's loopback. */
  readonly hostPorts: ReadonlySet<number>
  /** Names that lead to fixed addresses, and so spell them. */
  readonly hosts: ReadonlyMap<string, AddressGroups>
}

export interface Decision {
  readonly allowed: boolean
  /** The rule that decided, null when none did. */
  readonly rule: string | null
  /** Why it was denied, one phrase; empty when it is allowed. */
  readonly reason: string
}

/** A connection by name, before the name is resolved. `port` is 0 for ICMP. */
export interface NamedFlow {
  readonly name: string
  readonly port: number
  readonly protocol: Protocol
}

/** A connection to an address. */
export interface AddressFlow {
  readonly address: AddressGroups
  readonly port: number
  readonly protocol: Protocol
  /** `public`, or what else the address is, as words: "loopback". */
  readonly range: string
  /** Name that was resolved to it, where one was. */
  readonly name?: string | undefined
}

const allowed = (rule: string): Decision => ({ allowed: true, rule, reason: "" })
const refused = (reason: string, rule: string | null = null): Decision => ({ allowed: false, rule, reason })
const publicRule = "public"

/** The rules of a definition that was checked: what can not be read is left out. */
export const compilePolicy = (config: NetworkConfig): NetworkPolicy => {
  const read = (texts: ReadonlyArray<string> = []) =>
    texts.flatMap((text) => {
      const rule = parseRule(text)
      return typeof rule === "string" ? [] : [{ rule, text: formatRule(rule) }]
    })
  const hosts = Object.entries(config.hosts ?? {}).flatMap(([text, address]) => {
    const [name, groups] = [normalizeName(text), parseAddress(address)]
    return typeof name === "string" || groups === undefined ? [] : [[name.name, groups] as const]
  })
  return {
    public: config.public === true,
    allow: read(config.allow),
    deny: read(config.deny),
    hostPorts: new Set(config.hostPorts),
    hosts: new Map(hosts)
  }
}

const namesIt = (rule: NetworkRule, name: string): boolean =>
  rule.kind === "name" && (rule.below ? name.endsWith(`.${rule.name}`) : name === rule.name)

const spellsIt = (rule: NetworkRule, address: AddressGroups): boolean =>
  rule.kind === "block" && isInBlock(rule.block as AddressBlock, address)

/** In doubt the narrower: a rule with ports and no protocol allows TCP alone, and denies both. */
const reaches = (rule: NetworkRule, flow: { readonly port: number; readonly protocol: Protocol }, deny: boolean) => {
  if (rule.kind === "dns") return false
  const { ports, protocol } = rule
  const asked = protocol ?? (ports === undefined || deny ? undefined : "tcp")
  if (asked !== undefined && asked !== flow.protocol) return false
  return ports?.some(([first, last]) => flow.port >= first && flow.port <= last) ?? true
}

const denyOf = (
  policy: NetworkPolicy,
  flow: { readonly port: number; readonly protocol: Protocol },
  is: (rule: NetworkRule) => boolean
) => policy.deny.find(({ rule }) => is(rule) && reaches(rule, flow, true))

/** A question to DNS. Types other than those for addresses need a rule of their own beside one that allows the name. */
export const decideLookup = (
  policy: NetworkPolicy,
  name: string,
  type: "address" | RecordType = "address"
): Decision => {
  if (name === hostName && policy.hostPorts.size > 0) return allowed("host ports")
  // Denied on every port: on some, it must resolve for the others.
  const deny = policy.deny.find(
    ({ rule }) => rule.kind === "name" && rule.ports === undefined && rule.protocol === undefined && namesIt(rule, name)
  )
  if (deny !== undefined) return refused("a rule denies it", deny.text)
  const rule = policy.allow.find((each) => namesIt(each.rule, name))?.text ?? (policy.public ? publicRule : undefined)
  if (rule === undefined) return refused("no rule allows it")
  if (type === "address") return allowed(rule)
  const record = policy.allow.find((each) => each.rule.kind === "dns" && each.rule.type === type)
  return record === undefined ? refused(`no rule allows questions for ${type}; dns:${type} does`) : allowed(record.text)
}

/** A connection by name. Where it is allowed, each address of the name is still to be decided. */
export const decideName = (policy: NetworkPolicy, flow: NamedFlow): Decision => {
  if (flow.name === hostName) {
    const open = flow.protocol === "tcp" && policy.hostPorts.has(flow.port)
    return open ? allowed("host ports") : refused("it is no port of the host that was given to the sandbox")
  }
  const deny = denyOf(policy, flow, (rule) => namesIt(rule, flow.name))
  if (deny !== undefined) return refused("a rule denies it", deny.text)
  const allow = policy.allow.find(({ rule }) => namesIt(rule, flow.name) && reaches(rule, flow, false))
  if (allow !== undefined) return allowed(allow.text)
  if (policy.public) return allowed(publicRule)
  const others = policy.allow.some(({ rule }) => namesIt(rule, flow.name))
  return refused(others ? "the rules for this name have other ports or another protocol" : "no rule allows it")
}

/** A connection to an address, be it the guest's own choice or what a name that is allowed leads to. */
export const decideAddress = (policy: NetworkPolicy, flow: AddressFlow): Decision => {
  const { name, address, range } = flow
  // The host's loopback is the meaning of this name.
  if (name === hostName) return decideName(policy, { ...flow, name })
  const deny = denyOf(policy, flow, (rule) => spellsIt(rule, address))
  if (deny !== undefined) return refused("a rule denies it", deny.text)
  const allow = policy.allow.find(({ rule }) => spellsIt(rule, address) && reaches(rule, flow, false))
  if (allow !== undefined) return allowed(allow.text)
  const entry = name === undefined ? undefined : policy.hosts.get(name)
  if (entry !== undefined && entry.join() === address.join()) return allowed("host entry")
  if (range !== "public") return refused(`it is ${range}, which only a rule that spells the address allows`)
  // The name was decided before, by its own rules.
  if (name !== undefined) return allowed("name")
  return policy.public ? allowed(publicRule) : refused("no rule allows it")
}

/** What a client says that it talks to on a connection to an address (SNI, Host): only ever a reason against it. */
export const decidePeeked = (policy: NetworkPolicy, flow: NamedFlow): Decision => {
  const deny = denyOf(policy, flow, (rule) => namesIt(rule, flow.name))
  return deny === undefined ? allowed("address") : refused("a rule denies the name that it asks for", deny.text)
}
