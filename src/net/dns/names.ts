/**
 * Gives each name that the guest may use an IPv4 and an IPv6 address that stand for it, for ever. Decides nothing about names.
 *
 * Invariants: an address never stands for another name; their number is bounded.
 */
import { parseAddress, samePrefix } from "../../domain/network/addressRanges.ts"

/** 198.18.0.0, the first address of the range for benchmarks (RFC 2544): no host of the internet has one. */
const first4 = 0xc6120000
/** The range has 131,072 addresses, of which the last 65,536 are left to the card's own. */
const namesMax = 65_535

export interface NameAddresses {
  readonly ipv4: Uint8Array
  readonly ipv6: Uint8Array
}

export class NameTable {
  private readonly names: Array<string> = []
  private readonly indexes = new Map<string, number>()
  private readonly prefix6: Uint8Array

  /** `initial`: names in the order in which an earlier process gave them addresses. */
  constructor(
    names6: string,
    private readonly max: number,
    initial: ReadonlyArray<string>,
    private readonly added: (name: string) => void
  ) {
    this.prefix6 = parseAddress(names6)!
    for (const name of initial) this.remember(name)
  }

  get size(): number {
    return this.names.length
  }

  /** The addresses of a name; undefined when there are as many names as there may be. */
  addressesOf(name: string): NameAddresses | undefined {
    const index = this.indexes.get(name) ?? this.add(name)
    if (index === undefined) return undefined
    const number = index + 1
    const ipv4 = Uint8Array.of(0xc6, 0x12 + (number >> 16), (number >> 8) & 255, number & 255)
    const ipv6 = Uint8Array.from(this.prefix6)
    ipv6.set([(number >> 16) & 255, (number >> 8) & 255, number & 255], 13)
    return { ipv4, ipv6 }
  }

  /** The name that an address stands for. */
  nameOf(address: Uint8Array): string | undefined {
    if (address.length === 4) {
      const number = ((address[0]! << 24) | (address[1]! << 16) | (address[2]! << 8) | address[3]!) >>> 0
      return this.names[number - first4 - 1]
    }
    if (!samePrefix(address, this.prefix6, 104)) return undefined
    return this.names[((address[13]! << 16) | (address[14]! << 8) | address[15]!) - 1]
  }

  /** True for an address that only ever stands for a name. */
  isSynthetic(address: Uint8Array): boolean {
    return address.length === 4 ? address[0] === 0xc6 && address[1] === 0x12 : samePrefix(address, this.prefix6, 64)
  }

  private add(name: string): number | undefined {
    if (this.names.length >= Math.min(this.max, namesMax)) return undefined
    this.added(name)
    return this.remember(name)
  }

  private remember(name: string): number {
    this.indexes.set(name, this.names.length)
    return this.names.push(name) - 1
  }
}
