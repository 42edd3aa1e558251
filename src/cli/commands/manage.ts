/** `stop`, `kill`, `rm`, `ps`, `inspect`, `logs`, `wait`: everything about sandboxes that are there. */
import { Clock, Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../actors/VmSupervisor.ts"
import { parseName } from "../../domain/name.ts"
import { isLive, type SandboxInfo } from "../../domain/sandbox.ts"
import { readLog } from "../../store/logs.ts"
import { Paths } from "../../store/Paths.ts"
import { formatAge, harmless, print, table, writeAll } from "../output.ts"
import { familiar } from "../progress.ts"
import { withBunker } from "../session.ts"

const names = Argument.String("name").pipe(Argument.withDescription("Sandbox"), Argument.atLeast(1))
const flag = (name: string, alias: string | undefined, description: string) => {
  const base = Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false))
  return alias === undefined ? base : base.pipe(Flag.withAlias(alias))
}
const jsonFlag = flag("json", undefined, "Print JSON")

/** Does the same to each sandbox, in order, and prints its name. */
const forEachName = <E, R>(list: ReadonlyArray<string>, act: (name: string) => Effect.Effect<unknown, E, R>) =>
  Effect.forEach(list, (name) => Effect.andThen(act(name), print(name)), { discard: true })

export const stop = Command.make(
  "stop",
  {
    time: Flag.Int("time").pipe(Flag.withDescription("Seconds until it is killed"), Flag.withDefault(10)),
    name: names
  },
  Effect.fn("Cli.stop")(function* ({ name, time }) {
    return yield* withBunker(
      VmSupervisor.use((vms) =>
        forEachName(name, (each) => vms.Stop({ name: each, timeoutMs: Math.max(0, time) * 1000 }))
      )
    )
  })
).pipe(
  Command.withDescription(
    "End sandboxes in order: the image's stop signal, then everything written out; SIGKILL when time is up."
  ),
  Command.withShortDescription("End a sandbox in order")
)

export const kill = Command.make(
  "kill",
  { name: names },
  Effect.fn("Cli.kill")(function* ({ name }) {
    return yield* withBunker(VmSupervisor.use((vms) => forEachName(name, (each) => vms.Kill({ name: each }))))
  })
).pipe(
  Command.withDescription("End sandboxes at once; what was not written out is lost."),
  Command.withShortDescription("End a sandbox at once")
)

export const remove = Command.make(
  "rm",
  { force: flag("force", "f", "Kill it first when it runs"), name: names },
  Effect.fn("Cli.rm")(function* ({ name, force }) {
    return yield* withBunker(VmSupervisor.use((vms) => forEachName(name, (each) => vms.Remove({ name: each, force }))))
  })
).pipe(
  Command.withDescription("Remove sandboxes with everything that they wrote."),
  Command.withShortDescription("Remove a sandbox")
)

const describeEnd = (info: SandboxInfo): string => {
  if (info.exitCode !== null) return ` (${info.exitCode})`
  if (info.exitSignal !== null) return ` (${info.exitSignal})`
  return info.status === "crashed" && info.terminationReason !== null ? ` (${info.terminationReason})` : ""
}

const commandOf = (info: SandboxInfo): string =>
  harmless([...(info.config.entrypoint ?? []), ...(info.config.command ?? [])].join(" "))

export const ps = Command.make(
  "ps",
  {
    all: flag("all", "a", "Those that have ended, too"),
    json: jsonFlag,
    quiet: flag("quiet", "q", "Names only")
  },
  Effect.fn("Cli.ps")(function* ({ all, json, quiet }) {
    const body = Effect.gen(function* () {
      const listed = yield* VmSupervisor.use((vms) => vms.List())
      const shown = listed.filter((info) => all || isLive(info.status))
      if (json) return yield* print(JSON.stringify(shown, null, 2))
      if (quiet) return yield* Effect.forEach(shown, (info) => print(info.name), { discard: true })
      const now = yield* Clock.currentTimeMillis
      const rows = shown.map((info) => [
        info.name,
        familiar(info.config.image),
        `${info.status}${isLive(info.status) ? "" : describeEnd(info)}`,
        info.engine ?? "-",
        formatAge(info.createdAt, now),
        commandOf(info)
      ])
      yield* print(table(["NAME", "IMAGE", "STATUS", "ENGINE", "CREATED", "COMMAND"], rows))
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("List sandboxes; without -a those that run."),
  Command.withShortDescription("List sandboxes")
)

export const inspect = Command.make(
  "inspect",
  { name: names },
  Effect.fn("Cli.inspect")(function* ({ name }) {
    const body = VmSupervisor.use((vms) => Effect.forEach(name, (each) => vms.Inspect({ name: each })))
    yield* withBunker(Effect.flatMap(body, (infos) => print(JSON.stringify(infos, null, 2))))
  })
).pipe(
  Command.withDescription("Print all that is recorded of sandboxes, as JSON."),
  Command.withShortDescription("Print a sandbox as JSON")
)

export const wait = Command.make(
  "wait",
  { name: names },
  Effect.fn("Cli.wait")(function* ({ name }) {
    const one = (each: string) =>
      Effect.flatMap(VmSupervisor, (vms) => vms.Wait({ name: each })).pipe(
        Effect.flatMap((end) => print(String(end.exitCode ?? end.exitSignal ?? end.reason)))
      )
    return yield* withBunker(Effect.forEach(name, one, { discard: true }))
  })
).pipe(
  Command.withDescription("Wait until sandboxes have ended, and print how."),
  Command.withShortDescription("Wait for the end of a sandbox")
)

export const logs = Command.make(
  "logs",
  {
    tail: Flag.Int("tail").pipe(Flag.withDescription("Only the last so many entries"), Flag.optional),
    console: flag("console", undefined, "The console of the guest's kernel and agent instead"),
    json: jsonFlag,
    name: Argument.String("name").pipe(Argument.withDescription("Sandbox"))
  },
  Effect.fn("Cli.logs")(function* (flags) {
    const body = Effect.gen(function* () {
      const info = yield* VmSupervisor.use((vms) => vms.Inspect({ name: flags.name }))
      const paths = (yield* Paths).sandbox(yield* parseName(info.name))
      if (flags.console) return yield* showFile(paths.consoleLog)
      const entries = yield* readLog(paths.mainLog)
      const last = Option.isSome(flags.tail) ? entries.slice(-Math.max(0, flags.tail.value) || entries.length) : entries
      for (const entry of last) {
        const text = {
          time: new Date(entry.time).toISOString(),
          stream: entry.stream,
          data: Buffer.from(entry.data).toString()
        }
        if (flags.json) yield* print(JSON.stringify(text))
        else if (entry.stream !== "exit") yield* writeAll(entry.stream === "stdout" ? 1 : 2, entry.data)
      }
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Show what the main command of a sandbox said: its stdout on stdout, its stderr on stderr."),
  Command.withShortDescription("Show what a sandbox said")
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
