/** The flags by which `run`, `create` and `network update` say what a sandbox's network reaches, and what they make of them. */
import { Effect, Option } from "effect"
import { Flag } from "effect/cli"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import type { NetworkConfig } from "../../../domain/network/config.ts"
import { parseRule, splitRules } from "../../../domain/network/rules.ts"

const repeated = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.atLeast(0))

/** What `--allow-net` stands for without a rule; see `withAllowNet` (arguments.ts). */
const publicWord = "public"

/** Those that make no sense without a network. */
export const ruleFlags = {
  denyNet: repeated("deny-net", "RULE[,RULE...] that wins over every other"),
  allowHostPort: repeated("allow-host-port", "PORT of this machine's loopback, reached as host.bunker.internal:PORT"),
  inspect: repeated("inspect", "NAME[,NAME...] whose TLS is opened here, so that 'network events' shows each request"),
  addHost: repeated("add-host", "NAME:IP, what a name leads to in place of this machine's own lookup")
}

export const networkFlags = {
  allowNet: repeated(
    "allow-net",
    "Alone: all public addresses. =RULE[,RULE...]: name, *.name, IP or CIDR, each with :PORT[,PORT] and /udp where wanted"
  ),
  ...ruleFlags,
  network: Flag.String("network").pipe(Flag.withDescription("none: no network card at all, the default"), Flag.optional)
}

/** Words among them after which a value follows. */
export const valuedNetworkFlags = ["--deny-net", "--inspect", "--allow-host-port", "--add-host", "--network"] as const

/** Flags by the field of the network that they set. */
export const networkFlagOf = {
  "network.allow": "--allow-net",
  "network.deny": "--deny-net",
  "network.host_ports": "--allow-host-port",
  "network.inspect": "--inspect",
  "network.hosts": "--add-host"
} as const

export interface ParsedRules {
  readonly denyNet: ReadonlyArray<string>
  readonly allowHostPort: ReadonlyArray<string>
  readonly inspect: ReadonlyArray<string>
  readonly addHost: ReadonlyArray<string>
}

const rules = Effect.fnUntraced(function* (field: string, texts: ReadonlyArray<string>) {
  const all = texts.flatMap(splitRules)
  const wrong = all.map(parseRule).find((rule) => typeof rule === "string")
  return wrong === undefined ? all : yield* new InvalidSpec({ field, reason: wrong as string })
})

const hostPort = (text: string) => {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0
  return port >= 1 && port <= 65_535
    ? Effect.succeed(port)
    : Effect.fail(
        new InvalidSpec({ field: "--allow-host-port", reason: `"${text.slice(0, 64)}" is no port from 1 to 65535` })
      )
}

const hostEntry = (text: string) => {
  const at = text.indexOf(":")
  return at > 0 && at < text.length - 1
    ? Effect.succeed([text.slice(0, at), text.slice(at + 1)] as const)
    : Effect.fail(
        new InvalidSpec({
          field: "--add-host",
          reason: `"${text.slice(0, 64)}" is not NAME:IP, like db.local:10.0.0.5`
        })
      )
}

const given = <K extends string, V>(key: K, value: ReadonlyArray<V>) =>
  value.length === 0 ? {} : ({ [key]: value } as Record<K, ReadonlyArray<V>>)

/** What allow rules, with the word for all that is public among them, and the other flags make. */
export const readRules = Effect.fnUntraced(function* (
  field: string,
  allow: ReadonlyArray<string>,
  parsed: ParsedRules
): Effect.fn.Return<NetworkConfig, InvalidSpec> {
  const named = allow.filter((text) => text !== publicWord)
  const hosts = yield* Effect.forEach(parsed.addHost, hostEntry)
  return {
    ...(allow.includes(publicWord) ? { public: true } : {}),
    ...given("allow", yield* rules(field, named)),
    ...given("deny", yield* rules("--deny-net", parsed.denyNet)),
    ...given(
      "hostPorts",
      yield* Effect.forEach(
        parsed.allowHostPort.flatMap((text) => text.split(",")),
        hostPort
      )
    ),
    ...given(
      "inspect",
      parsed.inspect.flatMap((text) => text.split(","))
    ),
    ...(hosts.length === 0 ? {} : { hosts: Object.fromEntries(hosts) })
  }
})

interface ParsedNetwork extends ParsedRules {
  readonly allowNet: ReadonlyArray<string>
  readonly network: Option.Option<string>
}

/** The field is absent where nothing asks for a network. */
export const readNetwork = Effect.fnUntraced(function* (
  parsed: ParsedNetwork
): Effect.fn.Return<{ readonly network?: NetworkConfig }, InvalidSpec> {
  const network = yield* readRules("--allow-net", parsed.allowNet, parsed)
  const asks = Object.keys(network).length > 0
  const mode = Option.getOrUndefined(parsed.network)
  if (mode !== undefined && mode !== "none") {
    return yield* new InvalidSpec({
      field: "--network",
      reason: `"${mode.slice(0, 64)}" is no network; choose none, or leave it away and say with --allow-net what may be reached`
    })
  }
  if (mode === "none" && asks) {
    return yield* new InvalidSpec({
      field: "--network",
      reason: "none leaves nothing to allow; leave it away, or the flags for rules"
    })
  }
  return asks ? { network } : {}
})
