/**
 * Reads and writes IP addresses and blocks of them (CIDR). Pure: resolves no name and says nothing about what an address is for (see
 * addressRanges.ts).
 *
 * An IPv4 address is handled as it is mapped into IPv6 (RFC 4291, 2.5.5.2), so that one kind of block covers both families.
 */

/** Eight groups of 16 bits, the most significant first. */
export type AddressGroups = ReadonlyArray<number>

/** Addresses that share their first `bits` of 128 with `groups`. */
export interface AddressBlock {
  readonly groups: AddressGroups
  readonly bits: number
}

/** Bits that every mapped IPv4 address has in common. */
const mappedBits = 96

/** Of an address, its groups of 16 bits as numbers (RFC 4291, 2.2); undefined for what is no address, and for one with a zone. */
export const parseAddress = (text: string): AddressGroups | undefined => {
  const tail = text.slice(text.lastIndexOf(":") + 1)
  const bytes = /^(?:(?:0|[1-9]\d{0,2})(?:\.(?!$)|$)){4}$/.test(tail) ? tail.split(".").map(Number) : []
  if (bytes.some((byte) => byte > 255)) return undefined
  const [a = 0, b = 0, c = 0, d = 0] = bytes
  const last = [a * 256 + b, c * 256 + d]
  if (text === tail) return bytes.length === 4 ? [0, 0, 0, 0, 0, 0xffff, ...last] : undefined
  const hex =
    bytes.length === 4 ? `${text.slice(0, -tail.length)}${last.map((group) => group.toString(16)).join(":")}` : text
  const halves = hex.split("::").map((half) => (half === "" ? [] : half.split(":")))
  const groups = halves.flat()
  if (halves.length > 2 || !groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return undefined
  if (halves.length === 2 ? groups.length > 7 : groups.length !== 8) return undefined
  const [head = [], rest = []] = halves
  const middle = Array.from({ length: 8 - groups.length }, () => 0)
  return [
    ...head.map((group) => Number.parseInt(group, 16)),
    ...middle,
    ...rest.map((group) => Number.parseInt(group, 16))
  ]
}

/** True for an IPv4 or IPv6 address, without a zone. */
export const isAddress = (text: string): boolean => parseAddress(text) !== undefined

/** True for an IPv4 address, mapped ones included. */
const isIpv4 = (groups: AddressGroups): boolean =>
  groups[5] === 0xffff && groups.slice(0, 5).every((group) => group === 0)

/** Canonical text: dotted for IPv4, RFC 5952 for IPv6. */
export const formatGroups = (groups: AddressGroups): string => {
  if (isIpv4(groups)) {
    return groups
      .slice(6)
      .flatMap((group) => [group >> 8, group & 255])
      .join(".")
  }
  const hex = groups.map((group) => group.toString(16))
  let [at, length] = [-1, 1]
  for (let start = 0; start < 8; start += 1) {
    let end = start
    while (end < 8 && groups[end] === 0) end += 1
    if (end - start > length) [at, length] = [start, end - start]
  }
  if (at < 0) return hex.join(":")
  return `${hex.slice(0, at).join(":")}::${hex.slice(at + length).join(":")}`
}

/** Bits of a group that belong to the first `bits` of an address. */
const maskOf = (index: number, bits: number): number => {
  const within = Math.max(0, Math.min(16, bits - index * 16))
  return (0xffff << (16 - within)) & 0xffff
}

/** A block of IPv6 that mapped addresses would lie in, `::/0`, is not meant for IPv4. */
export const isInBlock = (block: AddressBlock, address: AddressGroups): boolean =>
  (block.bits >= mappedBits || !isIpv4(address)) &&
  block.groups.every((group, index) => {
    const mask = maskOf(index, block.bits)
    return (group & mask) === ((address[index] ?? 0) & mask)
  })

/** `10.0.0.0/8`, `2001:db8::/32` or a single address; else what is wrong with it, as a phrase. */
export const parseBlock = (text: string): AddressBlock | string => {
  const [address = "", length, ...more] = text.split("/")
  const groups = parseAddress(address)
  if (groups === undefined || more.length > 0) return "it is no IP address"
  const ipv4 = isIpv4(groups) && !address.includes(":")
  const most = ipv4 ? 32 : 128
  if (length !== undefined && !(/^\d{1,3}$/.test(length) && Number(length) <= most)) {
    return `the length of its prefix is no number from 0 to ${most}`
  }
  const bits = (ipv4 ? mappedBits : 0) + (length === undefined ? most : Number(length))
  const start = groups.map((group, index) => group & maskOf(index, bits))
  if (start.some((group, index) => group !== groups[index])) {
    return `it has bits behind its prefix; write ${formatBlock({ groups: start, bits })}`
  }
  return { groups, bits }
}

export const formatBlock = ({ groups, bits }: AddressBlock): string => {
  if (bits === 128) return formatGroups(groups)
  return isIpv4(groups) && bits >= mappedBits
    ? `${formatGroups(groups)}/${bits - mappedBits}`
    : `${formatGroups(groups)}/${bits}`
}
