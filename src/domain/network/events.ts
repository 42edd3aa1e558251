/** Says what a sandbox's network tells of itself: what was denied, used or went wrong. Holds no behaviour but words. */
import { Schema } from "effect"

const NetworkEventKind = Schema.Literals([
  "denied",
  "used",
  "limit",
  "failed",
  "replaced",
  "secret",
  "refused",
  "request"
])

/** One thing that happened, or as many alike as `count` says. */
export const NetworkEvent = Schema.Struct({
  /** Unix milliseconds. */
  at: Schema.Int,
  /**
   * `denied`: by the policy. `used`: the first connection to a destination. `limit`: a bound was met. `failed`: allowed, but not to be
   * had. `replaced`: the process behind the network was; connections that were open are gone. `secret`: the value of a secret went
   * into a request. `refused`: a request to an opened host was not sent. `request`: one to an inspected host was.
   */
  kind: NetworkEventKind,
  /** Name that was asked for, in the form in which rules compare it; null where there is none. */
  name: Schema.NullOr(Schema.String.check(Schema.isMaxLength(253))),
  /** IP address, null where none is known. */
  address: Schema.NullOr(Schema.String.check(Schema.isMaxLength(45))),
  /** 0 where there is none. */
  port: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65_535 })),
  protocol: Schema.Literals(["tcp", "udp", "icmp", "dns"]),
  /** The rule that decided, null when none did. */
  rule: Schema.NullOr(Schema.String.check(Schema.isMaxLength(600))),
  /** One phrase. */
  reason: Schema.String.check(Schema.isMaxLength(512)),
  /** Of its like since the last one that was told. */
  count: Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))
})
export type NetworkEvent = typeof NetworkEvent.Type

type Destination = Pick<NetworkEvent, "name" | "address" | "port" | "protocol">

const place = ({ name, address, port }: Destination): string => {
  const host = name ?? (address?.includes(":") && port > 0 ? `[${address}]` : address) ?? "?"
  return port > 0 ? `${host}:${port}` : host
}

/** Where it went, as rules spell it: `example.com:443`, `10.0.0.1:53/udp`, `ping 10.0.0.1`. */
const formatDestination = (event: Destination): string => {
  if (event.protocol === "icmp") return `ping ${place(event)}`
  return event.protocol === "udp" ? `${place(event)}/udp` : place(event)
}

/** One line for a reader, without the time. */
export const formatEvent = (event: NetworkEvent): string => {
  const times = event.count > 1 ? ` (${event.count} times)` : ""
  const by = event.rule === null ? event.reason : `${event.reason}: ${event.rule}`
  const where = event.name !== null && event.address !== null ? ` (${event.address})` : ""
  if (event.kind === "replaced") return `network: ${event.reason}`
  if (event.kind === "secret" || event.kind === "request")
    return `network: ${formatDestination(event)}: ${event.reason}${times}`
  const what = event.kind === "used" ? "allowed" : event.kind
  return `network: ${what} ${formatDestination(event)}${where}${by === "" ? "" : `: ${by}`}${times}`
}
