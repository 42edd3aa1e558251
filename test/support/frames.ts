/** A guest by hand: frames as bytes in, frames as bytes out, without a VM or a socket. */
import { parseAddress } from "../../src/domain/network/addressRanges.ts"
import { cardAddresses } from "../../src/net/addresses.ts"
import { FrameReader, FrameWriter, macBytes } from "../../src/net/link.ts"
import { makeStack, type Stack, type StackOptions } from "../../src/net/stack.ts"
import type {
  Dialer,
  Link,
  LinkHandler,
  NetworkEvent,
  NetworkPolicy,
  Upstream,
  UpstreamHandler
} from "../../src/net/types.ts"

const guestMac = macBytes(cardAddresses.guestMac)
const gatewayMac = macBytes(cardAddresses.gatewayMac)

const bytesOf = (address: string): Uint8Array => parseAddress(address)!

const be16 = (...numbers: ReadonlyArray<number>): Buffer =>
  Buffer.from(numbers.flatMap((number) => [(number >> 8) & 255, number & 255]))

export const ethernet = (type: number, body: Uint8Array): Buffer =>
  Buffer.concat([gatewayMac, guestMac, be16(type), body])

export interface Ip {
  readonly from?: string
  readonly protocol: number
  /** Fields that are written as they are, whatever is right. */
  readonly patch?: (packet: Buffer) => void
}

/** An IP packet in a frame, to an address of either family. */
export const ip = (to: string, body: Uint8Array, { from, patch, protocol }: Ip): Buffer => {
  const destination = bytesOf(to)
  const four = destination.length === 4
  const source = bytesOf(from ?? (four ? cardAddresses.guest4 : cardAddresses.guest6))
  const head = four
    ? Buffer.concat([Buffer.from([0x45, 0]), be16(20 + body.length, 1, 0x4000), Buffer.from([64, protocol, 0, 0])])
    : Buffer.concat([Buffer.from([0x60, 0, 0, 0]), be16(body.length), Buffer.from([protocol, 255])])
  const packet = Buffer.concat([head, source, destination, body])
  patch?.(packet)
  return ethernet(four ? 0x0800 : 0x86dd, packet)
}

export interface Tcp {
  readonly from?: number
  readonly sequence?: number
  readonly acknowledgement?: number
  readonly flags: number
  readonly window?: number
  readonly options?: ReadonlyArray<number>
  readonly data?: Uint8Array | string
}

export const tcp = (to: string, port: number, segment: Tcp): Buffer => {
  const { acknowledgement = 0, data = "", flags, from = 40_000, options = [], sequence = 0, window = 65_535 } = segment
  const head = Buffer.alloc(20)
  head.writeUInt16BE(from, 0)
  head.writeUInt16BE(port, 2)
  head.writeInt32BE(sequence | 0, 4)
  head.writeInt32BE(acknowledgement | 0, 8)
  head[12] = ((20 + options.length) / 4) << 4
  head[13] = flags
  head.writeUInt16BE(window, 14)
  return ip(to, Buffer.concat([head, Buffer.from(options), Buffer.from(data)]), { protocol: 6 })
}

export const udp = (to: string, port: number, data: Uint8Array | string, from = 50_000): Buffer => {
  const body = Buffer.from(data)
  return ip(to, Buffer.concat([be16(from, port, 8 + body.length, 0), body]), { protocol: 17 })
}

/** A DNS question. */
export const question = (name: string, type: number, id = 7): Buffer =>
  Buffer.concat([
    be16(id, 0x0100, 1, 0, 0, 0),
    ...name.split(".").map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label, "latin1")])),
    Buffer.from([0]),
    be16(type, 1)
  ])

/** A frame that the stack sent, as far as it is TCP or UDP. */
export interface Seen {
  readonly frame: Buffer
  readonly protocol: number
  readonly from: number
  readonly to: number
  readonly sequence: number
  readonly acknowledgement: number
  readonly flags: number
  readonly window: number
  readonly body: Buffer
}

const seen = (frame: Buffer): Seen => {
  const four = frame.readUInt16BE(12) === 0x0800
  const at = 14 + (four ? 20 : 40)
  const protocol = frame[14 + (four ? 9 : 6)]!
  const isTcp = protocol === 6
  return {
    frame,
    protocol,
    from: frame.length >= at + 4 ? frame.readUInt16BE(at) : 0,
    to: frame.length >= at + 4 ? frame.readUInt16BE(at + 2) : 0,
    sequence: isTcp ? frame.readInt32BE(at + 4) : 0,
    acknowledgement: isTcp ? frame.readInt32BE(at + 8) : 0,
    flags: isTcp ? frame[at + 13]! : 0,
    window: isTcp ? frame.readUInt16BE(at + 14) : 0,
    body: frame.subarray(at + (isTcp ? (frame[at + 12]! >> 4) * 4 : 8))
  }
}

