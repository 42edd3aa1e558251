/**
 * Names the addresses on a guest's card: alike in every sandbox, for nothing but its own network process is on the other end. Assigns
 * none at run time.
 *
 * 192.0.0.0/29 is set aside for such links (RFC 7335), so that no address which a rule could mean is taken. 198.18.0.0/15 stands for
 * names (net/dns.ts).
 */
import type { Addresses } from "./types.ts"

export const cardAddresses: Addresses = {
  guestMac: "02:42:4b:00:00:01",
  gatewayMac: "02:42:4b:00:00:02",
  guest4: "192.0.0.2",
  gateway4: "192.0.0.1",
  guest6: "fd42:756e:6b65:1::2",
  gateway6: "fd42:756e:6b65:1::1",
  names6: "fd42:756e:6b65:2::"
}

/** Bits of the prefixes that guest and gateway share. */
const prefixBits = { ipv4: 30, ipv6: 64 } as const

/** Largest packet: the guest's kernel cuts nothing that it hands over (measured: 65,520 makes two of a large datagram). */
const mtu = 65_535

/** What the guest's agent is told of its card (guest/README.md, boot). */
export const guestCard = {
  net: {
    ipv4: cardAddresses.guest4,
    bits4: prefixBits.ipv4,
    gateway4: cardAddresses.gateway4,
    ipv6: cardAddresses.guest6,
    bits6: prefixBits.ipv6,
    gateway6: cardAddresses.gateway6,
    mtu
  },
  resolv: `nameserver ${cardAddresses.gateway4}\n`
} as const
