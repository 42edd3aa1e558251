/**
 * Opens the TLS of a sandbox's flows to hosts that have a secret, or that are inspected: a TLS server with the sandbox's authority
 * towards the guest, a verified TLS client towards the server, and between them HTTP/1.1 or HTTP/2 through a gate. Dials nothing:
 * who decides on flows hands over both ends of one that is connected.
 *
 * Invariants: a value goes to a server alone that was verified under the flow's name; a flow whose client names another host is ended;
 * when a secret is revoked, the flows to its hosts end.
 */
import type { Duplex } from "node:stream"
import tls from "node:tls"
import type { ActiveSecret } from "../../domain/network/placeholders.ts"
import type { Authority } from "./authority.ts"
import type { ClientHello } from "./clientHello.ts"
import { firstBytes } from "./firstBytes.ts"
import { type Gate, makeGate, type SecretEvent } from "./gate.ts"
import { acceptTls } from "./guestTls.ts"
import { answerHttp1, relayHttp1 } from "./http1Relay.ts"
import { relayHttp2 } from "./http2/http2Relay.ts"
import { relayBytes } from "./relayBytes.ts"
import { ByteReader, finish } from "./streams.ts"
import { connectUpstream } from "./upstream.ts"

/** Which hosts are opened, and what goes to them. */
export interface Secrets {
  readonly secrets: ReadonlyArray<ActiveSecret>
  /** Hosts that are opened without a secret. */
  readonly inspected: ReadonlyArray<string>
}

export interface InterceptorOptions extends Secrets {
  readonly authority: Authority
  /** Certificates of the authorities by which servers are verified, as PEM. */
  readonly trust: ReadonlyArray<string>
  readonly onEvent: (event: SecretEvent) => void
}

/** A flow of the guest's that is allowed and connected. */
export interface OpenedFlow {
  /** The name that the guest resolved, in lower case. */
  readonly host: string
  readonly port: number
  readonly guest: Duplex
  readonly server: Duplex
}

export interface Interceptor {
  /** True for hosts whose flows belong to `relay`, and to which UDP must be refused where it would be QUIC. */
  readonly opens: (host: string) => boolean
  /** Resolves when the flow has ended; both of its ends are destroyed then. */
  readonly relay: (flow: OpenedFlow) => Promise<void>
  /** Takes effect on the next request; ends the flows to hosts of secrets that have no value any more. */
  readonly update: (secrets: Secrets) => void
  readonly close: () => void
}

/** Fatal alert unrecognized_name (RFC 6066, 3). */
const unrecognizedName = Buffer.from([0x15, 3, 3, 0, 2, 2, 112])
/** How long what was written to a guest may take to leave when a flow ends, in milliseconds. */
const lingerMs = 5000

const reasonOf = (error: unknown): string => {
  const { code, message } = error as { readonly code?: unknown; readonly message?: unknown }
  return String(message || code || "unknown").slice(0, 256)
}

class Opened implements Interceptor {
  private current: Secrets
  private readonly trust: tls.SecureContext
  private readonly flows = new Set<OpenedFlow>()

  constructor(private readonly options: InterceptorOptions) {
    this.current = options
    this.trust = tls.createSecureContext({ ca: [...options.trust] })
  }

  opens(host: string): boolean {
    return (
      this.options.authority.hosts.includes(host) &&
      (this.current.inspected.includes(host) || this.current.secrets.some((secret) => secret.hosts.includes(host)))
    )
  }

  async relay(flow: OpenedFlow): Promise<void> {
    const { guest, server } = flow
    this.flows.add(flow)
    guest.on("error", () => undefined)
    server.on("error", () => undefined)
    try {
      const spoken = await firstBytes(guest, server)
      if (spoken.kind === "tls") await this.encrypted(flow, spoken.hello)
      else if (spoken.kind === "http") await this.relayed(guest, server, this.gate(flow, false), undefined)
      else if (spoken.kind === "other") await relayBytes(guest, server)
    } catch {
      // One side broke or spoke nonsense: the flow ends, which is all that the other one can be told.
    } finally {
      this.flows.delete(flow)
      guest.destroy()
      server.destroy()
    }
  }

  update(secrets: Secrets): void {
    const revoked = secrets.secrets.filter(
      ({ name, value }) =>
        value === undefined && this.current.secrets.some((before) => before.name === name && before.value !== undefined)
    )
    this.current = secrets
    for (const flow of this.flows) {
      if (!revoked.some(({ hosts }) => hosts.includes(flow.host))) continue
      flow.guest.destroy()
      flow.server.destroy()
    }
  }

  close(): void {
    for (const { guest, server } of this.flows) {
      guest.destroy()
      server.destroy()
    }
  }

  private gate({ host, port }: OpenedFlow, encrypted: boolean): Gate {
    return makeGate({
      host,
      port,
      encrypted,
      secrets: () => this.current.secrets,
      inspected: this.current.inspected.includes(host),
      onEvent: this.options.onEvent
    })
  }

  private async encrypted(flow: OpenedFlow, hello: ClientHello): Promise<void> {
    const { guest, host, port, server } = flow
    if (hello.serverName !== undefined && hello.serverName !== host) {
      const named = hello.serverName.slice(0, 256).replace(/[^\x21-\x7e]/g, "?")
      this.options.onEvent({ kind: "misdirected", host, port, named })
      guest.end(unrecognizedName)
      await this.linger(guest)
      return
    }
    const upstream = await connectUpstream(server, { host, protocols: hello.protocols, trust: this.trust }).catch(
      reasonOf
    )
    const protocol = typeof upstream === "string" ? false : upstream.alpnProtocol
    const inner = await acceptTls(guest, this.options.authority.certificateFor(host), protocol || "http/1.1")
    try {
      if (typeof upstream === "string") {
        this.options.onEvent({ kind: "untrusted", host, port, reason: upstream })
        const text = `not sent: the server ${host} can not be trusted: ${upstream}`
        await answerHttp1(inner, new ByteReader(inner), { status: 502, text })
      } else await this.relayed(inner, upstream, this.gate(flow, true), protocol || undefined)
    } finally {
      inner.destroy()
      if (typeof upstream !== "string") upstream.destroy()
    }
  }

  private async relayed(guest: Duplex, server: Duplex, gate: Gate, protocol: string | undefined): Promise<void> {
    try {
      await (protocol === "h2" ? relayHttp2 : relayHttp1)(guest, server, gate)
    } finally {
      if (guest.writableEnded) await this.linger(guest)
    }
  }

  /** What was written last shall arrive. */
  private async linger(guest: Duplex): Promise<void> {
    const timer = setTimeout(() => guest.destroy(), lingerMs)
    await finish(guest)
    clearTimeout(timer)
  }
}

export const makeInterceptor = (options: InterceptorOptions): Interceptor => new Opened(options)
