/** `network events|suggest|update`: what a sandbox's network denied, which rules would do, and other rules for it. */
import { Effect, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { NetworkConfig } from "../../../domain/network/config.ts"
import { formatEvent, NetworkEvent } from "../../../domain/network/events.ts"
import { Suggestion } from "../../../domain/network/suggest.ts"
import { harmless, harmlessLines } from "../../../domain/terminalText.ts"
import { toWire } from "../../../domain/wire.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { print, printJson, say, writeAll } from "../../terminal/output.ts"
import { readRules, ruleFlags } from "./networkFlags.ts"

const name = Argument.String("name").pipe(Argument.withDescription("Sandbox"))

/** Time in front, the rest as a run in the foreground says it. */
const line = (event: NetworkEvent): string => `${new Date(event.at).toISOString()} ${harmless(formatEvent(event))}\n`

const events = Command.make(
  "events",
  {
    follow: flag("follow", "f", "Go on until the sandbox has ended"),
    json: flag("json", undefined, "Print one line of JSON for each event"),
    name
  },
  Effect.fn("Cli.networkEvents")(function* ({ follow, json, name: sandbox }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const show = (event: NetworkEvent) =>
        writeAll(1, harmlessLines(json ? `${JSON.stringify(toWire(NetworkEvent, event))}\n` : line(event)))
      yield* vms.NetworkEvents({ name: sandbox, follow }).pipe(Stream.runForEachWhile(show))
    })
    yield* withBunker(body)
  })
).pipe(
  Command.withDescription("What a sandbox's network denied, was used for, and failed at, oldest first."),
  Command.withShortDescription("What was denied and used")
)

/** Addresses at which clouds hand credentials to whatever asks on the machine. */
const isMetadata = (rule: string): boolean =>
  /^(169\.254\.169\.254|100\.100\.100\.200|168\.63\.129\.16|\[?fd00:ec2::254)/.test(rule)

const suggest = Command.make(
  "suggest",
  { json: flag("json", undefined, "Print JSON"), name },
  Effect.fn("Cli.networkSuggest")(function* ({ json, name: sandbox }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const found = yield* vms.NetworkSuggest({ name: sandbox })
      if (json) return yield* printJson(Suggestion, found)
      const allow = found.allow.length === 0 ? [] : [`--allow-net=${found.allow.join(",")}`]
      const ports = found.hostPorts.map((port) => `--allow-host-port=${port}`)
      const words = [...allow, ...ports]
      if (words.length === 0) yield* say("bunker: nothing was denied or used that its rules do not name already")
      else yield* print(harmless(words.join(" ")))
      for (const rule of found.denied)
        yield* say(`bunker: the rule --deny-net=${harmless(rule)} denied some of it, and wins`)
      for (const rule of found.allow.filter(isMetadata)) {
        yield* say(`bunker: ${rule} hands out credentials of this machine in clouds; allow it only if that is meant`)
      }
    })
    yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Print the shortest rules that would have let through what was denied to a sandbox, and all that it used."
  ),
  Command.withShortDescription("The rules that would have sufficed")
)

const update = Command.make(
  "update",
  {
    allow: Flag.String("allow").pipe(
      Flag.withDescription("RULE[,RULE...] as for --allow-net, or public for all public addresses"),
      Flag.atLeast(0)
    ),
    deny: Flag.String("deny").pipe(Flag.withDescription("RULE[,RULE...] that wins over every other"), Flag.atLeast(0)),
    allowHostPort: ruleFlags.allowHostPort,
    inspect: ruleFlags.inspect,
    addHost: ruleFlags.addHost,
    replace: flag("replace", undefined, "Take these rules alone; default: add them to those that there are"),
    name
  },
  Effect.fn("Cli.networkUpdate")(function* ({ allow, deny, replace, name: sandbox, ...rest }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const network = yield* readRules("--allow", allow, { ...rest, denyNet: deny })
      const now = yield* vms.NetworkUpdate({ name: sandbox, network, replace })
      yield* printJson(NetworkConfig, now)
    })
    yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Change the rules of a sandbox's network and print them. In a running one they hold at once: connections that are denied now are reset."
  ),
  Command.withShortDescription("Change the rules, also while it runs"),
  Command.withExamples([
    { command: "bunker network update box --allow registry.npmjs.org:443", description: "Let it reach one more host" },
    { command: "bunker network update box --replace", description: "Take every rule away" }
  ])
)

export const networkGroup = Command.make("network").pipe(
  Command.withDescription("What a sandbox's network may reach, and what it did."),
  Command.withSubcommands([events, suggest, update])
)
