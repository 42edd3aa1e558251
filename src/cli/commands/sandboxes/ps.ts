/** `bunker ps`. Decides nothing: sends its messages and prints what comes back. */
import { Clock, Effect, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import type { MachineProblem } from "../../../domain/sandbox/definition.ts"
import { formatPort } from "../../../domain/sandbox/ports.ts"
import { isLive, SandboxInfo } from "../../../domain/sandbox/sandbox.ts"
import { harmless } from "../../../domain/terminalText.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { describeStatus, parseFilters } from "../../psView.ts"
import { formatAge, print, printJson, say, table } from "../../terminal/output.ts"
import { familiar } from "../../terminal/progress.ts"

const jsonFlag = flag("json", undefined, "Print JSON")

const SandboxInfos = Schema.Array(SandboxInfo)

/** Sandboxes that a list names on a line each, since it can not show them. */
const recordsNamedMax = 16

/** Says, where nothing parses it, that the list may lack something. */
const hintAtProblems = Effect.fnUntraced(function* (problems: ReadonlyArray<MachineProblem>) {
  const records = problems.filter(({ kind }) => kind === "record")
  for (const { reason } of records.slice(0, recordsNamedMax)) yield* say(harmless(`bunker: ${reason}`))
  if (records.length > recordsNamedMax)
    yield* say(`bunker: and ${records.length - recordsNamedMax} more; see 'bunker doctor'`)
  const [first, ...more] = problems.filter(({ kind }) => kind !== "unknown_keys" && kind !== "record")
  if (first === undefined) return
  const others = more.length === 0 ? "" : ` and ${more.length} more`
  const what = `${first.path}${first.line === null ? "" : `:${first.line}`}: ${first.reason}`
  yield* say(harmless(`bunker: ${what}${others}; 'bunker doctor' shows what is wrong with definitions`))
})

const commandOf = (info: SandboxInfo): string =>
  harmless([...(info.config.entrypoint ?? []), ...(info.config.command ?? [])].join(" "))

export const ps = Command.make(
  "ps",
  {
    all: flag("all", "a", "Those that have ended, too"),
    filter: Flag.String("filter").pipe(
      Flag.withAlias("f"),
      Flag.withDescription("label=KEY[=value], status=STATUS, name=PART or image=PART; may be given several times"),
      Flag.atLeast(0)
    ),
    json: jsonFlag,
    quiet: flag("quiet", "q", "Names only")
  },
  Effect.fn("Cli.ps")(function* ({ all, filter, json, quiet }) {
    const body = Effect.gen(function* () {
      const fits = yield* parseFilters(filter)
      const vms = yield* VmSupervisor
      yield* hintAtProblems(yield* vms.Problems())
      const listed = yield* vms.List()
      // Whoever asks for a status wants to see it.
      const any = all || filter.some((text) => text.startsWith("status="))
      const shown = listed.filter((info) => (any || isLive(info.status) || info.restartAt !== null) && fits(info))
      if (json) return yield* printJson(SandboxInfos, shown)
      if (quiet) return yield* Effect.forEach(shown, (info) => print(info.name), { discard: true })
      const now = yield* Clock.currentTimeMillis
      const publishes = shown.some((info) => (info.ports ?? []).length > 0)
      const rows = shown.map((info) => [
        info.name,
        familiar(info.config.image),
        describeStatus(info, now),
        info.engine ?? "-",
        formatAge(info.createdAt, now),
        ...(publishes ? [(info.ports ?? []).map(formatPort).join(", ") || "-"] : []),
        commandOf(info)
      ])
      const ports = publishes ? ["PORTS"] : []
      yield* print(table(["NAME", "IMAGE", "STATUS", "ENGINE", "CREATED", ...ports, "COMMAND"], rows))
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("List sandboxes; without -a those that run."),
  Command.withShortDescription("List sandboxes")
)
