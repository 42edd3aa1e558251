/**
 * Is the other end of a guest's network card: a user-mode network stack that terminates what the guest sends and carries it on
 * from the host where the policy allows it. Starts no process and reads no configuration: its owner brings link, policy and dialer.
 *
 * Invariants: no frame makes it throw; what it holds is bounded whatever the guest sends; without flows no timer runs.
 */
import { parseAddress } from "../domain/network/addressRanges.ts"
import { Access } from "./access.ts"
import { bytesOfAddresses, Card, ethernetBytes } from "./card.ts"
import { DatagramService } from "./datagrams.ts"
import { NameTable } from "./dns/names.ts"
import { DnsServer } from "./dns/server.ts"
import { Events } from "./events.ts"
import { interceptFlow } from "./intercept.ts"
import { answerArp, answerDiscovery, isDiscovery } from "./neighbours.ts"
import {
  type DropReason,
  dropReasons,
  emptyPacket,
  equalAt,
  etherArp,
  etherIpv4,
  etherIpv6,
  protocolIcmp,
  protocolIcmp6,
  protocolTcp,
  protocolUdp,
  readIpv4,
  readIpv6
} from "./packet.ts"
import { Rate } from "./rate.ts"
import { ACK } from "./tcp/segment.ts"
import { TcpService } from "./tcp/service.ts"
import { sendBare } from "./tcp/writer.ts"
import {
  type Addresses,
  type Dialer,
  defaultLimits,
  type Intercept,
  type Link,
  type NetworkEvent,
  type NetworkLimits,
  type NetworkPolicy,
  type Upstream,
  type UpstreamHandler
} from "./types.ts"

export interface StackOptions {
  readonly link: Link
  readonly addresses: Addresses
  readonly policy: NetworkPolicy
  readonly dialer: Dialer
  readonly events: (event: NetworkEvent) => void
  /** Those that are left out: `defaultLimits`. */
  readonly limits?: Partial<NetworkLimits>
  readonly intercept?: Intercept
  /** Names that an earlier process of the sandbox gave addresses, in this order; `added` hears of each new one. */
  readonly names?: { readonly initial: ReadonlyArray<string>; readonly added: (name: string) => void }
  /** Flows that an earlier process had open: they are reset. */
  readonly previous?: ReadonlyArray<PreviousFlow>
}

/** A TCP flow as its `opened` event told. */
export interface PreviousFlow {
  readonly guestPort: number
  readonly address: string
  readonly port: number
}

/** Counters since the start, and gauges. */
export interface StackStats {
  readonly framesIn: number
  readonly framesOut: number
  /** Frames that got no answer, by reason. */
  readonly dropped: Readonly<Record<DropReason, number>>
  /** All events, by kind, those included that were left out because there were too many. */
  readonly events: Readonly<Record<NetworkEvent["kind"], number>>
  readonly tcpFlows: number
  readonly udpFlows: number
  readonly names: number
  /** Bytes that flows carried since the start. */
  readonly bytesUp: number
  readonly bytesDown: number
  /** Bytes of flows that are held in memory. */
  readonly heldBytes: number
}

export interface Stack {
  /** Swaps the policy and rechecks. */
  readonly setPolicy: (policy: NetworkPolicy) => void
  /** Resets flows that are denied now; names that are denied now stop resolving. */
  readonly recheck: () => void
  readonly stats: () => StackStats
  /**
   * Connects to a TCP port of the guest. What the guest says goes to `upstream`; once it has accepted, what is said to the result goes to
   * it. Undefined when it refuses or does not answer.
   */
  readonly connectGuest: (port: number, upstream: Upstream) => Promise<UpstreamHandler | undefined>
  /** Resets all flows and closes the link. */
  readonly close: () => void
}

export const makeStack = (options: StackOptions): Stack => new NetworkStack(options)

class NetworkStack implements Stack {
  private readonly events: Events
  private readonly access: Access
  private readonly card: Card
  private readonly names: NameTable
  private readonly tcp: TcpService
  private readonly datagrams: DatagramService
  private readonly up: Rate
  private readonly packet = emptyPacket()
  private readonly dropped = Object.fromEntries(dropReasons.map((reason) => [reason, 0])) as Record<DropReason, number>
  private framesIn = 0
  private paused: ReturnType<typeof setTimeout> | undefined

