/**
 * Connects on the host for the guest: resolves a name, asks about each address, connects to exactly one that is allowed; or has the
 * host's upstream proxy connect by name. Decides nothing itself.
 *
 * Invariant: the address that is connected to is the one that was asked about.
 */
import { formatAddress, parseAddress, unmapped } from "../../domain/network/addressRanges.ts"
import type { Allow, Destination, Dialed, Dialer, DialFailure, Upstream, UpstreamHandler } from "../types.ts"
import { connectEcho } from "./hostEcho.ts"
import { connectTcp, type Ends } from "./hostTcp.ts"
import { connectUdp } from "./hostUdp.ts"
import { handshakeWith, noProxies, type Proxies, type Proxy, proxyFor } from "./proxy.ts"
import { resolveName, resolveRecords } from "./resolve.ts"

/** The next address is tried when the last one has not answered for so long (RFC 8305). */
const staggerMs = 250

export interface DialerOptions {
  readonly connectTimeoutMs: number
  readonly proxies?: Proxies
  readonly resolve?: (name: string) => Promise<ReadonlyArray<string>>
}

/** Addresses that are allowed, or why none is. */
const candidates = async (
  to: Destination,
  allow: Allow,
  resolve: (name: string) => Promise<ReadonlyArray<string>>
): Promise<ReadonlyArray<string> | DialFailure> => {
  let found: ReadonlyArray<string> = [to.address]
  if (to.name !== undefined) {
    try {
      found = await resolve(to.name)
    } catch (cause) {
      return {
        _tag: "unreachable",
        reason: (cause as NodeJS.ErrnoException).code ?? "the host can not resolve the name"
      }
    }
  }
  let denied: DialFailure | undefined
  const allowed: Array<string> = []
  for (const text of found) {
    const bytes = parseAddress(text)
    if (bytes === undefined) continue
    const address = formatAddress(unmapped(bytes))
    const { allow: yes, rule } = allow(address)
    if (yes) allowed.push(address)
    else denied ??= rule === undefined ? { _tag: "denied", address } : { _tag: "denied", address, rule }
  }
  return allowed.length > 0 ? allowed : (denied ?? { _tag: "unreachable", reason: "the name has no address" })
}

/** Passes a socket's events to the flow's handler as soon as it is the one that is used. */
const parked = (): Ends => ({ handler: { data: () => {}, drain: () => {}, end: () => {}, closed: () => {} } })

/** Tries addresses one after the other, the next one also when the last one is slow; those that come too late are closed. */
const race = async (
  addresses: ReadonlyArray<string>,
  port: number,
  handler: UpstreamHandler,
  timeoutMs: number
): Promise<Dialed<Upstream>> => {
  const until = performance.now() + timeoutMs
  const won = Promise.withResolvers<Dialed<Upstream>>()
  let open = true
  let failed = 0
  const attempt = async (address: string): Promise<void> => {
    const ends: Ends = { handler }
    const gate = new Gate(handler, () => open)
    ends.handler = gate
    const connected = await connectTcp(address, port, ends, Math.max(1, until - performance.now()))
    if (typeof connected === "string") {
      failed += 1
      if (failed === addresses.length) won.resolve({ _tag: "unreachable", reason: connected })
    } else if (open) {
      open = false
      gate.mine = true
      ends.handler = handler
      won.resolve({ _tag: "connected", upstream: connected, address })
      gate.replay()
    } else connected.reset()
  }
  for (const address of addresses) {
    if (!open) break
    const tried = attempt(address)
    if (address !== addresses.at(-1)) await Promise.race([tried, Bun.sleep(staggerMs), won.promise])
  }
  return won.promise
}

