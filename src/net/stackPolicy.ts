/**
 * Puts the policy of a sandbox in front of the network stack: addresses as text become what rules compare, and each decision is made by
 * domain/network/policy.ts. Decides nothing itself.
 */
import { parseAddress } from "../domain/network/address.ts"
import { parseAddress as addressBytes, specialRange } from "../domain/network/addressRanges.ts"
import {
  decideAddress,
  decideLookup,
  decideName,
  type NetworkPolicy as Policy,
  type Decision as Verdict
} from "../domain/network/policy.ts"
import { type RecordType, recordTypes } from "../domain/network/rules.ts"
import type { Decision, NetworkPolicy, Target } from "./types.ts"

const told = ({ allowed, rule }: Verdict): Decision => ({ allow: allowed, ...(rule === null ? {} : { rule }) })

/** What an address is, as words: `public`, or why only a rule that spells it reaches it. */
const rangeOf = (address: string, own: boolean): string => {
  const bytes = addressBytes(address)
  if (bytes === undefined) return "no address"
  const range = specialRange(bytes)
  if (range === "metadata") return "where clouds hand out a machine's credentials"
  if (range !== undefined) return `a ${range} address`
  return own ? "an address of this machine" : "public"
}

export const decideTarget = (policy: Policy, { address, name, own, port, protocol }: Target): Verdict => {
  const groups = parseAddress(address)
  if (groups === undefined) return { allowed: false, rule: null, reason: "it is no address" }
  return decideAddress(policy, { address: groups, port, protocol, range: rangeOf(address, own), name })
}

const recordTypeOf = (type: string): RecordType | undefined => recordTypes.find((each) => each === type)

export const stackPolicy = (policy: Policy): NetworkPolicy => ({
  decideName: (name, port, protocol) =>
    told(
      port === undefined ? decideLookup(policy, name) : decideName(policy, { name, port, protocol: protocol ?? "tcp" })
    ),
  decideFlow: (target) => told(decideTarget(policy, target)),
  dnsTypes: (name, type) => {
    const known = recordTypeOf(type)
    return known !== undefined && decideLookup(policy, name, known).allowed
  }
})
