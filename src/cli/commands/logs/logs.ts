/** `logs`: what a sandbox said, from its log; follows it until the sandbox ends. */

import { Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { type LogLine, parseLogTime, tailMax } from "../../../domain/sandbox/logs.ts"
import { harmless, harmlessLines } from "../../../domain/terminalText.ts"
import { withBunker } from "../../context.ts"
import { writeAll } from "../../terminal/output.ts"

const flag = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false))

/** Unix milliseconds. */
const parseTime = (field: string, text: string, nowMs: number): Effect.Effect<number, InvalidSpec> => {
  const time = parseLogTime(text, nowMs)
  if (time !== undefined) return Effect.succeed(time)
  return new InvalidSpec({
    field,
    reason: `"${text}" is no time; write 30s, 1h30m, 2026-01-31T12:00:00Z or 2026-01-31`
  })
}

/** A number of lines, undefined for all of them. */
const parseTail = (text: string): Effect.Effect<number | undefined, InvalidSpec> => {
  if (text === "all") return Effect.succeed(undefined)
  if (/^\d{1,7}$/.test(text) && Number(text) <= tailMax) return Effect.succeed(Number(text))
  return new InvalidSpec({
    field: "--tail",
    reason: `"${text}" is no number of lines from 0 to ${tailMax}; write one, or all`
  })
}

/** One entry as a line of JSON; bytes that are no UTF-8 are base64. */
const toJson = ({ time, stream, exec, text, data }: LogLine): string =>
  JSON.stringify({
    time: new Date(time).toISOString(),
    stream,
    ...(exec === 0 ? {} : { exec }),
    ...(data === undefined ? { data: text } : { data_base64: Buffer.from(data).toString("base64") })
  })

const missing = (bytes: string | undefined): string =>
  bytes === undefined || bytes === ""
    ? "something is missing here: it was rotated away before it was read"
    : `${harmless(bytes)} bytes are missing here: the disk was full or too slow`

/** Puts the time in front of each line. A line may come in pieces, and in turns with those of the other stream. */
class Stamps {
  private readonly begun = new Set<string>()

  /** Another run of a command begins lines of its own. */
  begin(exec: number): void {
    for (const stream of ["stdout", "stderr", "console"]) this.begun.delete(`${exec} ${stream}`)
  }

  stamp({ time, stream, exec }: LogLine, said: Uint8Array): Uint8Array {
    const key = `${exec} ${stream}`
    const stamp = Buffer.from(`${new Date(time).toISOString()} `)
    const pieces: Array<Uint8Array> = []
    for (let at = 0; at < said.length; ) {
      if (!this.begun.has(key)) pieces.push(stamp)
      const end = said.indexOf(newline, at)
      if (end < 0) this.begun.add(key)
      else this.begun.delete(key)
      const next = end < 0 ? said.length : end + 1
      pieces.push(said.subarray(at, next))
      at = next
    }
    return Buffer.concat(pieces)
  }
}

const newline = 0x0a

/** Follows which lines have begun and not ended, so that what another run says begins a line of its own. */
class OpenLines {
  private readonly open = new Map<string, 1 | 2>()

  said({ exec, stream }: LogLine, bytes: Uint8Array): void {
    if (bytes.length === 0) return
    if (bytes.at(-1) === newline) this.open.delete(`${exec} ${stream}`)
    else this.open.set(`${exec} ${stream}`, stream === "stderr" ? 2 : 1)
  }

  /** Where a line of an earlier run of the command is to be ended now. */
  begin(exec: number): ReadonlySet<1 | 2> {
    const ends = new Set<1 | 2>()
    for (const [key, fd] of this.open) if (key.startsWith(`${exec} `) && this.open.delete(key)) ends.add(fd)
    return ends
  }
}

/** Answers false when nobody reads. */
const show = (line: LogLine, json: boolean, lines: OpenLines, stamps: Stamps | undefined): Effect.Effect<boolean> => {
  if (json) return writeAll(1, `${harmlessLines(toJson(line))}\n`)
  const said = () => {
    const bytes = line.data ?? Buffer.from(line.text ?? "")
    lines.said(line, bytes)
    return stamps === undefined ? bytes : stamps.stamp(line, bytes)
  }
  switch (line.stream) {
    case "stdout":
    case "console":
      return writeAll(1, said())
    case "stderr":
      return writeAll(2, said())
    case "dropped":
      return writeAll(2, `bunker: ${missing(line.text)}\n`)
    case "start": {
      stamps?.begin(line.exec)
      const ends = Effect.forEach(lines.begin(line.exec), (fd) => writeAll(fd, "\n"))
      return Effect.map(ends, (written) => written.every((each) => each))
    }
    default:
      return Effect.succeed(true)
  }
}

const time = (name: string, words: string) =>
  Flag.String(name).pipe(
    Flag.withDescription(`Only what was said ${words}: 10m, 1h30m, 2026-01-31T12:00:00Z or 2026-01-31`),
    Flag.optional
  )

export const logs = Command.make(
  "logs",
  {
    follow: flag("follow", "Go on until the sandbox ends").pipe(Flag.withAlias("f")),
    tail: Flag.String("tail").pipe(
      Flag.withAlias("n"),
      Flag.withDescription("Only the last so many lines, or all"),
      Flag.optional
    ),
    timestamps: flag("timestamps", "The time in front of each line").pipe(Flag.withAlias("t")),
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
    if (exec !== undefined && flags.console) {
      return yield* new InvalidSpec({ field: "--console", reason: "--exec asks for another log; write one of them" })
    }
    const query = {
      name: flags.name,
      source: flags.console ? ("console" as const) : exec === undefined ? ("main" as const) : ("exec" as const),
      follow: flags.follow,
      ...optional("exec", exec === undefined || exec === "all" ? undefined : Number(exec)),
      ...optional("tail", Option.isSome(flags.tail) ? yield* parseTail(flags.tail.value) : undefined),
      ...optional("sinceMs", yield* timeOf("--since", flags.since)),
      ...optional("untilMs", yield* timeOf("--until", flags.until))
    }
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const stamps = flags.timestamps ? new Stamps() : undefined
      const lines = new OpenLines()
      yield* vms.Logs(query).pipe(
        Stream.mapEffect((line) => show(line, flags.json, lines, stamps)),
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
      description: "Show the last 20 lines of the last 10 minutes"
    },
    { command: "bunker logs --exec all --json box", description: "Show every exec with its number" }
  ])
)
