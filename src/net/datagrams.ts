/**
 * Carries UDP and ICMP echo between the guest and the host: a flow for each pair of ports (for echo: each identifier) until it has been
 * idle. Refuses with ICMP "unreachable" what the policy denies. Datagrams may be lost, as anywhere.
 *
 * Invariants: flows and the bytes that wait for one to be connected are bounded; one timer runs while there are flows, none otherwise.
 */
import { formatAddress } from "../domain/network/addressRanges.ts"
import type { Access } from "./access.ts"
import type { Card } from "./card.ts"
import type { Events } from "./events.ts"
import { answerEcho, destinationOf, isEchoRequest, quoteOf, sendEchoReply, sendUnreachable } from "./icmp.ts"
import { type DropReason, equalAt, type Packet, protocolUdp } from "./packet.ts"
import type { Rate } from "./rate.ts"
import type { Destination, Dialed, NetworkLimits, Protocol, UdpHandler, UdpUpstream } from "./types.ts"

/** Waits for the destination to be resolved: what a client sends before it would try again. */
const waitingMax = 8
const waitingBytesMax = 65_536
const headerBytes = 8
const dnsPort = 53

export interface DatagramOptions {
  readonly card: Card
  readonly access: Access
  readonly events: Events
  readonly limits: NetworkLimits
  readonly newFlows: Rate
  readonly down: Rate
  readonly now: () => number
  readonly nameOf: (remote: Uint8Array) => string | undefined
  readonly dial: (to: Destination, handler: UdpHandler) => Promise<Dialed<UdpUpstream>>
  /** Answers a DNS question now or later. */
  readonly dns: (question: Buffer, later: (answer: Buffer) => void) => Buffer | undefined
}

interface Flow {
  readonly key: string
  readonly family: 4 | 6
  readonly remote: Uint8Array
  readonly guestPort: number
  readonly destination: Destination
  /** How the guest is told that its datagrams find nobody. */
  readonly quote: Buffer
  upstream: UdpUpstream | undefined
  address: string | undefined
  waiting: Array<Buffer>
  usedAt: number
  bytesUp: number
  bytesDown: number
  opened: boolean
  closed: boolean
}

export class DatagramService {
  private readonly flows = new Map<string, Flow>()
  private timer: ReturnType<typeof setTimeout> | undefined
  /** Bytes of all flows since the start. */
  bytesUp = 0
  bytesDown = 0

  constructor(private readonly options: DatagramOptions) {}

  get open(): number {
    return this.flows.size
  }

  udp(packet: Packet): DropReason | undefined {
    const { at, bytes, end } = packet
    if (end - at < headerBytes) return "udpHeader"
    const length = bytes.readUInt16BE(at + 4)
    const sourcePort = bytes.readUInt16BE(at)
    const port = bytes.readUInt16BE(at + 2)
    if (length < headerBytes || at + length > end || sourcePort === 0 || port === 0) return "udpHeader"
    const body = bytes.subarray(at + headerBytes, at + length)
    const remote = destinationOf(packet)
    if (port === dnsPort) {
      const reply = (answer: Buffer) => void this.send(packet.family, remote, port, sourcePort, answer)
      const answer = this.options.dns(body, reply)
      if (answer !== undefined) reply(answer)
      return undefined
    }
    return this.pass(packet, "udp", remote, sourcePort, port, body)
  }

  /** Only requests: what else a guest says by ICMP concerns nobody. */
  icmp(packet: Packet): DropReason | undefined {
    if (!isEchoRequest(packet)) return "icmp"
    const { card } = this.options
    const gateway = packet.family === 4 ? card.addresses.gateway4 : card.addresses.gateway6
    if (equalAt(packet.bytes, packet.destination, gateway)) return answerEcho(card, packet) ? undefined : "busy"
    const identifier = packet.bytes.readUInt16BE(packet.at + 4)
    return this.pass(packet, "icmp", destinationOf(packet), identifier, 0, packet.bytes.subarray(packet.at, packet.end))
  }

  private pass(
    packet: Packet,
    protocol: Protocol,
    remote: Uint8Array,
    guestPort: number,
    port: number,
    body: Buffer
  ): DropReason | undefined {
    const key = `${protocol}${guestPort}:${port}:${remote.join(".")}`
    const flow = this.flows.get(key) ?? this.open_(key, packet, protocol, remote, guestPort, port)
    if (flow === undefined) return undefined
    flow.usedAt = this.options.now()
    if (flow.upstream !== undefined) {
      this.toHost(flow, flow.upstream, body)
      return undefined
    }
    const held = flow.waiting.reduce((sum, each) => sum + each.length, 0)
    if (flow.waiting.length >= waitingMax || held + body.length > waitingBytesMax) return "busy"
    flow.waiting.push(Buffer.from(body))
    return undefined
  }

  private open_(
    key: string,
    packet: Packet,
    protocol: Protocol,
    remote: Uint8Array,
    guestPort: number,
    port: number
  ): Flow | undefined {
    const { access, card, events, limits, nameOf, newFlows, now } = this.options
    const name = nameOf(remote)
    const destination: Destination = {
      protocol,
      address: formatAddress(remote),
      port,
      ...(name === undefined ? {} : { name })
    }
    const { family } = packet
    const reason =
      this.flows.size >= limits.udpFlows
        ? `${limits.udpFlows} UDP flows`
        : newFlows.tryOne(now())
          ? undefined
          : `${limits.newFlowsPerSecond} new flows a second`
    const decision = access.flow(destination)
    if (decision.allow && reason !== undefined) events.tell({ kind: "limit", ...destination, reason })
    if (!decision.allow) events.tell({ kind: "denied", ...destination, ...ruleOf(decision.rule) })
    if (!decision.allow || reason !== undefined) {
      sendUnreachable(card, family, remote, quoteOf(packet))
      return undefined
    }
    const flow: Flow = {
      key,
      family,
      remote,
      guestPort,
      destination,
      quote: quoteOf(packet),
      upstream: undefined,
      address: undefined,
      waiting: [],
      usedAt: now(),
      bytesUp: 0,
      bytesDown: 0,
      opened: false,
      closed: false
    }
    this.flows.set(key, flow)
    this.watch()
    void this.dial(flow)
    return flow
  }

