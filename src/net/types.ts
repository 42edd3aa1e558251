/**
 * Declares what the network stack takes and tells: addresses, link, policy, dialer, interception, events, limits.
 * Holds no behaviour. Addresses are text in canonical form (RFC 5952 for IPv6), names are lower case without a trailing dot.
 */
import type net from "node:net"

export type Protocol = "tcp" | "udp" | "icmp"

/** Who is on the card. The guest's and the gateway's addresses are in one prefix: /30 for IPv4, /64 for IPv6. */
export interface Addresses {
  /** `02:00:00:00:00:02` */
  readonly guestMac: string
  readonly gatewayMac: string
  readonly guest4: string
  readonly gateway4: string
  readonly guest6: string
  readonly gateway6: string
  /** A /64 whose addresses stand for names, e.g. `fd42:756e:6b72::`; IPv4 addresses of names are in 198.18.0.0/15. */
  readonly names6: string
}

/** A destination as the guest chose it, and as the host would reach it. */
export interface Target {
  readonly protocol: Protocol
  /** The name that the guest looked up; absent when it uses a raw address. */
  readonly name?: string
  /** The address that would be connected to: for a name, each address that the host resolved, one by one. */
  readonly address: string
  /** 0 for ICMP. */
  readonly port: number
  /** True when the address belongs to this machine: never opened by a wildcard. */
  readonly own: boolean
}

/** A decision; `rule` is the text of the rule that decided, absent when no rule fits. */
export interface Decision {
  readonly allow: boolean
  readonly rule?: string
}

/** Pure. Asked again for every flow and every question, so it may be swapped at any time (`Stack.setPolicy`). */
export interface NetworkPolicy {
  /**
   * Whether a name may be resolved (without a port: allowed with some port and protocol) or connected to.
   * A denial with a `rule` also bites where a flow to a raw address says this name itself (SNI, Host).
   */
  readonly decideName: (name: string, port?: number, protocol?: Protocol) => Decision
  /**
   * Whether one address may be connected to. With `name`: the name was allowed before; this denies special ranges and denied
   * addresses that a name resolves to. Asked for the carried IPv4 address as well (NAT64, 6to4): all must be allowed.
   */
  readonly decideFlow: (target: Target) => Decision
  /** Whether records of another type than A and AAAA may be asked for, e.g. `TXT`. */
  readonly dnsTypes: (name: string, type: string) => boolean
}

/** What a flow's destination is called in events and for interception. */
export interface Destination {
  readonly protocol: Protocol
  readonly name?: string
  readonly address: string
  readonly port: number
}

/** Something to tell; `suppressed` counts events that were left out before this one because there were too many. */
export interface NetworkEvent {
  readonly kind: "denied" | "opened" | "closed" | "limit" | "unreachable" | "unsupported" | "link"
  readonly protocol: Protocol | "dns" | "link"
  readonly name?: string
  /** As the guest used it: for a name its synthetic address. */
  readonly address?: string
  readonly port?: number
  /** The guest's own port: with the address and port the key of a flow. */
  readonly guestPort?: number
  /** The rule that decided; absent: no rule fits. */
  readonly rule?: string
  /** Which limit, why it is unreachable, what is unsupported, what became of the link. */
  readonly reason?: string
  /** Bytes that the flow carried, on `closed`. */
  readonly bytesUp?: number
  readonly bytesDown?: number
  readonly suppressed?: number
}

/** Bounds of one sandbox. */
export interface NetworkLimits {
  readonly tcpFlows: number
  readonly tcpHalfOpen: number
  readonly udpFlows: number
  readonly udpIdleMs: number
  /** A TCP flow without any segment for so long is probed, then reset. */
  readonly tcpKeepAliveMs: number
  readonly connectTimeoutMs: number
  readonly names: number
  /** New flows a second, TCP and UDP together; 0: no limit. */
  readonly newFlowsPerSecond: number
  /** 0: no limit. */
  readonly bytesUpPerSecond: number
  readonly bytesDownPerSecond: number
}

export const defaultLimits: NetworkLimits = {
  tcpFlows: 1024,
  tcpHalfOpen: 128,
  udpFlows: 512,
  udpIdleMs: 60_000,
  tcpKeepAliveMs: 7_200_000,
  connectTimeoutMs: 20_000,
  names: 65_536,
  newFlowsPerSecond: 0,
  bytesUpPerSecond: 0,
  bytesDownPerSecond: 0
}

