/**
 * Reads the host's upstream proxies from their variables' values, says which one a destination goes through, and asks it to connect:
 * HTTP CONNECT and SOCKS5 with names (RFC 1928, RFC 1929). Opens no connection.
 */
import { parseAddress, samePrefix } from "../../domain/network/addressRanges.ts"

export interface Proxy {
  readonly kind: "http" | "https" | "socks5"
  readonly host: string
  readonly port: number
  /** `user:password`, decoded. */
  readonly credentials?: string
}

/** Values of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as their owner read them. */
export interface ProxyVariables {
  readonly http?: string | undefined
  readonly https?: string | undefined
  readonly all?: string | undefined
  readonly no?: string | undefined
}

export interface Proxies {
  /** For port 80, and for all other ports. */
  readonly http: Proxy | undefined
  readonly others: Proxy | undefined
  readonly excepted: ReadonlyArray<string>
}

export const noProxies: Proxies = { http: undefined, others: undefined, excepted: [] }

const kinds: Record<string, readonly [kind: Proxy["kind"], port: number]> = {
  "http:": ["http", 80],
  "https:": ["https", 443],
  "socks5:": ["socks5", 1080],
  "socks5h:": ["socks5", 1080]
}

const parseProxy = (text: string | undefined): Proxy | undefined => {
  if (text === undefined || text === "") return undefined
  const spelt = text.includes("://") ? text : `http://${text}`
  if (!URL.canParse(spelt)) return undefined
  const { hostname, password, port, protocol, username } = new URL(spelt)
  const found = kinds[protocol]
  if (found === undefined || hostname === "") return undefined
  const [kind, usual] = found
  const host = hostname.replace(/^\[|\]$/g, "")
  const proxy = { kind, host, port: port === "" ? usual : Number(port) }
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  return credentials === ":" ? proxy : { ...proxy, credentials }
}

/** What is no proxy's address is left out, as other programs do. */
export const parseProxies = ({ all, http, https, no }: ProxyVariables): Proxies => ({
  http: parseProxy(http) ?? parseProxy(all),
  others: parseProxy(https) ?? parseProxy(all),
  excepted: (no ?? "")
    .split(/[\s,]+/)
    .filter((each) => each !== "")
    .map((each) => each.toLowerCase())
})

/** `*`, `host`, `.host` and `*.host` (subdomains), `host:port`, address, CIDR. A plain host stands for its subdomains, too. */
const excepts = (entry: string, host: string, port: number): boolean => {
  if (entry === "*") return true
  const address = parseAddress(host)
  const [prefix = "", bits] = entry.split("/")
  const range = parseAddress(prefix.replace(/^\[|\]$/g, ""))
  if (range !== undefined) {
    return address !== undefined && samePrefix(address, range, bits === undefined ? range.length * 8 : Number(bits))
  }
  const match = /^(?:\*?\.)?(.+?)(?::(\d+))?$/.exec(entry)
  if (match === null || address !== undefined || (match[2] !== undefined && Number(match[2]) !== port)) return false
  return host === match[1] || host.endsWith(`.${match[1]}`)
}

/** The proxy for a destination; undefined: none. */
export const proxyFor = ({ excepted, http, others }: Proxies, host: string, port: number): Proxy | undefined =>
  excepted.some((entry) => excepts(entry, host, port)) ? undefined : port === 80 ? http : others

/** A conversation with a proxy: what to send first, then what to say to each answer. */
export interface Handshake {
  readonly hello: Uint8Array
  /**
   * All that the proxy has said so far: undefined to wait for more, text when it refuses, or how many bytes were its own, and what to say
   * before it goes on.
   */
  readonly next: (
    said: Buffer
  ) => undefined | string | { readonly used: number; readonly say?: Uint8Array; readonly done: boolean }
}

const headBytesMax = 16_384

const httpHandshake = (host: string, port: number, credentials: string | undefined): Handshake => {
  const authority = `${host.includes(":") ? `[${host}]` : host}:${port}`
  const lines = [`CONNECT ${authority} HTTP/1.1`, `Host: ${authority}`]
  if (credentials !== undefined) lines.push(`Proxy-Authorization: Basic ${Buffer.from(credentials).toString("base64")}`)
  return {
    hello: Buffer.from(`${lines.join("\r\n")}\r\n\r\n`),
    next: (said) => {
      const end = said.indexOf("\r\n\r\n")
      if (end < 0) return said.length > headBytesMax ? "the proxy's answer is too long" : undefined
      const status = /^HTTP\/1\.[01] (\d{3})/.exec(said.toString("latin1", 0, 32))?.[1]
      if (status?.[0] !== "2") return `the proxy answers ${status ?? "no HTTP"}`
      return { used: end + 4, done: true }
    }
  }
}

const socksRefusals = [
  "",
  "general failure",
  "not allowed by its rules",
  "network unreachable",
  "host unreachable",
  "connection refused",
  "time to live expired",
  "command not supported",
  "address type not supported"
]

const socksRequest = (host: string, port: number): Buffer => {
  const address = parseAddress(host)
  const name = Buffer.from(host, "latin1").subarray(0, 255)
  const kind = address === undefined ? [3, name.length] : [address.length === 4 ? 1 : 4]
  return Buffer.concat([Buffer.from([5, 1, 0, ...kind]), address ?? name, Buffer.from([port >> 8, port & 255])])
}

const socksHandshake = (host: string, port: number, credentials: string | undefined): Handshake => {
  let step: "method" | "login" | "connect" = "method"
  const request = { used: 2, say: socksRequest(host, port), done: false }
  return {
    hello: Buffer.from(credentials === undefined ? [5, 1, 0] : [5, 2, 0, 2]),
    next: (said) => {
      if (said.length < 2) return undefined
      if (step === "method") {
        if (said[0] !== 5 || (said[1] !== 0 && (said[1] !== 2 || credentials === undefined)))
          return "the proxy wants another login"
        step = said[1] === 2 ? "login" : "connect"
        return step === "connect" ? request : { used: 2, say: login(credentials!), done: false }
      }
      if (step === "login") {
        if (said[1] !== 0) return "the proxy refuses the login"
        step = "connect"
        return request
      }
      if (said[1] !== 0) return `the proxy says: ${socksRefusals[said[1]!] ?? said[1]}`
      if (said.length < 5) return undefined
      const addressBytes = said[3] === 1 ? 4 : said[3] === 4 ? 16 : said[4]! + 1
      const used = 6 + addressBytes
      return said.length < used ? undefined : { used, done: true }
    }
  }
}

const login = (credentials: string): Uint8Array => {
  const at = credentials.indexOf(":")
  const [user, password] = [credentials.slice(0, at), credentials.slice(at + 1)].map((text) =>
    Buffer.from(text).subarray(0, 255)
  ) as [Buffer, Buffer]
  return Buffer.concat([Buffer.from([1, user.length]), user, Buffer.from([password.length]), password])
}

export const handshakeWith = ({ credentials, kind }: Proxy, host: string, port: number): Handshake =>
  kind === "socks5" ? socksHandshake(host, port, credentials) : httpHandshake(host, port, credentials)