/** Keeps what a socket says before it is known to be the one that is used. */
class Gate implements UpstreamHandler {
  mine = false
  private readonly kept: Array<() => void> = []
  constructor(
    private readonly handler: UpstreamHandler,
    private readonly open: () => boolean
  ) {}
  private keep(say: () => void): void {
    if (this.mine) say()
    else if (this.open()) this.kept.push(say)
  }
  data(bytes: Buffer): void {
    this.keep(() => this.handler.data(bytes))
  }
  drain(): void {}
  end(): void {
    this.keep(() => this.handler.end())
  }
  closed(reset: boolean): void {
    this.keep(() => this.handler.closed(reset))
  }
  replay(): void {
    for (const say of this.kept.splice(0)) say()
  }
}

/** Asks a proxy to connect; what comes after its consent goes to the handler. */
const throughProxy = async (
  proxy: Proxy,
  to: Destination,
  handler: UpstreamHandler,
  timeoutMs: number
): Promise<Dialed<Upstream>> => {
  const { hello, next } = handshakeWith(proxy, to.name ?? to.address, to.port)
  const agreed = Promise.withResolvers<Dialed<Upstream>>()
  const refuse = (reason: string): void => agreed.resolve({ _tag: "unreachable", reason })
  const ends = parked()
  const tls = proxy.kind === "https" ? { serverName: proxy.host } : undefined
  let said: Buffer = Buffer.alloc(0)
  let upstream: Upstream | undefined
  const hear = (bytes: Buffer): void => {
    said = said.length === 0 ? bytes : Buffer.concat([said, bytes])
    for (;;) {
      const step = next(said)
      if (step === undefined) return
      if (typeof step === "string") {
        refuse(step)
        return
      }
      said = said.subarray(step.used)
      if (step.say !== undefined) upstream?.write(step.say, 0, step.say.length)
      if (!step.done) continue
      ends.handler = handler
      agreed.resolve({ _tag: "connected", upstream: upstream! })
      if (said.length > 0) handler.data(Buffer.from(said))
      return
    }
  }
  ends.handler = {
    data: hear,
    drain: () => {},
    end: () => refuse("the proxy hung up"),
    closed: () => refuse("the proxy hung up")
  }
  const connected = await connectTcp(proxy.host, proxy.port, ends, timeoutMs, tls)
  if (typeof connected === "string")
    return { _tag: "unreachable", reason: `proxy ${proxy.host}:${proxy.port}: ${connected}` }
  upstream = connected
  upstream.write(hello, 0, hello.length)
  const timer = setTimeout(() => refuse("the proxy does not answer"), timeoutMs)
  const outcome = await agreed.promise
  clearTimeout(timer)
  if (outcome._tag !== "connected") upstream.reset()
  return outcome
}

export const makeDialer = ({
  connectTimeoutMs,
  proxies = noProxies,
  resolve = resolveName
}: DialerOptions): Dialer => ({
  tcp: async (to, allow, handler) => {
    const proxy = proxyFor(proxies, to.name ?? to.address, to.port)
    if (proxy !== undefined) {
      // A raw address is known before the proxy is asked; a name is the proxy's to resolve.
      const decision = to.name === undefined ? allow(to.address) : { allow: true }
      if (decision.allow) return throughProxy(proxy, to, handler, connectTimeoutMs)
    }
    const addresses = await candidates(to, allow, resolve)
    if ("_tag" in addresses) return addresses
    return race(addresses, to.port, handler, connectTimeoutMs)
  },
  udp: async (to, allow, handler) => {
    const addresses = await candidates(to, allow, resolve)
    if ("_tag" in addresses) return addresses
    const [address = ""] = addresses
    const upstream = await connectUdp(address, to.port, handler)
    return typeof upstream === "string"
      ? { _tag: "unreachable", reason: upstream }
      : { _tag: "connected", upstream, address }
  },
  icmp: async (to, allow, handler) => {
    const addresses = await candidates(to, allow, resolve)
    if ("_tag" in addresses) return addresses
    const [address = ""] = addresses
    const upstream = await connectEcho(address, handler)
    return typeof upstream === "string"
      ? { _tag: "unreachable", reason: upstream }
      : { _tag: "connected", upstream, address }
  },
  records: resolveRecords
})
