/** `logs`: what a sandbox said, from its log; follows it until the sandbox ends. */
import { Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../actors/VmSupervisor.ts"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import type { LogLine } from "../../domain/logs.ts"
import { harmless, writeAll } from "../output.ts"
import { withBunker } from "../session.ts"

const flag = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false))

const secondsOf: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 }

/** `10m`, or a date and time: unix milliseconds. */
const parseTime = (field: string, text: string, nowMs: number): Effect.Effect<number, InvalidSpec> => {
  const ago = /^(\d+)([smhd])$/.exec(text)
  const time = ago === null ? Date.parse(text) : nowMs - Number(ago[1]) * secondsOf[ago[2]!]! * 1000
  return Number.isNaN(time)
    ? Effect.fail(
        new InvalidSpec({
          field,
          reason: `"${text}" is no time; write 30s, 10m, 2h or 2026-01-31T12:00:00Z`
        })
      )
    : Effect.succeed(Math.max(0, Math.round(time)))
}

/** One entry as a line of JSON; bytes that are no UTF-8 are base64. */
const toJson = ({ time, stream, exec, text, data }: LogLine): string =>
  JSON.stringify({
    time: new Date(time).toISOString(),
    stream,
    ...(exec === 0 ? {} : { exec }),
    ...(data === undefined ? { data: text } : { data_base64: Buffer.from(data).toString("base64") })
  })

/** Answers false when nobody reads. */
const show = (line: LogLine, json: boolean): Effect.Effect<boolean> => {
  if (json) return writeAll(1, `${toJson(line)}\n`)
  const said = line.data ?? line.text ?? ""
  switch (line.stream) {
    case "stdout":
    case "console":
      return writeAll(1, said)
    case "stderr":
      return writeAll(2, said)
    case "dropped":
      return writeAll(2, `bunker: ${harmless(line.text ?? "some")} bytes are missing here: the disk was too slow\n`)
    default:
      return Effect.succeed(true)
  }
}

const time = (name: string, words: string) =>
  Flag.String(name).pipe(
    Flag.withDescription(`Only what was said ${words}: 10m, 2h or 2026-01-31T12:00:00Z`),
    Flag.optional
  )

export const logs = Command.make(
  "logs",
  {
    follow: flag("follow", "Go on until the sandbox ends").pipe(Flag.withAlias("f")),
    tail: Flag.Int("tail").pipe(
      Flag.withAlias("n"),
      Flag.withDescription("Only the last so many entries"),
      Flag.optional
    ),
    since: time("since", "since"),
    until: time("until", "before"),
    exec: Flag.String("exec").pipe(
      Flag.withDescription("What the exec of this number said in place of the main command; 'all' for every exec"),
      Flag.optional
    ),
    console: flag("console", "The console of the guest's kernel and agent instead"),
    json: flag("json", "Print JSON lines with time, stream and exec"),
    name: Argument.String("name").pipe(Argument.withDescription("Sandbox"))
  },
  Effect.fn("Cli.logs")(function* (flags) {
    const now = Date.now()
    const optional = <K extends string, V>(key: K, value: V | undefined) =>
      value === undefined ? {} : ({ [key]: value } as Record<K, V>)
    const timeOf = (field: string, value: Option.Option<string>) =>
      Option.isSome(value) ? parseTime(field, value.value, now) : Effect.succeed(undefined)
    const exec = Option.getOrUndefined(flags.exec)
    if (exec !== undefined && exec !== "all" && !/^\d{1,15}$/.test(exec)) {
      return yield* new InvalidSpec({ field: "--exec", reason: `"${exec}" is no number; write one, or all` })
    }
    const query = {
      name: flags.name,
      source: flags.console ? ("console" as const) : exec === undefined ? ("main" as const) : ("exec" as const),
      follow: flags.follow,
      ...optional("exec", exec === undefined || exec === "all" || flags.console ? undefined : Number(exec)),
      ...optional("tail", Option.getOrUndefined(Option.map(flags.tail, (count) => Math.max(0, count)))),
      ...optional("sinceMs", yield* timeOf("--since", flags.since)),
      ...optional("untilMs", yield* timeOf("--until", flags.until))
    }
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      yield* vms.Logs(query).pipe(
        Stream.mapEffect((line) => show(line, flags.json)),
        Stream.takeWhile((heard) => heard),
        Stream.runDrain
      )
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Show what the main command of a sandbox said: its stdout on stdout, its stderr on stderr. The logs of sandboxes that ended or crashed are kept until 'bunker rm'; those of one that did not boot until they were read, or an hour."
  ),
  Command.withShortDescription("Show what a sandbox said"),
  Command.withExamples([
    { command: "bunker logs -f box", description: "Show everything, then what comes" },
    {
      command: "bunker logs --tail 20 --since 10m box",
      description: "Show the last 20 entries of the last 10 minutes"
    },
    { command: "bunker logs --exec all --json box", description: "Show every exec with its number" }
  ])
)
