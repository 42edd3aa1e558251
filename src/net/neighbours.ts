/**
 * Resolves addresses on the card for the guest: ARP (RFC 826) and neighbour and router discovery (RFC 4861). The gateway's hardware
 * address stands for every address but the guest's own. Learns nothing from the guest: its address is known.
 */
import { parseAddress } from "../domain/network/addressRanges.ts"
import type { Card } from "./card.ts"
import { type DropReason, equalAt, etherArp, type Packet, protocolIcmp6 } from "./packet.ts"

const arpBytes = 28
const arpIpv4Ethernet = [0, 1, 8, 0, 6, 4] as const
const arpRequest = 1
const arpReply = 2

/** Answers a request for any IPv4 address but the guest's. */
export const answerArp = (card: Card, bytes: Buffer, start: number, end: number): DropReason | undefined => {
  if (end - start < arpBytes) return "short"
  if (arpIpv4Ethernet.some((byte, index) => bytes[start + index] !== byte)) return "arp"
  if (bytes.readUInt16BE(start + 6) !== arpRequest) return "arp"
  const wanted = start + 24
  // Its own address: a probe whether another machine has it (RFC 5227).
  if (equalAt(bytes, wanted, card.addresses.guest4)) return undefined
  const at = card.beginFrame(etherArp, arpBytes)
  if (at < 0) return "busy"
  const { out } = card
  out.set(arpIpv4Ethernet, at)
  out.writeUInt16BE(arpReply, at + 6)
  out.set(card.addresses.gatewayMac, at + 8)
  out.set(bytes.subarray(wanted, wanted + 4), at + 14)
  out.set(bytes.subarray(start + 8, start + 18), at + 18)
  return undefined
}

const routerSolicitation = 133
const neighbourSolicitation = 135
const unspecified6 = new Uint8Array(16)
const allNodes = parseAddress("ff02::1")!
/** The gateway's own link-local address: routers advertise from one. */
const routerAddress = parseAddress("fe80::1")!

/** True for the messages of discovery, which come from addresses that carry no traffic. */
export const isDiscovery = (packet: Packet): boolean =>
  packet.protocol === protocolIcmp6 &&
  packet.end > packet.at &&
  packet.bytes[packet.at]! >= 133 &&
  packet.bytes[packet.at]! <= 137

export const answerDiscovery = (card: Card, packet: Packet): DropReason | undefined => {
  const { at, bytes, end } = packet
  const type = bytes[at]
  // A hop limit below 255 came over a router (RFC 4861, 7.1).
  if (bytes[packet.header + 7] !== 255) return "icmp"
  const source = Uint8Array.from(bytes.subarray(packet.source, packet.source + 16))
  const asked = equalAt(source, 0, unspecified6) ? allNodes : source
  if (type === routerSolicitation) {
    card.send({
      family: 6,
      protocol: protocolIcmp6,
      from: routerAddress,
      to: asked,
      body: advertisement(card),
      checksumAt: 2
    })
    return undefined
  }
  if (type !== neighbourSolicitation) return undefined
  if (end - at < 24) return "short"
  const target = Uint8Array.from(bytes.subarray(at + 8, at + 24))
  // From no address: the guest asks whether another machine has its address (RFC 4862, 5.4).
  const probe = asked === allNodes
  if (probe || equalAt(target, 0, card.addresses.guest6) || equalAt(target, 0, source)) return undefined
  const body = new Uint8Array(32)
  body.set([136, 0, 0, 0, 0x60], 0)
  body.set(target, 8)
  body.set([2, 1], 24)
  body.set(card.addresses.gatewayMac, 26)
  card.send({ family: 6, protocol: protocolIcmp6, from: target, to: asked, body, checksumAt: 2 })
  return undefined
}

/** A router for everything and no prefix: the guest's address is set by its agent, not by itself. */
const advertisement = (card: Card): Uint8Array => {
  const body = new Uint8Array(24)
  // Hop limit 64, no flags, 9,000 s: the most that a router may say (RFC 4861, 6.2.1).
  body.set([134, 0, 0, 0, 64, 0, 0x23, 0x28], 0)
  body.set([1, 1], 16)
  body.set(card.addresses.gatewayMac, 18)
  return body
}
