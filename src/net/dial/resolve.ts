/** Resolves names on the host, as its other programs do (hosts file included). Keeps no answers: each flow asks again. */
import dns from "node:dns/promises"
import type { DnsRecord, RecordType } from "../types.ts"

/** Names of the host's loopback, IPv4 first. */
const hostName = "host.bunker.internal"
const loopback = ["127.0.0.1", "::1"]

/** More addresses than this are not tried. */
const addressesMax = 16

/** Addresses of a name in the order of preference, none when there are none; throws what the host's resolver throws. */
export const resolveName = async (name: string): Promise<ReadonlyArray<string>> => {
  if (name === hostName) return loopback
  const found = await dns.lookup(name, { all: true })
  return found.slice(0, addressesMax).map(({ address }) => address)
}

/** Records of another type; undefined when they can not be had. */
export const resolveRecords = async (name: string, type: RecordType): Promise<ReadonlyArray<DnsRecord> | undefined> => {
  try {
    if (type === "TXT") return (await dns.resolveTxt(name)).map((texts) => ({ type, texts }))
    if (type === "MX") {
      return (await dns.resolveMx(name)).map(({ exchange, priority }) => ({ type, priority, name: exchange }))
    }
    if (type === "SRV") {
      const found = await dns.resolveSrv(name)
      return found.map(({ name: target, port, priority, weight }) => ({ type, priority, weight, port, name: target }))
    }
    return (await dns.resolvePtr(name)).map((target) => ({ type, name: target }))
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? ""
    return ["ENODATA", "DNS_ENODATA", "ENOTFOUND", "DNS_ENOTFOUND"].includes(code) ? [] : undefined
  }
}
