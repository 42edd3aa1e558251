/** `stats`: what running sandboxes use, once or every second. */
import { Effect, Schema, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { SandboxStats } from "../../../domain/sandbox/stats.ts"
import { toWire } from "../../../domain/wire.ts"
import { withBunker } from "../../context.ts"
import { ExitWith, forEachName, formatBytes, print, printJson, table } from "../../terminal/output.ts"

const head = ["NAME", "CPU", "GUEST MEMORY", "HOST MEMORY", "GUEST DISK", "HOST DISK", "NET IN", "NET OUT", "COMMANDS"]

/** Share of the time between two samples in which the guest's processors were busy. */
const cpuShare = (now: SandboxStats, before: SandboxStats | undefined): string => {
  const since = now.uptimeMs - (before?.uptimeMs ?? 0)
  const busy = now.guestCpuMs - (before?.guestCpuMs ?? 0)
  return since <= 0 ? "-" : `${((100 * busy) / since).toFixed(1)}%`
}

const row = (now: SandboxStats, before: SandboxStats | undefined): ReadonlyArray<string> => [
  now.name,
  cpuShare(now, before),
  `${formatBytes(now.guestMemoryUsed)} / ${formatBytes(now.guestMemoryTotal)}`,
  formatBytes(now.hostMemory),
  `${formatBytes(now.guestDiskUsed)} / ${formatBytes(now.guestDiskTotal)}`,
  formatBytes(now.hostDisk),
  formatBytes(now.networkReceived),
  formatBytes(now.networkSent),
  String(now.commands)
]

export const stats = Command.make(
  "stats",
  {
    watch: Flag.Boolean("watch").pipe(
      Flag.withAlias("w"),
      Flag.withDescription("Go on, once a second, until the sandboxes end"),
      Flag.withDefault(false)
    ),
    noStream: Flag.Boolean("no-stream").pipe(
      Flag.withDescription("Show them once; the default without -w"),
      Flag.withDefault(false)
    ),
    json: Flag.Boolean("json").pipe(
      Flag.withDescription("Print JSON, with -w one line for each sample"),
      Flag.withDefault(false)
    ),
    name: Argument.String("name").pipe(Argument.withDescription("Sandbox; default: all that run"), Argument.variadic())
  },
  Effect.fn("Cli.stats")(function* ({ watch, noStream, json, name }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const names =
        name.length > 0
          ? name
          : (yield* vms.List())
              .filter((info) => info.status === "running" || info.status === "paused")
              .map((info) => info.name)
      if (watch && !noStream) return yield* follow(vms, names, json)
      const found = new Map<string, SandboxStats>()
      const one = (each: string) =>
        Stream.runForEach(vms.Stats({ name: each, watch: false }), (sample) =>
          Effect.sync(() => found.set(each, sample))
        )
      const show = Effect.suspend(() => {
        const samples = names.flatMap((each) => found.get(each) ?? [])
        if (json) return printJson(Schema.Array(SandboxStats), samples)
        return print(
          table(
            head,
            samples.map((sample) => row(sample, undefined))
          )
        )
      })
      yield* forEachName(names, one, { concurrency: 8 }).pipe(Effect.ensuring(show))
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Show what running sandboxes use: processor time (the share since they booted; with -w of the last second), memory as the guest and as the host sees it, disk, network, commands."
  ),
  Command.withShortDescription("Show what sandboxes use")
)

/** All samples of a second under each other; on a terminal in the same place. */
const follow = Effect.fnUntraced(function* (vms: VmSupervisor["Service"], names: ReadonlyArray<string>, json: boolean) {
  const last = new Map<string, SandboxStats>()
  const rows = new Map<string, ReadonlyArray<string>>()
  let lines = 0
  const take = (sample: SandboxStats) => {
    if (json) return print(JSON.stringify(toWire(SandboxStats, sample)))
    rows.set(sample.name, row(sample, last.get(sample.name)))
    last.set(sample.name, sample)
    if (rows.size < names.length) return Effect.void
    const up = process.stdout.isTTY && lines > 0 ? `\x1b[${lines}A\x1b[J` : ""
    lines = rows.size + 1
    const shown = table(
      head,
      names.flatMap((name) => (rows.has(name) ? [rows.get(name)!] : []))
    )
    rows.clear()
    return print(`${up}${shown}`)
  }
  const streams = names.map((name) => vms.Stats({ name, watch: true }))
  const ended = yield* Effect.exit(Stream.runForEach(Stream.mergeAll(streams, { concurrency: "unbounded" }), take))
  if (names.length === 0) return yield* new ExitWith({ code: 0 })
  return yield* ended
})
