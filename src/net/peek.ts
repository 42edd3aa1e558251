/**
 * Reads the name that a client says at the start of a flow: SNI of a TLS ClientHello (RFC 6066), Host of an HTTP/1 request. It decides
 * nowhere where a flow goes; a rule that denies the name bites on it.
 */
import { readClientHello } from "./tls/clientHello.ts"
import type { Upstream, UpstreamHandler } from "./types.ts"

/** A ClientHello or a request's head that is longer has no name that counts. */
const peekBytesMax = 65_536

const recordHandshake = 22

const sniOf = (bytes: Buffer): string | undefined | "more" => {
  const hello = readClientHello(bytes)
  return hello === undefined ? "more" : hello?.serverName
}

const requestLine = /^[A-Z]{1,20} [^\r\n]* HTTP\/1\.[01]\r?\n/

const hostOf = (bytes: Buffer): string | undefined | "more" => {
  const text = bytes.toString("latin1")
  if (!/^[A-Z]{1,20}( |$)/.test(text)) return undefined
  const end = /\r?\n\r?\n/.exec(text)
  const line = text.indexOf("\n")
  if (line >= 0 && !requestLine.test(text)) return undefined
  const host = /\r?\nhost:[ \t]*([^\r\n]*?)[ \t]*\r?\n/i.exec(text)
  if (host !== null) return host[1]
  return end === null ? "more" : undefined
}

/** The name in canonical form; undefined: none is said; "more": it is not known yet. */
const peekName = (bytes: Buffer): string | undefined | "more" => {
  if (bytes.length === 0) return "more"
  const said = bytes[0] === recordHandshake ? sniOf(bytes) : hostOf(bytes)
  if (said === "more") return bytes.length < peekBytesMax ? "more" : undefined
  return said?.replace(/:\d*$/, "").replace(/\.$/, "").toLowerCase()
}

/**
 * Stands between a flow and its upstream: the guest's first bytes go on only when the name in them is not denied, else `deny` is called.
 * The other direction is not looked at.
 */
export class Peek implements Upstream {
  private upstream: Upstream | undefined
  /** What is held back: until the name is known, then until the upstream takes it. */
  private held: Buffer | undefined = Buffer.alloc(0)
  private known = false
  private ended = false
  private refused = false

  constructor(
    private readonly flow: UpstreamHandler,
    private readonly deny: (name: string) => boolean
  ) {}

  attach(upstream: Upstream): void {
    this.upstream = upstream
  }

  write(bytes: Uint8Array, start: number, length: number): number {
    if (this.refused) return length
    if (this.held === undefined) return this.upstream?.write(bytes, start, length) ?? 0
    if (this.known) return 0
    this.held = Buffer.concat([this.held, bytes.subarray(start, start + length)])
    const name = peekName(this.held)
    if (name === "more") return length
    this.refused = name !== undefined && this.deny(name)
    if (!this.refused) this.passHeld()
    return length
  }

  private passHeld(): void {
    this.known = true
    const held = this.held ?? Buffer.alloc(0)
    const taken = Math.max(0, this.upstream?.write(held, 0, held.length) ?? 0)
    this.held = taken < held.length ? held.subarray(taken) : undefined
    if (this.held === undefined && this.ended) this.upstream?.end()
  }

  /** What is not whole by now says no name. */
  end(): void {
    this.ended = true
    if (this.refused) return
    if (this.held === undefined) this.upstream?.end()
    else this.passHeld()
  }

  reset(): void {
    this.upstream?.reset()
  }
  pause(): void {
    this.upstream?.pause()
  }
  resume(): void {
    this.upstream?.resume()
  }

  /** What the upstream says goes to the flow as it is. */
  readonly handler: UpstreamHandler = {
    data: (bytes) => this.flow.data(bytes),
    end: () => this.flow.end(),
    closed: (reset) => this.flow.closed(reset),
    drain: () => {
      if (this.known && this.held !== undefined) this.passHeld()
      if (this.held === undefined) this.flow.drain()
    }
  }
}
