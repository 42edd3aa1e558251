/**
 * Decides who may talk to a network listener: whoever has the bearer token, and no web page. A page of another site has another
 * `Origin`; one that rebinds its own name to our address has that name as `Host` (RFC 9110, section 7.2; Fetch, "Origin header").
 */
import { timingSafeEqual } from "node:crypto"
import { failure } from "./failure.ts"

/** An address to listen on. */
export interface Listen {
  /** A name or an address, IPv6 without brackets. */
  readonly host: string
  /** 0: a free one is picked. */
  readonly port: number
}

/** `HOST:PORT` or `[IPV6]:PORT`; undefined for anything else. */
export const parseListen = (text: string): Listen | undefined => {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)):(\d{1,5})$/.exec(text)
  if (match === null) return undefined
  const port = Number(match[3])
  return port > 65_535 ? undefined : { host: match[1] ?? match[2]!, port }
}

const sha256 = (text: string): Uint8Array => new Bun.CryptoHasher("sha256").update(text).digest()

/** Compares in a time that tells nothing of the token: hashes of equal length, byte by byte to the end. */
const isToken = (given: string, hash: Uint8Array): boolean => timingSafeEqual(sha256(given), hash)

const ipAddress = /^(\d{1,3}(\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\])$/

/** Names under which a page could not reach us by its own name: addresses, localhost, and what the owner listens on. */
const isOurs = (hostname: string, listen: Listen): boolean =>
  ipAddress.test(hostname) || hostname === "localhost" || hostname === listen.host.toLowerCase()

/** The name and port of a `Host` header. */
const parseHost = (
  header: string | null,
  usual: string
): { readonly name: string; readonly port: string } | undefined => {
  const match = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?$/.exec(header ?? "")
  return match === null ? undefined : { name: match[1]!.toLowerCase(), port: match[2] ?? usual }
}

const answer = (status: number, code: string, error: string, headers: Record<string, string> = {}): Response =>
  // Whoever has no token keeps no connection, nor has a body read.
  Response.json(failure(code, error), { status, headers: { connection: "close", ...headers } })

/** What tells nothing of the home: whether the server lives, for what watches it, and how it is spoken to, for browsers. */
const openPaths: ReadonlySet<string> = new Set(["/healthz", "/readyz", "/docs", "/openapi.json"])

const isOpen = (request: Request): boolean =>
  (request.method === "GET" || request.method === "HEAD") && openPaths.has(new URL(request.url).pathname)

/** Answers what a request is refused with; undefined for one that may pass. `port` is the one that is listened on. */
export const makeGuard = (token: string, listen: Listen, port: () => number, scheme: "http" | "https" = "http") => {
  const hash = sha256(token)
  return (request: Request): Response | undefined => {
    const host = parseHost(request.headers.get("host"), scheme === "http" ? "80" : "443")
    if (host === undefined || !isOurs(host.name, listen) || Number(host.port) !== port()) {
      return answer(403, "HostRefused", "the Host header names none of this server's addresses")
    }
    const origin = request.headers.get("origin")
    if (origin !== null && origin.toLowerCase() !== `${scheme}://${host.name}:${host.port}`) {
      return answer(403, "OriginRefused", "requests of web pages of another origin are refused")
    }
    if (isOpen(request)) return undefined
    const bearer = /^bearer +([A-Za-z0-9._~+/=-]+)$/i.exec(request.headers.get("authorization") ?? "")
    if (bearer === null || !isToken(bearer[1]!, hash)) {
      const words =
        "send the token as 'Authorization: Bearer TOKEN'; it is in the file \"token\" of the server's home directory"
      return answer(401, "Unauthorized", words, { "www-authenticate": 'Bearer realm="bunker"' })
    }
    return undefined
  }
}
