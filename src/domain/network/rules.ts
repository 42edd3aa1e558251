/**
 * Reads the rules of a network policy as people type them, and writes them. Pure: decides nothing (see policy.ts).
 *
 * A rule is `host`, `*.host` (every name below it, not itself), an IP address, a block of addresses (CIDR), or `dns:TYPE`, the first
 * four with `:PORT`, `:PORT,PORT`, `:FROM-TO` or `:*`, and `/tcp` or `/udp` at the end.
 */
import { type AddressBlock, formatBlock, parseAddress, parseBlock } from "./address.ts"
import { normalizeName } from "./names.ts"

/** First and last port of a range. */
export type PortRange = readonly [first: number, last: number]

interface Reach {
  /** Absent: every port. */
  readonly ports?: ReadonlyArray<PortRange>
  /** Absent: what the policy makes of a rule that names none. */
  readonly protocol?: "tcp" | "udp"
}

/** Types of questions to DNS beside those for addresses, which names rules answer for. */
export const recordTypes = ["TXT", "MX", "SRV", "PTR", "NS", "SOA", "CAA", "CNAME"] as const
export type RecordType = (typeof recordTypes)[number]

export type NetworkRule =
  | ({ readonly kind: "name"; readonly name: string; readonly below: boolean } & Reach)
  | ({ readonly kind: "block"; readonly block: AddressBlock } & Reach)
  | { readonly kind: "dns"; readonly type: RecordType }

/** Longest rule, in characters. */
export const ruleLengthMax = 512

const portOf = (text: string): number | undefined => {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0
  return port >= 1 && port <= 65_535 ? port : undefined
}

const parseRange = (text: string): PortRange | string => {
  const [first = "", last = first, ...more] = text.split("-")
  const [from, to] = [portOf(first), portOf(last)]
  if (from === undefined || to === undefined || more.length > 0) return `"${text}" is no port from 1 to 65535`
  return from <= to ? [from, to] : `the range "${text}" ends before it begins`
}

const parsePorts = (text: string): ReadonlyArray<PortRange> | undefined | string => {
  if (text === "*") return undefined
  const ranges = text.split(",").map(parseRange)
  return ranges.find((each) => typeof each === "string") ?? (ranges as ReadonlyArray<PortRange>)
}

/** Splits `[v6]:port`, `[v6/len]:port`, `v4/len:port` and `host:port`; an address of IPv6 without brackets has no port. */
const splitPort = (text: string): readonly [host: string, ports: string | undefined] | string => {
  const bracketed = /^\[([^\]]*)\](\/\d+)?(?::(.*))?$/.exec(text)
  if (bracketed?.[1]?.includes(":")) return [`${bracketed[1]}${bracketed[2] ?? ""}`, bracketed[3]]
  if (/[[\]]/.test(text)) return "its brackets are not around an IPv6 address"
  const [host = "", ports, ...more] = text.split(":")
  if (more.length === 0) return [host, ports]
  return parseAddress(text.split("/")[0] ?? "") === undefined
    ? 'it has more than one ":"; an IPv6 address with a port is written [address]:port'
    : [text, undefined]
}

const parseHost = (host: string): NetworkRule | string => {
  if (host === "*") return "it would allow everything; name hosts, or give --allow-net no rule for all that is public"
  const below = host.startsWith("*.")
  const rest = below ? host.slice(2) : host
  if (rest.includes("*")) return '"*" stands only for all that is in front of the first dot'
  if (!below && (parseAddress(host.split("/")[0] ?? "") !== undefined || host.includes(":"))) {
    const block = parseBlock(host)
    return typeof block === "string" ? block : { kind: "block", block }
  }
  if (rest.includes("/"))
    return "it has a path, or a prefix behind something that is no IP address; write the host alone"
  const name = normalizeName(rest)
  return typeof name === "string" ? name : { kind: "name", name: name.name, below }
}

const parseDnsType = (type: string): NetworkRule | string => {
  const found = recordTypes.find((each) => each === type.toUpperCase())
  if (found !== undefined) return { kind: "dns", type: found }
  return `"${type}" is no type of DNS that can be allowed; choose ${recordTypes.join(", ")}`
}

/** A rule, or what is wrong with it: one phrase that names the rule. */
export const parseRule = (text: string): NetworkRule | string => {
  const shown = text.length > 64 ? `${text.slice(0, 64)}…` : text
  const wrong = (reason: string) => `the rule "${shown}" can not be used: ${reason}`
  if (text.trim() !== text || text === "")
    return wrong(text.trim() === "" ? "it is empty" : "it begins or ends with a space")
  if (text.length > ruleLengthMax) return wrong(`it has more than ${ruleLengthMax} characters`)
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text))
    return wrong("it is a URL; write the host alone, like registry.npmjs.org:443")
  const dns = /^dns:([a-z]+)$/i.exec(text)
  if (dns !== null) {
    const rule = parseDnsType(dns[1] ?? "")
    return typeof rule === "string" ? wrong(rule) : rule
  }
  const protocol = /\/(tcp|udp)$/i.exec(text)
  const split = splitPort(protocol === null ? text : text.slice(0, protocol.index))
  if (typeof split === "string") return wrong(split)
  const rule = parseHost(split[0])
  if (typeof rule === "string") return wrong(rule)
  const ports = split[1] === undefined ? undefined : parsePorts(split[1])
  if (typeof ports === "string") return wrong(ports)
  return {
    ...rule,
    ...(ports === undefined ? {} : { ports }),
    ...(protocol === null ? {} : { protocol: protocol[1]?.toLowerCase() as "tcp" | "udp" })
  }
}

/** Takes `a:80,b:443,8443` apart into `a:80` and `b:443,8443`: a number belongs to the ports before it. */
export const splitRules = (text: string): ReadonlyArray<string> => {
  const rules: Array<string> = []
  for (const piece of text.split(",")) {
    const before = rules.at(-1)
    const continues = before !== undefined && /:[\d,-]+$/.test(before) && /^\d+(-\d+)?(\/(tcp|udp))?$/i.test(piece)
    if (continues) rules[rules.length - 1] = `${before},${piece}`
    else rules.push(piece)
  }
  return rules
}

export const formatPorts = (ports: ReadonlyArray<PortRange>): string =>
  ports.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join(",")

/** The rule as it is compared and shown. */
export const formatRule = (rule: NetworkRule): string => {
  if (rule.kind === "dns") return `dns:${rule.type}`
  const tail = `${rule.ports === undefined ? "" : `:${formatPorts(rule.ports)}`}${rule.protocol === undefined ? "" : `/${rule.protocol}`}`
  if (rule.kind === "name") return `${rule.below ? "*." : ""}${rule.name}${tail}`
  const block = formatBlock(rule.block)
  return block.includes(":") && rule.ports !== undefined ? `[${block}]${tail}` : `${block}${tail}`
}
