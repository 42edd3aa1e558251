/**
 * Answers the guest's TCP: finds the flow of a segment, opens flows that the policy allows once their destination is connected, refuses
 * all others with RST before any handshake.
 *
 * Invariants: "connected" in the guest means connected; flows and half-open ones are bounded; a refusal costs no memory.
 */
import { formatAddress } from "../../domain/network/addressRanges.ts"
import type { Access } from "../access.ts"
import { Budget } from "../budget.ts"
import type { Card } from "../card.ts"
import type { Events } from "../events.ts"
import { addressLength, type DropReason, type Packet } from "../packet.ts"
import { Peek } from "../peek.ts"
import type { Rate } from "../rate.ts"
import type { Destination, Dialed, NetworkLimits, Upstream, UpstreamHandler } from "../types.ts"
import { TcpFlow } from "./flow.ts"
import { Output } from "./output.ts"
import { ACK, emptySegment, FIN, RST, readSegment, type Segment, SYN } from "./segment.ts"
import { FlowTable } from "./table.ts"
import { sendReset } from "./writer.ts"

/** Flows in TIME_WAIT; the oldest makes room. */
const timeWaitMax = 1024
const mebibyte = 1_048_576
/** Ports of the gateway that connect to the guest: Linux's ephemeral ones. */
const firstPort = 32_768
const lastPortMax = 60_999

export interface TcpOptions {
  readonly card: Card
  readonly access: Access
  readonly events: Events
  readonly limits: NetworkLimits
  readonly newFlows: Rate
  readonly down: Rate
  readonly now: () => number
  /** The name that an address stands for. */
  readonly nameOf: (remote: Uint8Array) => string | undefined
  /** Something of the stack itself that listens at a port of any address. */
  readonly local: (port: number, handler: UpstreamHandler) => Upstream | undefined
  /** Connects to where the policy allows; never throws. */
  readonly dial: (to: Destination, handler: UpstreamHandler) => Promise<Dialed<Upstream>>
}

/** A flow and what is told of it. */
interface Entry {
  readonly flow: TcpFlow
  readonly destination: Destination
  /** A flow that is not told of and not checked: it ends in the stack itself. */
  readonly local: boolean
  opened: boolean
  /** What the host connected to; absent for what a proxy connected to. */
  address?: string | undefined
}

export class TcpService {
  private readonly table = new FlowTable()
  private readonly entries = new Map<TcpFlow, Entry>()
  private readonly waiting = new Set<TcpFlow>()
  private readonly connecting = new Map<TcpFlow, (handler: UpstreamHandler | undefined) => void>()
  private lastPort = lastPortMax
  private readonly segment = emptySegment()
  private halfOpen = 0
  private readonly finished = { up: 0, down: 0 }
  private readonly context: ConstructorParameters<typeof TcpFlow>[1]
  readonly output: Output

  constructor(private readonly options: TcpOptions) {
    const { card, down, limits, now } = options
    this.output = new Output(card, down, now, () => this.table)
    this.context = {
      card,
      now,
      // Mostly empty: the host's own buffers take what the guest sends.
      up: new Budget(mebibyte, mebibyte / 16, 16 * mebibyte, 32 * mebibyte),
      down: new Budget(mebibyte / 2, mebibyte / 16, 16 * mebibyte, 32 * mebibyte),
      keepAliveMs: limits.tcpKeepAliveMs,
      ready: (flow) => this.output.add(flow),
      armed: (flow) => this.output.arm(flow),
      gone: (flow, stays) => this.gone(flow, stays)
    }
  }

  get open(): number {
    return this.entries.size
  }

  /** Bytes of all flows since the start, those included that are open. */
  get bytes(): { readonly up: number; readonly down: number } {
    let { up, down } = this.finished
    for (const { receiver, sender } of this.entries.keys()) {
      up += receiver.bytes
      down += sender.bytes
    }
    return { up, down }
  }

  get heldBytes(): number {
    return this.context.up.used + this.context.down.used
  }