/** True when the checksums of a TCP or UDP frame over IPv4 or IPv6 are right. */
export const checksumsRight = ({ frame, protocol }: Seen): boolean => {
  const four = frame.readUInt16BE(12) === 0x0800
  const sum = (bytes: Buffer): number => {
    let total = 0
    for (let at = 0; at < bytes.length; at += 2) total += bytes[at]! * 256 + (bytes[at + 1] ?? 0)
    while (total > 0xffff) total = (total & 0xffff) + (total >>> 16)
    return total
  }
  const addresses = four ? frame.subarray(26, 34) : frame.subarray(22, 54)
  const body = frame.subarray(four ? 34 : 54)
  const rest = Buffer.from([0, protocol, body.length >> 8, body.length & 255])
  const transport = sum(Buffer.concat([addresses, rest, body]))
  return transport === 0xffff && (!four || sum(frame.subarray(14, 34)) === 0xffff)
}

/** An upstream that keeps what it gets and takes what it is told to. */
export class FakeUpstream implements Upstream {
  got = Buffer.alloc(0)
  room = Number.POSITIVE_INFINITY
  ended = false
  wasReset = false
  paused = false
  constructor(readonly handler: UpstreamHandler) {}
  write(bytes: Uint8Array, start: number, length: number): number {
    const taken = Math.min(this.room, length)
    this.room -= taken
    this.got = Buffer.concat([this.got, bytes.subarray(start, start + taken)])
    return taken
  }
  end(): void {
    this.ended = true
  }
  reset(): void {
    this.wasReset = true
  }
  pause(): void {
    this.paused = true
  }
  resume(): void {
    this.paused = false
  }
}

export interface ByHand {
  readonly stack: Stack
  readonly events: Array<NetworkEvent>
  readonly upstreams: Array<FakeUpstream>
  /** Gives frames to the stack in one turn and returns what it sent until it was quiet. */
  readonly give: (...frames: ReadonlyArray<Buffer>) => Promise<ReadonlyArray<Seen>>
  /** What was sent since the last look. */
  readonly sent: () => Promise<ReadonlyArray<Seen>>
  /** While true the card takes nothing. */
  block: (blocked: boolean) => void
}

export const allowAll: NetworkPolicy = {
  decideName: () => ({ allow: true }),
  decideFlow: () => ({ allow: true }),
  dnsTypes: () => false
}

export const makeByHand = (options: Partial<Omit<StackOptions, "link" | "addresses" | "events">> = {}): ByHand => {
  let handler: LinkHandler | undefined
  let blocked = false
  const out: Array<Buffer> = []
  const reader = new FrameReader(
    gatewayMac,
    (bytes, start, end) => void out.push(Buffer.from(bytes.subarray(start, end))),
    false
  )
  const writer = new FrameWriter(
    (bytes, start, length) => {
      if (blocked) return 0
      reader.push(Buffer.from(bytes.subarray(start, start + length)))
      return length
    },
    () => true
  )
  const link: Link = {
    attach: (next) => {
      handler = next
    },
    reserve: (length) => writer.reserve(length),
    out: writer.out,
    flush: () => writer.flush(),
    pause: () => {},
    resume: () => {},
    close: () => {}
  }
  const events: Array<NetworkEvent> = []
  const upstreams: Array<FakeUpstream> = []
  const dialer: Dialer = {
    tcp: async (_, __, upstreamHandler) => {
      const upstream = new FakeUpstream(upstreamHandler)
      upstreams.push(upstream)
      return { _tag: "connected", upstream }
    },
    udp: async (_, __, udpHandler) => ({
      _tag: "connected",
      upstream: { send: (bytes) => udpHandler.data(Buffer.from(bytes)), close: () => {} }
    }),
    icmp: async () => ({ _tag: "unreachable", reason: "no" }),
    records: async () => undefined
  }
  const stack = makeStack({
    link,
    addresses: cardAddresses,
    policy: allowAll,
    dialer,
    events: (event) => void events.push(event),
    ...options
  })
  const sent: ByHand["sent"] = async () => {
    // Dials and pumps are microtasks of microtasks.
    for (let turn = 0; turn < 20; turn++) await Promise.resolve()
    await new Promise(setImmediate)
    return out.splice(0).map(seen)
  }
  return {
    stack,
    events,
    upstreams,
    sent,
    give: (...frames) => {
      // Behind other bytes, as a frame lies in what was read.
      for (const frame of frames)
        handler?.frame(Buffer.concat([Buffer.from([9]), frame, Buffer.from([9, 9])]), 1, 1 + frame.length)
      handler?.settled()
      return sent()
    },
    block: (now) => {
      blocked = now
      if (!now && writer.drain()) handler?.writable()
    }
  }
}
