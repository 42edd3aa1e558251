/** `stop`, `kill`, `pause`, `rm`, `ps`, `inspect`, `wait`: everything about sandboxes that are there. */

import { Clock, Effect, Fiber, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ImageStore } from "../../actors/images/ImageStore.ts"
import { VmSupervisor } from "../../actors/sandboxes/VmSupervisor.ts"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import { ImageInspection } from "../../domain/image/image.ts"
import type { MachineProblem } from "../../domain/sandbox/definition.ts"
import { formatPort } from "../../domain/sandbox/ports.ts"
import { isLive, SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { parseSignal } from "../../domain/sandbox/signals.ts"
import { harmless } from "../../domain/terminalText.ts"
import { withBunker } from "../context.ts"
import { flag } from "../flags.ts"
import { readEndTime } from "../ioFlags.ts"
import { describeStatus, parseFilters } from "../psView.ts"
import { forEachName, formatAge, print, printJson, say, sayWarnings, table } from "../terminal/output.ts"
import { familiar } from "../terminal/progress.ts"

const names = Argument.String("name").pipe(Argument.withDescription("Sandbox"), Argument.atLeast(1))
const jsonFlag = flag("json", undefined, "Print JSON")

/** Names that are acted on at the same time. */
const atOnce = { concurrency: 8 }

/** Does the same to each sandbox and prints the name of each that it was done to. */
const toEach = <E extends { readonly message: string }, R>(
  list: ReadonlyArray<string>,
  act: (name: string) => Effect.Effect<unknown, E, R>
) => forEachName(list, (name) => Effect.andThen(act(name), print(name)), atOnce)

/** What a stop has nothing to do for: it is as it was to be. */
const standsStill: ReadonlySet<string> = new Set(["created", "stopped", "crashed"])

export const stop = Command.make(
  "stop",
  {
    time: Flag.Int("time").pipe(
      Flag.withAlias("t"),
      Flag.withDescription("Seconds until it is killed; default 10"),
      Flag.withDefault(10)
    ),
    drain: flag("drain", undefined, "Let the commands that run end first, and take no new ones"),
    name: names
  },
  Effect.fn("Cli.stop")(function* ({ drain, name, time }) {
    const timeoutMs = yield* readEndTime(time)
    const ask = (vms: VmSupervisor["Service"], each: string) =>
      drain ? vms.Drain({ name: each, timeoutMs }) : vms.Stop({ name: each, timeoutMs })
    const end = (vms: VmSupervisor["Service"], each: string) =>
      Effect.catchTag(Effect.asVoid(ask(vms, each)), "WrongState", (error) =>
        standsStill.has(error.status)
          ? say(`bunker: ${each} is ${error.status === "created" ? "not started yet" : error.status}; nothing to stop`)
          : Effect.fail(error)
      )
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => end(vms, each))))
  })
).pipe(
  Command.withDescription(
    "End sandboxes in order: the image's stop signal, then everything written out; SIGKILL when time is up."
  ),
  Command.withShortDescription("End a sandbox in order")
)

export const restart = Command.make(
  "restart",
  {
    time: Flag.Int("time").pipe(
      Flag.withAlias("t"),
      Flag.withDescription("Seconds until it is killed; default 10"),
      Flag.withDefault(10)
    ),
    name: names
  },
  Effect.fn("Cli.restart")(function* ({ name, time }) {
    const timeoutMs = yield* readEndTime(time)
    const again = (vms: VmSupervisor["Service"], each: string) =>
      Effect.tap(vms.Restart({ name: each, timeoutMs }), sayWarnings)
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => again(vms, each))))
  })
).pipe(
  Command.withDescription("Stop sandboxes in order where they run, and boot them in the background."),
  Command.withShortDescription("Stop and boot a sandbox")
)

export const pause = Command.make(
  "pause",
  { name: names },
  Effect.fn("Cli.pause")(function* ({ name }) {
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => vms.Pause({ name: each }))))
  })
).pipe(
  Command.withDescription(
    "Make sandboxes stand still, with their memory and their connections, until 'bunker unpause'. Idle time does not count meanwhile; the longest life does. Stop, kill and rm -f end a paused sandbox, too."
  ),
  Command.withShortDescription("Make a sandbox stand still")
)