  input(packet: Packet): DropReason | undefined {
    const { segment } = this
    if (!readSegment(segment, packet)) return "tcpHeader"
    const flow = this.table.find(packet, segment)
    if (flow !== undefined && !this.mayReplace(flow, segment)) {
      const wasOpening = flow.state === "synReceived" || flow.state === "synSent"
      flow.input(segment, packet.bytes)
      if (wasOpening && flow.state === "open") this.established(flow)
      return undefined
    }
    if ((segment.flags & (SYN | ACK | RST | FIN)) === SYN) return this.ask(packet, segment)
    return this.refuse(packet, segment)
  }

  /** A guest that uses the ports of a finished flow again (RFC 6191). */
  private mayReplace(flow: TcpFlow, { flags, sequence }: Segment): boolean {
    if (flow.state !== "timeWait" || (flags & (SYN | ACK | RST)) !== SYN) return false
    if (((sequence - flow.receiver.received) | 0) <= 0) return false
    flow.timeout(Number.POSITIVE_INFINITY)
    return true
  }

  private ask(packet: Packet, segment: Segment): DropReason | undefined {
    const remote = Uint8Array.from(
      packet.bytes.subarray(packet.destination, packet.destination + addressLength(packet.family))
    )
    const name = this.options.nameOf(remote)
    const destination: Destination = {
      protocol: "tcp",
      address: formatAddress(remote),
      port: segment.destinationPort,
      ...(name === undefined ? {} : { name })
    }
    const reason = this.limitReached()
    if (reason !== undefined) {
      this.options.events.tell({ kind: "limit", ...destination, reason })
      return this.refuse(packet, segment)
    }
    const key = { family: packet.family, guestPort: segment.sourcePort, remote, remotePort: segment.destinationPort }
    const flow = new TcpFlow(key, this.context)
    const local = this.options.local(segment.destinationPort, flow)
    if (local === undefined) {
      const decision = this.options.access.flow(destination)
      if (!decision.allow) {
        this.options.events.tell({ kind: "denied", ...destination, ...ruleOf(decision.rule) })
        return this.refuse(packet, segment)
      }
    }
    flow.asked(segment)
    this.table.add(flow)
    this.entries.set(flow, { flow, destination, local: local !== undefined, opened: false })
    this.halfOpen += 1
    if (local !== undefined) flow.begin(local, "synReceived")
    else void this.dial(flow, destination)
    return undefined
  }

  /**
   * Connects to a port of the guest from the gateway's address. Once the guest has accepted, what is said to the result goes to it; what
   * it says goes to `upstream`. Undefined when it refuses, does not answer, or has as many flows as it may.
   */
  connectGuest(port: number, upstream: Upstream): Promise<UpstreamHandler | undefined> {
    const remotePort = this.freePort(port)
    if (remotePort === undefined || this.entries.size >= this.options.limits.tcpFlows) return Promise.resolve(undefined)
    const key = { family: 4, guestPort: port, remote: this.options.card.addresses.gateway4, remotePort } as const
    const flow = new TcpFlow(key, this.context)
    const destination = { protocol: "tcp", address: formatAddress(key.remote), port } as const
    this.table.add(flow)
    this.entries.set(flow, { flow, destination, local: true, opened: false })
    this.halfOpen += 1
    const connected = Promise.withResolvers<UpstreamHandler | undefined>()
    this.connecting.set(flow, connected.resolve)
    flow.begin(upstream, "synSent")
    return connected.promise
  }

  /** A port of the gateway from which no flow goes to this port of the guest. */
  private freePort(guestPort: number): number | undefined {
    const taken = new Set<number>()
    for (const { key } of this.table) if (key.guestPort === guestPort) taken.add(key.remotePort)
    for (let tries = 0; tries <= taken.size; tries++) {
      this.lastPort = this.lastPort === lastPortMax ? firstPort : this.lastPort + 1
      if (!taken.has(this.lastPort)) return this.lastPort
    }
    return undefined
  }

  private limitReached(): string | undefined {
    const { limits, newFlows, now } = this.options
    if (this.entries.size >= limits.tcpFlows) return `${limits.tcpFlows} TCP flows`
    if (this.halfOpen >= limits.tcpHalfOpen) return `${limits.tcpHalfOpen} TCP flows that are being opened`
    return newFlows.tryOne(now()) ? undefined : `${limits.newFlowsPerSecond} new flows a second`
  }

