/** Reads and writes published ports as people type them: `[HOST_IP:]HOST_PORT:GUEST_PORT`. Pure. */
import type { PublishedPort } from "./sandbox.ts"

/** Address that is listened on unless another is asked for: this machine alone. */
export const defaultHostIp = "127.0.0.1"

const port = (text: string, least: number): number | undefined => {
  const number = /^\d{1,5}$/.test(text) ? Number(text) : -1
  return number >= least && number <= 65_535 ? number : undefined
}

const isAddress = (text: string): boolean =>
  /^\d{1,3}(\.\d{1,3}){3}$/.test(text)
    ? text.split(".").every((part) => Number(part) < 256)
    : /^[0-9a-f:.]+$/i.test(text)

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

/** `IP:PORT`, as addresses are written. */
export const formatAddress = (hostIp: string, hostPort: number): string =>
  hostIp.includes(":") ? `[${hostIp}]:${hostPort}` : `${hostIp}:${hostPort}`

/** `127.0.0.1:8080->80`. */
export const formatPort = ({ hostIp, hostPort, guestPort }: PublishedPort): string =>
  `${formatAddress(hostIp, hostPort)}->${guestPort}`

/** What is wrong with the ports of a definition: two of them want the same host port. */
export const portProblem = (ports: ReadonlyArray<PublishedPort>): string | undefined => {
  const fixed = ports.filter((each) => each.hostPort !== 0).map((each) => formatAddress(each.hostIp, each.hostPort))
  const twice = fixed.find((address, index) => fixed.indexOf(address) !== index)
  return twice === undefined ? undefined : `${twice} is published twice`
}