/** What hears of whole ethernet frames. */
export interface LinkHandler {
  /** One frame, in `bytes` from `start` to `end`; borrowed until it returns. */
  readonly frame: (bytes: Buffer, start: number, end: number) => void
  /** All frames that were there have been delivered. */
  readonly settled: () => void
  /** The card takes frames again, after `reserve` returned -1. */
  readonly writable: () => void
  readonly closed: (reason: string) => void
}

/** Carries whole ethernet frames. */
export interface Link {
  readonly attach: (handler: LinkHandler) => void
  /** Where in `out` the frame of so many bytes has to be written, at once; -1 while the card takes none. */
  readonly reserve: (length: number) => number
  readonly out: Buffer
  /** Sends what was reserved. */
  readonly flush: () => void
  /** Stops and starts delivering frames. */
  readonly pause: () => void
  readonly resume: () => void
  readonly close: () => void
}

/** One direction of bytes to wherever a TCP flow goes; `write` returns how many bytes were taken. */
export interface Upstream {
  readonly write: (bytes: Uint8Array, start: number, length: number) => number
  /** The guest sends no more. */
  readonly end: () => void
  readonly reset: () => void
  readonly pause: () => void
  readonly resume: () => void
}

export interface UpstreamHandler {
  /** The bytes are the receiver's. */
  readonly data: (bytes: Buffer) => void
  readonly drain: () => void
  readonly end: () => void
  /** Nothing comes any more, in order or (`reset`) not. */
  readonly closed: (reset: boolean) => void
}

export interface UdpUpstream {
  readonly send: (bytes: Uint8Array) => void
  readonly close: () => void
}

export interface UdpHandler {
  readonly data: (bytes: Buffer) => void
  readonly refused: () => void
}

/** Why a destination was not connected to. */
export type DialFailure =
  | { readonly _tag: "denied"; readonly address: string; readonly rule?: string }
  | { readonly _tag: "unreachable"; readonly reason: string }

export type Dialed<U> =
  | {
      readonly _tag: "connected"
      readonly upstream: U
      /** What was connected to; absent when a proxy connected by name. */
      readonly address?: string
    }
  | DialFailure

/** Whether one resolved address may be connected to. */
export type Allow = (address: string) => Decision

/** Resolves on the host, asks about each address, connects to exactly one that is allowed. Never throws. */
export interface Dialer {
  readonly tcp: (to: Destination, allow: Allow, handler: UpstreamHandler) => Promise<Dialed<Upstream>>
  readonly udp: (to: Destination, allow: Allow, handler: UdpHandler) => Promise<Dialed<UdpUpstream>>
  /** Sends and receives ICMP echo messages (RFC 792, RFC 4443 by the family of what was connected to), checksums left to the host. */
  readonly icmp: (to: Destination, allow: Allow, handler: UdpHandler) => Promise<Dialed<UdpUpstream>>
  /** Texts of records of another type than addresses, as the host resolves them; undefined when they can not be had. */
  readonly records: (name: string, type: RecordType) => Promise<ReadonlyArray<DnsRecord> | undefined>
}

export type RecordType = "TXT" | "MX" | "SRV" | "PTR"

/** A record's data: strings of TXT; of the others a host name, with what stands before it. */
export type DnsRecord =
  | { readonly type: "TXT"; readonly texts: ReadonlyArray<string> }
  | { readonly type: "MX"; readonly priority: number; readonly name: string }
  | {
      readonly type: "SRV"
      readonly priority: number
      readonly weight: number
      readonly port: number
      readonly name: string
    }
  | { readonly type: "PTR"; readonly name: string }

/**
 * Takes a TCP flow over instead of a dial: undefined leaves the flow alone. The function connects to wherever it wants and
 * resolves when the guest may be told that it is connected; a rejection resets the guest's attempt. What it resolves to gets the
 * guest's end of the flow as a real socket (half-open allowed), once. Asked for UDP, too: a flow that is not left alone is refused, so
 * that QUIC falls back to TCP.
 */
export type Intercept = (flow: Destination) => (() => Promise<(socket: net.Socket) => void>) | undefined
