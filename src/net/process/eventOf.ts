/** Puts what the network stack tells into the words of domain/network/events.ts. Tells nobody (see eventTeller.ts). */
import type { NetworkEvent } from "../../domain/network/events.ts"
import { describeRefusal } from "../../domain/network/placeholders.ts"
import { decideLookup, decideName, type NetworkPolicy } from "../../domain/network/policy.ts"
import type { PreviousFlow } from "../stack.ts"
import { decideTarget } from "../stackPolicy.ts"
import type { SecretEvent } from "../tls/gate.ts"
import type { NetworkEvent as StackEvent } from "../types.ts"
import type { FlowKey } from "./protocol.ts"

/** Addresses that stand for names and mean nothing outside one sandbox. */
const isSynthetic = (address: string): boolean =>
  /^198\.1[89]\./.test(address) || address.startsWith("fd42:756e:6b65:2:")

/** Why the policy denies it: the stack tells the rule alone. */
const reasonOf = (policy: NetworkPolicy, event: StackEvent, address: string | null): string => {
  const { name, port = 0, protocol } = event
  if (protocol === "link") return ""
  if (protocol === "dns") return decideLookup(policy, name ?? "").reason
  if (name !== undefined) {
    const byName = decideName(policy, { name, port, protocol })
    if (!byName.allowed || address === null) return byName.reason
  }
  if (address === null) return ""
  return decideTarget(policy, { protocol, address, port, own: false, ...(name === undefined ? {} : { name }) }).reason
}

const kinds = {
  denied: "denied",
  opened: "used",
  limit: "limit",
  unreachable: "failed",
  unsupported: "failed",
  link: "failed"
} as const

/** Undefined for what is no news: the end of a flow. */
export const eventOf = (policy: NetworkPolicy, event: StackEvent, at: number): NetworkEvent | undefined => {
  if (event.kind === "closed") return undefined
  const { name = null, port = 0, rule = null } = event
  const address = event.address === undefined || isSynthetic(event.address) ? null : event.address
  const why = event.reason ?? (event.kind === "denied" ? reasonOf(policy, event, address) || "denied" : "")
  return {
    at,
    kind: kinds[event.kind],
    name,
    address,
    // That of DNS says nothing.
    port: event.protocol === "dns" ? 0 : port,
    protocol: event.protocol === "link" ? "tcp" : event.protocol,
    rule,
    reason: why.slice(0, 512),
    count: 1 + (event.suppressed ?? 0)
  }
}

/** A TCP flow by what the guest knows of it; undefined for what is none. */
export const flowOf = ({ protocol, address, port, guestPort }: StackEvent): FlowKey | undefined =>
  protocol === "tcp" && address !== undefined && guestPort !== undefined
    ? `${address} ${port ?? 0} ${guestPort}`
    : undefined

/** The same, taken apart. */
export const previousFlow = (key: FlowKey): PreviousFlow => {
  const [address = "", port = "0", guestPort = "0"] = key.split(" ")
  return { address, port: Number(port), guestPort: Number(guestPort) }
}

/** What became of a request to an opened host. Repeats names, never values. */
export const eventOfSecret = (event: SecretEvent, at: number): NetworkEvent => {
  const told = (kind: NetworkEvent["kind"], reason: string): NetworkEvent => ({
    at,
    kind,
    name: event.host,
    address: null,
    port: event.port,
    protocol: "tcp",
    rule: null,
    reason: reason.slice(0, 512),
    count: 1
  })
  switch (event.kind) {
    case "used":
      return told("secret", `the secret ${event.secret} was put in`)
    case "refused":
      return told("refused", `the request was not sent: ${describeRefusal(event, event.host)}`)
    case "misdirected":
      return told("refused", `the request was not sent: it was for "${event.named}"`)
    case "request":
      return told("request", `${event.method} ${event.path}`)
    case "untrusted":
      return told("failed", `the server can not be trusted: ${event.reason}`)
  }
}
