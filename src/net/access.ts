/**
 * Applies the policy to what the guest asks for: names, flows to names, flows to addresses. Resolves and connects nothing.
 *
 * Invariant: an address that carries an IPv4 address in it is allowed only when both are.
 */
import os from "node:os"
import { carriedIpv4, formatAddress, parseAddress, unmapped } from "../domain/network/addressRanges.ts"
import type { Decision, Destination, NetworkPolicy } from "./types.ts"

/** Interfaces come and go rarely; asking for each flow is slow. */
const ownAddressesMs = 1000

let own: ReadonlySet<string> = new Set()
let ownSince = Number.NEGATIVE_INFINITY

const ownAddresses = (): ReadonlySet<string> => {
  const now = performance.now()
  if (now - ownSince < ownAddressesMs) return own
  ownSince = now
  const found = Object.values(os.networkInterfaces()).flatMap((each) => each ?? [])
  own = new Set(
    found.flatMap(({ address }) => {
      const bytes = parseAddress(address.split("%")[0]!)
      return bytes === undefined ? [] : [formatAddress(bytes)]
    })
  )
  return own
}

export class Access {
  constructor(public policy: NetworkPolicy) {}

  /** Whether a name may be looked up. */
  name(name: string): Decision {
    return this.policy.decideName(name)
  }

  /** Whether a flow may be opened: before a name is resolved, and all that there is to decide about an address. */
  flow(to: Destination): Decision {
    if (to.name !== undefined) return this.policy.decideName(to.name, to.port, to.protocol)
    return this.address(to, to.address)
  }

  /** Whether one address may be connected to for a flow that `flow` allowed. */
  address({ name, port, protocol }: Destination, text: string): Decision {
    const bytes = parseAddress(text)
    if (bytes === undefined) return { allow: false }
    const plain = unmapped(bytes)
    const carried = carriedIpv4(plain)
    let decision: Decision = { allow: false }
    for (const each of carried === undefined ? [plain] : [plain, carried]) {
      const address = formatAddress(each)
      const target = { protocol, address, port, own: ownAddresses().has(address) }
      decision = this.policy.decideFlow(name === undefined ? target : { ...target, name })
      if (!decision.allow) return decision
    }
    return decision
  }

  /** The rule that denies a name that a flow to a raw address says itself; undefined where none does. */
  denies(name: string, { port, protocol }: Destination): string | undefined {
    const decision = this.policy.decideName(name, port, protocol)
    return decision.allow ? undefined : decision.rule
  }
}
