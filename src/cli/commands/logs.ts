/** `logs`: what a sandbox said, from its log; follows it until the sandbox ends. */
import { Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../actors/VmSupervisor.ts"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import { parseName } from "../../domain/name.ts"
import { isLive } from "../../domain/sandbox.ts"
import { followLog } from "../../store/followLog.ts"
import type { LogEntry } from "../../store/logs.ts"
import { Paths } from "../../store/Paths.ts"
import { writeAll } from "../output.ts"
import { withBunker } from "../session.ts"

const flag = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false))

const secondsOf: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 }

/** `10m`, or a date and time: unix milliseconds. */
const parseSince = (text: string, nowMs: number): Effect.Effect<number, InvalidSpec> => {
  const ago = /^(\d+)([smhd])$/.exec(text)
  const time = ago === null ? Date.parse(text) : nowMs - Number(ago[1]) * secondsOf[ago[2]!]! * 1000
  return Number.isNaN(time)
    ? Effect.fail(
        new InvalidSpec({
          field: "--since",
          reason: `"${text}" is no time; write 30s, 10m, 2h or 2026-01-31T12:00:00Z`
        })
      )
    : Effect.succeed(time)
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** One entry as a line of JSON; bytes that are no UTF-8 are base64. */
const toJson = ({ time, stream, data }: LogEntry): string => {
  const at = new Date(time).toISOString()
  try {
    return JSON.stringify({ time: at, stream, data: strict.decode(data) })
  } catch {
    return JSON.stringify({ time: at, stream, data_base64: Buffer.from(data).toString("base64") })
  }
}

/** Answers false when nobody reads. */
const show = Effect.fnUntraced(function* (entries: ReadonlyArray<LogEntry>, json: boolean) {
  for (const entry of entries) {
    if (!json && entry.stream === "exit") continue
    const written = json
      ? yield* writeAll(1, `${toJson(entry)}\n`)
      : yield* writeAll(entry.stream === "stdout" ? 1 : 2, entry.data)
    if (!written) return false
  }
  return true
})

export const logs = Command.make(
  "logs",
  {
    follow: flag("follow", "Go on until the sandbox ends").pipe(Flag.withAlias("f")),
    tail: Flag.Int("tail").pipe(
      Flag.withAlias("n"),
      Flag.withDescription("Only the last so many entries"),
      Flag.optional
    ),
    since: Flag.String("since").pipe(
      Flag.withDescription("Only what was said since: 10m, 2h or 2026-01-31T12:00:00Z"),
      Flag.optional
    ),
    console: flag("console", "The console of the guest's kernel and agent instead"),
    json: flag("json", "Print JSON lines with time and stream"),
    name: Argument.String("name").pipe(Argument.withDescription("Sandbox"))
  },
  Effect.fn("Cli.logs")(function* (flags) {
    const since = Option.isSome(flags.since) ? yield* parseSince(flags.since.value, Date.now()) : 0
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const inspect = vms.Inspect({ name: flags.name })
      const paths = (yield* Paths).sandbox(yield* parseName((yield* inspect).name))
      if (flags.console) return yield* showFile(paths.consoleLog)
      const log = yield* followLog(paths.mainLog)
      const live = Effect.map(inspect, (info) => isLive(info.status)).pipe(
        Effect.catchTag("SandboxNotFound", () => Effect.succeed(false))
      )
      // Asked before the log is read: what was said until the end is there when it says no.
      let alive = flags.follow && (yield* live)
      const before = (yield* log.next).filter((entry) => entry.time >= since)
      const skipped = Option.isSome(flags.tail) ? Math.max(0, before.length - Math.max(0, flags.tail.value)) : 0
      let heard = yield* show(before.slice(skipped), flags.json)
      for (let turn = 1; alive && heard; turn += 1) {
        yield* Effect.sleep("100 millis")
        // The record is dearer to read than the log.
        alive = turn % 5 !== 0 || (yield* live)
        heard = yield* show(yield* log.next, flags.json)
      }
    })
    return yield* withBunker(Effect.scoped(body))
  })
).pipe(
  Command.withDescription(
    "Show what the main command of a sandbox said: its stdout on stdout, its stderr on stderr. The logs of sandboxes that ended or crashed are kept until 'bunker rm'."
  ),
  Command.withShortDescription("Show what a sandbox said"),
  Command.withExamples([
    { command: "bunker logs -f box", description: "Show everything, then what comes" },
    { command: "bunker logs --tail 20 --since 10m box", description: "Show the last 20 entries of the last 10 minutes" }
  ])
)

const showFile = (file: string) =>
  Effect.promise(() =>
    Bun.file(file)
      .bytes()
      .catch(() => new Uint8Array())
  ).pipe(
    Effect.flatMap((bytes) => writeAll(1, bytes)),
    Effect.asVoid
  )
