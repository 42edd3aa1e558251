/**
 * Writes frames to the guest: ethernet and IP headers, and the checksums of what is in them. Queues only small packets without a
 * flow of their own (`control`), within a bound; flows wait for room themselves.
 *
 * Invariant: a frame is begun only when it is written out in the same turn.
 */
import { parseAddress } from "../domain/network/addressRanges.ts"
import { Checksum, finish, sumOf } from "./checksum.ts"
import { macBytes } from "./link.ts"
import { etherIpv4, etherIpv6, protocolIcmp } from "./packet.ts"
import type { Addresses, Link } from "./types.ts"

export const ethernetBytes = 14
/** Bytes of answers that wait for the card; more are dropped. */
const controlBytesMax = 1_048_576
const controlFramesMax = 1024

const ipHeaderBytes = (family: 4 | 6): number => (family === 4 ? 20 : 40)

/** The guest's and the gateway's addresses as bytes. */
export interface CardAddresses {
  readonly guestMac: Uint8Array
  readonly gatewayMac: Uint8Array
  readonly guest4: Uint8Array
  readonly gateway4: Uint8Array
  readonly guest6: Uint8Array
  readonly gateway6: Uint8Array
}

export const bytesOfAddresses = (addresses: Addresses): CardAddresses => ({
  guestMac: macBytes(addresses.guestMac),
  gatewayMac: macBytes(addresses.gatewayMac),
  guest4: parseAddress(addresses.guest4)!,
  gateway4: parseAddress(addresses.gateway4)!,
  guest6: parseAddress(addresses.guest6)!,
  gateway6: parseAddress(addresses.gateway6)!
})

/** A packet that waits for the card. */
interface Control {
  readonly family: 4 | 6
  readonly protocol: number
  readonly from: Uint8Array
  readonly to: Uint8Array
  readonly body: Uint8Array
  /** Where in the body the checksum belongs; -1: none. */
  readonly checksumAt: number
}

export class Card {
  readonly out: Buffer
  readonly checksum: Checksum
  framesOut = 0
  dropped = 0
  private readonly control: Array<Control> = []
  private controlBytes = 0
  private readonly sums = new Map<Uint8Array, number>()
  private identification = 0
  private flushes = false
  constructor(
    private readonly link: Link,
    readonly addresses: CardAddresses
  ) {
    this.out = link.out
    this.checksum = new Checksum(link.out)
    for (const address of [addresses.guest4, addresses.guest6]) this.sums.set(address, sumOf(address))
  }

  /** Begins a frame of another kind than IP; where its body belongs, or -1. */
  beginFrame(etherType: number, bodyBytes: number, destination = this.addresses.guestMac): number {
    const at = this.link.reserve(ethernetBytes + bodyBytes)
    if (at < 0) return -1
    this.framesOut += 1
    this.flushLater()
    const { out } = this
    out.set(destination, at)
    out.set(this.addresses.gatewayMac, at + 6)
    out.writeUInt16BE(etherType, at + 12)
    return at + ethernetBytes
  }

  /** Begins a packet to `to` (the guest's address by default); where its transport header belongs, or -1 while the card takes none. */
  begin(family: 4 | 6, protocol: number, from: Uint8Array, bodyBytes: number, to = this.guest(family)): number {
    const headerBytes = ipHeaderBytes(family)
    const start = this.beginFrame(family === 4 ? etherIpv4 : etherIpv6, headerBytes + bodyBytes)
    if (start < 0) return -1
    const { out } = this
    if (family === 4) {
      out.writeUInt32BE(0x45000000 + headerBytes + bodyBytes, start)
      // Not to be fragmented, so the identification means nothing (RFC 6864); it helps who reads traces.
      this.identification = (this.identification + 1) & 0xffff
      out.writeUInt32BE(this.identification * 0x10000 + 0x4000, start + 4)
      out.writeUInt32BE(0x40000000 + protocol * 0x10000, start + 8)
      out.set(from, start + 12)
      out.set(to, start + 16)
      out.writeUInt16BE(finish(this.checksum.sum(start, start + 20, 0)), start + 10)
    } else {
      out.writeUInt32BE(0x60000000, start)
      out.writeUInt16BE(bodyBytes, start + 4)
      out[start + 6] = protocol
      // Neighbour discovery wants 255 (RFC 4861); nothing else minds.
      out[start + 7] = 255
      out.set(from, start + 8)
      out.set(to, start + 24)
    }
    return start + headerBytes
  }

  /** The checksum field of a body with its pseudo header; the field itself must be zero. */
  transportChecksum(protocol: number, addressesSum: number, at: number, bodyBytes: number): number {
    return finish(this.checksum.sum(at, at + bodyBytes, addressesSum + protocol + bodyBytes))
  }

  guest(family: 4 | 6): Uint8Array {
    return family === 4 ? this.addresses.guest4 : this.addresses.guest6
  }

  sumOf(address: Uint8Array): number {
    return this.sums.get(address) ?? sumOf(address)
  }

  /** Sends a small packet when the card takes it; after `control` has been full it is dropped and counted. */
  send(packet: Control): boolean {
    if (this.control.length === 0 && this.write(packet)) return true
    if (this.control.length >= controlFramesMax || this.controlBytes + packet.body.length > controlBytesMax) {
      this.dropped += 1
      return false
    }
    this.control.push(packet)
    this.controlBytes += packet.body.length
    return true
  }

  /** Sends what waits; false when the card is full again. */
  sendWaiting(): boolean {
    let sent = 0
    for (const packet of this.control) {
      if (!this.write(packet)) break
      this.controlBytes -= packet.body.length
      sent += 1
    }
    this.control.splice(0, sent)
    return this.control.length === 0
  }

  /** Everything that is written in one turn goes out together at its end. */
  private flushLater(): void {
    if (this.flushes) return
    this.flushes = true
    queueMicrotask(() => {
      this.flushes = false
      this.link.flush()
    })
  }

  private write({ family, protocol, from, to, body, checksumAt }: Control): boolean {
    const at = this.begin(family, protocol, from, body.length, to)
    if (at < 0) return false
    this.out.set(body, at)
    if (checksumAt >= 0) {
      this.out.writeUInt16BE(0, at + checksumAt)
      // ICMP for IPv4 has no pseudo header.
      const value =
        protocol === protocolIcmp
          ? finish(this.checksum.sum(at, at + body.length, 0))
          : this.transportChecksum(protocol, this.sumOf(from) + this.sumOf(to), at, body.length)
      // UDP says "none" by zero (RFC 768).
      this.out.writeUInt16BE(value === 0 && protocol === 17 ? 0xffff : value, at + checksumAt)
    }
    return true
  }
}