  private async dial(flow: TcpFlow, destination: Destination): Promise<void> {
    const { access, dial, events } = this.options
    const denied = (rule: string | undefined, more: { readonly name?: string; readonly address?: string } = {}): void =>
      events.tell({ kind: "denied", ...destination, ...more, ...ruleOf(rule) })
    // A rule for a name bites on a raw address when the guest itself says that name.
    const peek =
      destination.name !== undefined
        ? undefined
        : new Peek(flow, (name) => {
            const rule = access.denies(name, destination)
            if (rule === undefined) return false
            denied(rule, { name })
            flow.reset()
            return true
          })
    const dialed = await dial(destination, peek?.handler ?? flow)
    if (dialed._tag === "connected") {
      // The policy may have been swapped meanwhile.
      const decision = access.flow(destination)
      const entry = this.entries.get(flow)
      if (flow.state === "dialing" && decision.allow && entry !== undefined) {
        entry.address = dialed.address
        peek?.attach(dialed.upstream)
        return flow.begin(peek ?? dialed.upstream, "synReceived")
      }
      if (flow.state === "dialing") denied(decision.rule)
      dialed.upstream.reset()
    } else if (flow.state === "dialing" && dialed._tag === "denied") {
      denied(dialed.rule, { address: dialed.address })
    } else if (flow.state === "dialing" && dialed._tag === "unreachable") {
      events.tell({ kind: "unreachable", ...destination, reason: dialed.reason })
    }
    flow.reset()
  }

  private established(flow: TcpFlow): void {
    const entry = this.entries.get(flow)
    if (entry === undefined || entry.opened) return
    entry.opened = true
    this.halfOpen -= 1
    this.connecting.get(flow)?.(flow)
    this.connecting.delete(flow)
    if (!entry.local) this.options.events.tell({ kind: "opened", ...entry.destination, guestPort: flow.key.guestPort })
  }

  private gone(flow: TcpFlow, stays: boolean): void {
    const entry = this.entries.get(flow)
    this.connecting.get(flow)?.(undefined)
    this.connecting.delete(flow)
    if (entry !== undefined) {
      this.entries.delete(flow)
      this.finished.up += flow.receiver.bytes
      this.finished.down += flow.sender.bytes
      if (!entry.opened) this.halfOpen -= 1
      else if (!entry.local) {
        const bytes = { bytesUp: flow.receiver.bytes, bytesDown: flow.sender.bytes }
        this.options.events.tell({ kind: "closed", ...entry.destination, guestPort: flow.key.guestPort, ...bytes })
      }
    }
    if (stays) {
      this.waiting.add(flow)
      for (const oldest of this.waiting) {
        if (this.waiting.size <= timeWaitMax) break
        oldest.timeout(Number.POSITIVE_INFINITY)
      }
      return
    }
    this.waiting.delete(flow)
    this.table.remove(flow)
    if (this.table.size === 0) this.output.idle()
  }

  /** Refuses a segment that belongs to no flow (RFC 9293, 3.10.7.1). */
  private refuse({ bytes, destination, family }: Packet, segment: Segment): DropReason | undefined {
    if (segment.flags & RST) return "tcpReset"
    const key = {
      family,
      guestPort: segment.sourcePort,
      remote: Uint8Array.from(bytes.subarray(destination, destination + addressLength(family))),
      remotePort: segment.destinationPort
    }
    const size = segment.length + (segment.flags & SYN ? 1 : 0) + (segment.flags & FIN ? 1 : 0)
    const sent =
      segment.flags & ACK
        ? sendReset(this.options.card, key, segment.acknowledgement, undefined)
        : sendReset(this.options.card, key, 0, segment.sequence + size)
    return sent ? undefined : "busy"
  }

  /** Resets flows that the policy denies now. */
  recheck(): void {
    const { access } = this.options
    for (const { address, destination, flow, local } of [...this.entries.values()]) {
      if (local) continue
      let decision = access.flow(destination)
      if (decision.allow && address !== undefined) decision = access.address(destination, address)
      if (decision.allow) continue
      this.options.events.tell({ kind: "denied", ...destination, ...ruleOf(decision.rule) })
      flow.reset()
    }
  }

  close(): void {
    for (const flow of [...this.table]) flow.reset()
    this.output.close()
  }
}

const ruleOf = (rule: string | undefined): { readonly rule?: string } => (rule === undefined ? {} : { rule })
