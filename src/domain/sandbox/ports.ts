/** Reads and writes published ports as people type them: `[HOST_IP:]HOST_PORT:GUEST_PORT`. Pure. */
import { isAddress, parseAddress } from "../network/address.ts"
import { defaultHostIp, limits, type PublishedPort } from "./sandbox.ts"

const port = (text: string, least: number): number | undefined => {
  const number = /^\d{1,5}$/.test(text) ? Number(text) : -1
  return number >= least && number <= 65_535 ? number : undefined
}

const anyIpv4 = "0,0,0,0,0,65535,0,0"
const anyIpv6 = "0,0,0,0,0,0,0,0"
const mapped = "0,0,0,0,0,65535,"

/** True when only one of the two can be listened on with the same port: they are equal, or one stands for the other, too. */
export const addressesOverlap = (one: string, other: string): boolean => {
  const [a = "", b = ""] = [parseAddress(one)?.join(), parseAddress(other)?.join()]
  const covers = (wide: string, narrow: string) =>
    wide === anyIpv6 || (wide === anyIpv4 && (narrow.startsWith(mapped) || narrow === anyIpv6))
  return a !== "" && b !== "" && (a === b || covers(a, b) || covers(b, a))
}

/** `8080:80`, `0.0.0.0:8080:80`, `[::1]:8080:80`; `0:80`, `:80` and `80` take a free host port. Else what is wrong with it. */
export const parsePort = (text: string): PublishedPort | string => {
  const wrong = `"${text}" is not [HOST_IP:]HOST_PORT:GUEST_PORT`
  const [spec = "", protocol = "tcp", ...more] = text.split("/")
  if (more.length > 0) return wrong
  if (protocol !== "tcp") return `"${protocol}" in "${text}" can not be published; only tcp can`
  const match = /^(?:(?:\[([^\]]*)\]|([^:[\]]*)):(?=[^:]*:))?(?:([^:]*):)?([^:]+)$/.exec(spec)
  if (match === null) return wrong
  const [, bracketed, plain, host = "", guest = ""] = match
  const hostIp = bracketed ?? (plain === undefined || plain === "" ? defaultHostIp : plain)
  const hostPort = host === "" ? 0 : port(host, 0)
  const guestPort = port(guest, 1)
  if (!isAddress(hostIp)) return `"${hostIp}" in "${text}" is not an IP address`
  if (hostPort === undefined) return `"${host}" in "${text}" is not a port`
  if (guestPort === undefined) return `"${guest}" in "${text}" is not a port`
  return { hostIp, hostPort, guestPort }
}

/**
 * A port, or as many as a range has: `8000-8010:80-90`, `127.0.0.1:8000-8010:8000-8010`, `8000-8010` for free host ports. Else what is
 * wrong with it.
 */
export const parsePorts = (text: string): ReadonlyArray<PublishedPort> | string => {
  const match = /^(.*?:)??(?:(\d{1,5})-(\d{1,5}):)?(\d{1,5})-(\d{1,5})(\/tcp)?$/.exec(text)
  if (match === null) {
    const found = parsePort(text)
    return typeof found === "string" ? found : [found]
  }
  const [, ip = "", host, hostLast, guest = "", guestLast = ""] = match
  const count = Number(guestLast) - Number(guest) + 1
  if (count < 1 || (host !== undefined && Number(hostLast) - Number(host) + 1 !== count)) {
    return `the ranges in "${text}" do not have the same number of ports, in rising order`
  }
  if (count > limits.portsMax) return `the ranges in "${text}" have more than ${limits.portsMax} ports`
  const all = Array.from({ length: count }, (_, at) =>
    parsePort(`${ip}${host === undefined ? 0 : Number(host) + at}:${Number(guest) + at}`)
  )
  const wrong = all.find((each) => typeof each === "string")
  return wrong === undefined ? (all as ReadonlyArray<PublishedPort>) : `${wrong}, of "${text}"`
}

/** `IP:PORT`, as addresses are written. */
export const formatAddress = (hostIp: string, hostPort: number): string =>
  hostIp.includes(":") ? `[${hostIp}]:${hostPort}` : `${hostIp}:${hostPort}`

/** `127.0.0.1:8080->80`. */
export const formatPort = ({ hostIp, hostPort, guestPort }: PublishedPort): string =>
  `${formatAddress(hostIp, hostPort)}->${guestPort}`

/** What is wrong with the ports of a definition: two of them want the same host port. */
export const portProblem = (ports: ReadonlyArray<PublishedPort>): string | undefined => {
  const fixed = ports.filter(({ hostPort }) => hostPort !== 0)
  const twice = fixed.find(({ hostIp, hostPort }, index) =>
    fixed.slice(0, index).some((port) => port.hostPort === hostPort && addressesOverlap(port.hostIp, hostIp))
  )
  return twice === undefined ? undefined : `${formatAddress(twice.hostIp, twice.hostPort)} is published twice`
}