export const unpause = Command.make(
  "unpause",
  { name: names },
  Effect.fn("Cli.unpause")(function* ({ name }) {
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => vms.Unpause({ name: each }))))
  })
).pipe(
  Command.withDescription("Let paused sandboxes run on, with the right time."),
  Command.withShortDescription("Let a paused sandbox run on")
)

export const touch = Command.make(
  "touch",
  { name: names },
  Effect.fn("Cli.touch")(function* ({ name }) {
    return yield* withBunker(VmSupervisor.use((vms) => forEachName(name, (each) => vms.Touch({ name: each }))))
  })
).pipe(
  Command.withDescription("Say that sandboxes are used: the time after which --idle-timeout ends them begins anew."),
  Command.withShortDescription("Keep a sandbox from idling")
)

const SIGKILL = 9
/** Number of the main command among the commands of a sandbox. */
const mainExec = 0

export const kill = Command.make(
  "kill",
  {
    signal: Flag.String("signal").pipe(
      Flag.withAlias("s"),
      Flag.withDescription("Send this signal to the main command, and leave the sandbox; KILL, the default, ends it"),
      Flag.withDefault("KILL")
    ),
    name: names
  },
  Effect.fn("Cli.kill")(function* ({ name, signal }) {
    const number = parseSignal(signal)
    if (number === undefined) {
      return yield* new InvalidSpec({ field: "--signal", reason: `"${signal}" is no signal; write TERM, HUP or 15` })
    }
    const act = (vms: VmSupervisor["Service"], each: string) =>
      number === SIGKILL
        ? Effect.asVoid(vms.Kill({ name: each }))
        : vms.Signal({ name: each, exec: mainExec, signal: number })
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => act(vms, each))))
  })
).pipe(
  Command.withDescription("End sandboxes at once; what was not written out is lost."),
  Command.withShortDescription("End a sandbox at once")
)

export const remove = Command.make(
  "rm",
  {
    force: flag("force", "f", "Kill it first when it runs"),
    volumes: flag("volumes", "v", "Taken for habit's sake: what a sandbox wrote goes with it, other directories stay"),
    name: names
  },
  Effect.fn("Cli.rm")(function* ({ name, force }) {
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => vms.Remove({ name: each, force }))))
  })
).pipe(
  Command.withDescription("Remove sandboxes with everything that they wrote."),
  Command.withShortDescription("Remove a sandbox")
)

const SandboxInfos = Schema.Array(SandboxInfo)
const Inspected = Schema.Array(Schema.Union([SandboxInfo, ImageInspection]))

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

export const inspect = Command.make(
  "inspect",
  { name: names },
  Effect.fn("Cli.inspect")(function* ({ name }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const found: Array<SandboxInfo | ImageInspection> = []
      const image = (reference: string) => ImageStore.use((images) => images.Inspect({ reference }))
      const one = (each: string) =>
        vms.Inspect({ name: each }).pipe(
          // What names no sandbox may name an image; when it does not, a sandbox was meant.
          Effect.catchTag(["SandboxNotFound", "InvalidName"], (error) => Effect.mapError(image(each), () => error)),
          Effect.map((info) => found.push(info))
        )
      yield* forEachName(name, one).pipe(Effect.ensuring(Effect.suspend(() => printJson(Inspected, found))))
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Print all that is recorded of sandboxes, or of images, as JSON."),
  Command.withShortDescription("Print a sandbox as JSON")
)

export const wait = Command.make(
  "wait",
  { name: names },
  Effect.fn("Cli.wait")(function* ({ name }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      // All at once: one that is gone with its end could not be asked later. Said in the order of the names.
      const waiting = yield* Effect.forEach(name, (each) =>
        Effect.forkChild(Effect.exit(vms.Wait({ name: each })), { startImmediately: true })
      )
      const one = (_name: string, index: number) =>
        Fiber.join(waiting[index]!).pipe(
          Effect.flatten,
          Effect.flatMap((end) => print(String(end.exitCode ?? end.exitSignal ?? end.reason)))
        )
      yield* forEachName(name, one)
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Wait until sandboxes have ended, and print the exit code, signal or reason of each."),
  Command.withShortDescription("Wait for the end of a sandbox")
)
