/**
 * Classifies IP addresses: which belong to the public internet, and to which special range any other belongs.
 * Decides nothing: rules that spell an address are the policy's matter, and the host's own addresses are not known here.
 *
 * Invariant: an address that carries an IPv4 address in it (v4-mapped, v4-compatible, NAT64, 6to4) is never public when the
 * carried one is not.
 */

/** A range that no wildcard opens. */
export type SpecialRange =
  | "unspecified"
  | "loopback"
  | "private"
  | "shared"
  | "link-local"
  | "metadata"
  | "unique-local"
  | "multicast"
  | "broadcast"
  | "benchmarking"
  | "documentation"
  | "reserved"

/** Bytes of an IPv4 address (4) or IPv6 address (16), in network order. */
export type AddressBytes = Uint8Array

const parse4 = (text: string): ReadonlyArray<number> | undefined => {
  const parts = text.split(".")
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part))) return undefined
  const bytes = parts.map(Number)
  return bytes.every((byte) => byte <= 255) ? bytes : undefined
}

const parse6 = (text: string): ReadonlyArray<number> | undefined => {
  let rest = text
  let tail: ReadonlyArray<number> = []
  if (text.includes(".")) {
    const at = text.lastIndexOf(":") + 1
    const last = parse4(text.slice(at))
    if (last === undefined || at === 0) return undefined
    tail = last
    rest = text.slice(0, at)
    if (!rest.endsWith("::")) rest = rest.slice(0, -1)
  }
  const halves = rest.split("::").map((half) => (half === "" ? [] : half.split(":")))
  const groups = halves.flat()
  if (halves.length > 2 || !groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return undefined
  const wanted = (16 - tail.length) / 2
  if (halves.length === 2 ? groups.length >= wanted : groups.length !== wanted) return undefined
  const [head = [], end = []] = halves
  const zeros = Array.from({ length: wanted - groups.length }, () => "0")
  const bytes = [...head, ...zeros, ...end].flatMap((group) => {
    const number = Number.parseInt(group, 16)
    return [number >> 8, number & 255]
  })
  return [...bytes, ...tail]
}

/** Bytes of an address as text (RFC 4291, 2.2); undefined for anything else: zones, leading zeros, octal, short forms. */
export const parseAddress = (text: string): AddressBytes | undefined => {
  if (text.length > 45) return undefined
  const bytes = text.includes(":") ? parse6(text) : parse4(text)
  return bytes === undefined ? undefined : Uint8Array.from(bytes)
}

/** Text of an address; IPv6 in the canonical form of RFC 5952. */
export const formatAddress = (bytes: AddressBytes): string => {
  if (bytes.length === 4) return bytes.join(".")
  const groups = Array.from({ length: 8 }, (_, index) => bytes[index * 2]! * 256 + bytes[index * 2 + 1]!)
  let best = { at: 0, length: 1 }
  for (let at = 0; at < 8; at++) {
    let length = 0
    while (at + length < 8 && groups[at + length] === 0) length++
    if (length > best.length) best = { at, length }
  }
  const hex = (part: ReadonlyArray<number>) => part.map((group) => group.toString(16)).join(":")
  return best.length === 1
    ? hex(groups)
    : `${hex(groups.slice(0, best.at))}::${hex(groups.slice(best.at + best.length))}`
}

type Ranges = ReadonlyArray<readonly [range: SpecialRange, bytes: AddressBytes, bits: number]>

const ranges = (table: ReadonlyArray<readonly [SpecialRange, string]>): Ranges =>
  table.map(([range, cidr]) => {
    const [address = "", bits = ""] = cidr.split("/")
    return [range, parseAddress(address)!, Number(bits)] as const
  })

/** True when the first `bits` bits of two addresses of one family are equal. */
export const samePrefix = (one: AddressBytes, other: AddressBytes, bits: number): boolean => {
  if (one.length !== other.length) return false
  const whole = bits >> 3
  for (let at = 0; at < whole; at++) if (one[at] !== other[at]) return false
  const rest = bits & 7
  return rest === 0 || ((one[whole]! ^ other[whole]!) & (0xff00 >> rest) & 255) === 0
}

/** IANA's special-purpose registry for IPv4, and one public address that a cloud serves credentials at; first match wins. */
const special4 = ranges([
  ["metadata", "169.254.169.254/32"],
  ["metadata", "168.63.129.16/32"],
  ["metadata", "100.100.100.200/32"],
  ["metadata", "192.0.0.192/32"],
  ["unspecified", "0.0.0.0/8"],
  ["private", "10.0.0.0/8"],
  ["shared", "100.64.0.0/10"],
  ["loopback", "127.0.0.0/8"],
  ["link-local", "169.254.0.0/16"],
  ["private", "172.16.0.0/12"],
  ["reserved", "192.0.0.0/24"],
  ["documentation", "192.0.2.0/24"],
  ["reserved", "192.88.99.0/24"],
  ["private", "192.168.0.0/16"],
  ["benchmarking", "198.18.0.0/15"],
  ["documentation", "198.51.100.0/24"],
  ["documentation", "203.0.113.0/24"],
  ["multicast", "224.0.0.0/4"],
  ["broadcast", "255.255.255.255/32"],
  ["reserved", "240.0.0.0/4"]
])

/** IANA's special-purpose registry for IPv6; all that is outside 2000::/3 and not listed is reserved. */
const special6 = ranges([
  ["metadata", "fd00:ec2::254/128"],
  ["metadata", "fd20:ce::254/128"],
  ["unspecified", "::/128"],
  ["loopback", "::1/128"],
  ["unique-local", "fc00::/7"],
  ["link-local", "fe80::/10"],
  ["link-local", "fec0::/10"],
  ["multicast", "ff00::/8"],
  ["documentation", "2001:db8::/32"],
  ["documentation", "3fff::/20"],
  ["benchmarking", "2001:2::/48"],
  ["reserved", "2001::/23"]
])

/** Where an IPv6 address carries an IPv4 address: prefix, its bits, and the offset of the four bytes. */
const carriers = (
  [
    ["::ffff:0:0", 96, 12],
    ["::ffff:0:0:0", 96, 12],
    ["::", 96, 12],
    ["64:ff9b::", 96, 12],
    ["64:ff9b:1::", 48, 12],
    ["2002::", 16, 2]
  ] as const
).map(([prefix, bits, at]) => ({ prefix: parseAddress(prefix)!, bits, at }))

const globalUnicast = parseAddress("2000::")!

/** The IPv4 address that an IPv6 address carries: v4-mapped, v4-translated, v4-compatible, NAT64 (both prefixes), 6to4. */
export const carriedIpv4 = (bytes: AddressBytes): AddressBytes | undefined => {
  if (bytes.length !== 16) return undefined
  const carrier = carriers.find(({ prefix, bits }) => samePrefix(bytes, prefix, bits))
  return carrier === undefined ? undefined : bytes.slice(carrier.at, carrier.at + 4)
}

const mapped = parseAddress("::ffff:0:0")!

/** The IPv4 address that a v4-mapped one stands for, any other address as it is: both name the same peer on the wire. */
export const unmapped = (bytes: AddressBytes): AddressBytes => (samePrefix(bytes, mapped, 96) ? bytes.slice(12) : bytes)

/** The special range of an address; undefined for an address of the public internet. */
export const specialRange = (bytes: AddressBytes): SpecialRange | undefined => {
  if (bytes.length === 4) return special4.find(([, prefix, bits]) => samePrefix(bytes, prefix, bits))?.[0]
  const own = special6.find(([, prefix, bits]) => samePrefix(bytes, prefix, bits))?.[0]
  if (own !== undefined) return own
  const carried = carriedIpv4(bytes)
  if (carried !== undefined) return specialRange(carried)
  return samePrefix(bytes, globalUnicast, 3) ? undefined : "reserved"
}