  constructor(private readonly options: StackOptions) {
    const { addresses, dialer, intercept, link, names, policy } = options
    const limits = { ...defaultLimits, ...options.limits }
    const events = new Events(options.events)
    const access = new Access(policy)
    const card = new Card(link, bytesOfAddresses(addresses))
    const table = new NameTable(addresses.names6, limits.names, names?.initial ?? [], names?.added ?? (() => {}))
    const dns = new DnsServer(table, access, events, dialer)
    const now = () => performance.now()
    const shared = {
      card,
      access,
      events,
      limits,
      now,
      newFlows: new Rate(limits.newFlowsPerSecond),
      down: new Rate(limits.bytesDownPerSecond),
      nameOf: (remote: Uint8Array) => table.nameOf(remote)
    }
    this.events = events
    this.access = access
    this.card = card
    this.names = table
    this.up = new Rate(limits.bytesUpPerSecond)
    this.tcp = new TcpService({
      ...shared,
      local: (port, handler) => (port === 53 ? dns.stream(handler) : undefined),
      dial: (to, handler) => {
        const start = intercept?.(to)
        if (start !== undefined) return interceptFlow(start, handler)
        return dialer.tcp(to, (address) => access.address(to, address), handler)
      }
    })
    this.datagrams = new DatagramService({
      ...shared,
      dial: async (to, handler) => {
        const allow = (address: string) => access.address(to, address)
        if (to.protocol === "icmp") return dialer.icmp(to, allow, handler)
        if (intercept?.(to) !== undefined)
          return { _tag: "denied", address: to.address, rule: "TLS is opened for this host" }
        return dialer.udp(to, allow, handler)
      },
      dns: (question, later) => dns.answer(question, true, later)
    })
    link.attach({
      frame: (bytes, start, end) => this.frame(bytes, start, end),
      settled: () => this.settled(),
      writable: () => this.tcp.output.pump(),
      closed: (reason) => events.tell({ kind: "link", protocol: "link", reason })
    })
    for (const flow of options.previous ?? []) this.provoke(flow)
  }

  private frame(bytes: Buffer, start: number, end: number): void {
    this.framesIn += 1
    this.up.spend(end - start)
    const reason = this.take(bytes, start, end)
    if (reason !== undefined) this.dropped[reason] += 1
  }

  private take(bytes: Buffer, start: number, end: number): DropReason | undefined {
    const { card, packet } = this
    const etherType = bytes.readUInt16BE(start + 12)
    const at = start + ethernetBytes
    if (etherType === etherArp) return answerArp(card, bytes, at, end)
    if (etherType === etherIpv4) {
      const reason = readIpv4(packet, bytes, at, end)
      if (reason !== undefined) return reason
    } else if (etherType === etherIpv6) {
      const reason = readIpv6(packet, bytes, at, end)
      if (reason !== undefined) return reason
      if (isDiscovery(packet)) return answerDiscovery(card, packet)
    } else return "etherType"
    if (!equalAt(bytes, packet.source, card.guest(packet.family))) return "source"
    if (packet.protocol === protocolTcp) return this.tcp.input(packet)
    if (packet.protocol === protocolUdp) return this.datagrams.udp(packet)
    if (packet.protocol === (packet.family === 4 ? protocolIcmp : protocolIcmp6)) return this.datagrams.icmp(packet)
    return "protocol"
  }

  /** A guest above its rate is not read for a while: its own card's queue holds it up. */
  private settled(): void {
    if (!this.up.limited || this.paused !== undefined) return
    const wait = this.up.wait(performance.now())
    if (wait === 0) return
    this.options.link.pause()
    this.paused = setTimeout(() => {
      this.paused = undefined
      this.options.link.resume()
    }, wait)
  }

  /**
   * Draws an answer from the guest for a flow that it still has: an acknowledgement that means nothing to it. Its answer belongs to no
   * flow here, and so it is reset.
   */
  private provoke({ address, guestPort, port }: PreviousFlow): void {
    const from = parseAddress(address)
    if (from === undefined) return
    const family = from.length === 4 ? 4 : 6
    sendBare(this.card, { family, guestPort, remote: from, remotePort: port }, ACK, 0, 0)
  }

  setPolicy(policy: NetworkPolicy): void {
    this.access.policy = policy
    this.recheck()
  }

  recheck(): void {
    this.tcp.recheck()
    this.datagrams.recheck()
  }

  connectGuest(port: number, upstream: Upstream): Promise<UpstreamHandler | undefined> {
    return this.tcp.connectGuest(port, upstream)
  }

  stats(): StackStats {
    return {
      framesIn: this.framesIn,
      framesOut: this.card.framesOut,
      dropped: { ...this.dropped, busy: this.dropped.busy + this.card.dropped },
      events: { ...this.events.counts },
      tcpFlows: this.tcp.open,
      udpFlows: this.datagrams.open,
      names: this.names.size,
      bytesUp: this.tcp.bytes.up + this.datagrams.bytesUp,
      bytesDown: this.tcp.bytes.down + this.datagrams.bytesDown,
      heldBytes: this.tcp.heldBytes
    }
  }

  close(): void {
    clearTimeout(this.paused)
    this.tcp.close()
    this.datagrams.close()
    // What resets the guest's flows is written at the end of this turn.
    queueMicrotask(() => this.options.link.close())
  }
}