  private async dial(flow: Flow): Promise<void> {
    const { access, dial, events } = this.options
    const { destination } = flow
    const dialed = await dial(destination, {
      data: (bytes) => this.fromHost(flow, bytes),
      refused: () => this.refuse(flow)
    })
    if (flow.closed) {
      if (dialed._tag === "connected") dialed.upstream.close()
      return
    }
    if (dialed._tag === "denied") {
      events.tell({ kind: "denied", ...destination, address: dialed.address, ...ruleOf(dialed.rule) })
      return this.refuse(flow)
    }
    if (dialed._tag === "unreachable") {
      const kind = destination.protocol === "icmp" ? "unsupported" : "unreachable"
      events.tell({ kind, ...destination, reason: dialed.reason })
      return this.refuse(flow)
    }
    flow.upstream = dialed.upstream
    flow.address = dialed.address
    // The policy may have been swapped meanwhile.
    const decision = access.flow(destination)
    if (!decision.allow) return this.refuse(flow)
    flow.opened = true
    events.tell({ kind: "opened", ...destination, guestPort: flow.guestPort })
    for (const body of flow.waiting.splice(0)) this.toHost(flow, flow.upstream, body)
  }

  private toHost(flow: Flow, upstream: UdpUpstream, body: Buffer): void {
    flow.bytesUp += body.length
    this.bytesUp += body.length
    upstream.send(body)
  }

  private fromHost(flow: Flow, bytes: Buffer): void {
    if (flow.closed) return
    const { card, down, now } = this.options
    // Nothing waits for a rate: a datagram above it is lost.
    if (down.wait(now()) > 0) return
    down.spend(bytes.length)
    flow.usedAt = now()
    flow.bytesDown += bytes.length
    this.bytesDown += bytes.length
    const { destination, family, guestPort, remote } = flow
    if (destination.protocol === "udp") return void this.send(family, remote, destination.port, guestPort, bytes)
    if (bytes.length < headerBytes) return
    // The host's kernel gives each echo socket an identifier of its own.
    const message = Buffer.from(bytes)
    message.writeUInt16BE(guestPort, 4)
    sendEchoReply(card, family, remote, card.guest(family), message)
  }

  private send(family: 4 | 6, from: Uint8Array, fromPort: number, toPort: number, bytes: Uint8Array): boolean {
    const { card } = this.options
    const length = headerBytes + bytes.length
    // More than a packet holds comes from a host with another family.
    if (length > 65_535 - (family === 4 ? 20 : 40)) return false
    const body = Buffer.alloc(length)
    body.writeUInt16BE(fromPort, 0)
    body.writeUInt16BE(toPort, 2)
    body.writeUInt16BE(length, 4)
    body.set(bytes, headerBytes)
    return card.send({ family, protocol: protocolUdp, from, to: card.guest(family), body, checksumAt: 6 })
  }

  /** Tells the guest that a flow's datagrams find nobody, and ends it. */
  private refuse(flow: Flow): void {
    if (flow.closed) return
    sendUnreachable(this.options.card, flow.family, flow.remote, flow.quote)
    this.end(flow)
  }

  private end(flow: Flow): void {
    if (flow.closed) return
    flow.closed = true
    flow.waiting = []
    flow.upstream?.close()
    this.flows.delete(flow.key)
    const { bytesDown, bytesUp, destination, guestPort } = flow
    if (flow.opened) this.options.events.tell({ kind: "closed", ...destination, guestPort, bytesUp, bytesDown })
    if (this.flows.size > 0) return
    clearTimeout(this.timer)
    this.timer = undefined
  }

  /** Ends what has been idle, when the next one may be. */
  private watch(): void {
    if (this.timer !== undefined) return
    const { limits, now } = this.options
    let oldest = Number.POSITIVE_INFINITY
    for (const { usedAt } of this.flows.values()) oldest = Math.min(oldest, usedAt)
    if (oldest === Number.POSITIVE_INFINITY) return
    this.timer = setTimeout(
      () => {
        this.timer = undefined
        for (const flow of [...this.flows.values()]) if (now() - flow.usedAt >= limits.udpIdleMs) this.end(flow)
        this.watch()
      },
      Math.max(10, oldest + limits.udpIdleMs - now())
    )
  }

  /** Ends flows that the policy denies now. */
  recheck(): void {
    const { access, events } = this.options
    for (const flow of [...this.flows.values()]) {
      let decision = access.flow(flow.destination)
      if (decision.allow && flow.address !== undefined) decision = access.address(flow.destination, flow.address)
      if (decision.allow) continue
      events.tell({ kind: "denied", ...flow.destination, ...ruleOf(decision.rule) })
      this.refuse(flow)
    }
  }

  close(): void {
    for (const flow of [...this.flows.values()]) this.end(flow)
  }
}

const ruleOf = (rule: string | undefined): { readonly rule?: string } => (rule === undefined ? {} : { rule })
