/**
 * Runs one command in a new sandbox through the layers of `bunker run`, and prints when each named step began and how long it took:
 * the spans that `Effect.fn` gives every public step. Loads, boots and cleans up as the CLI does; draws no progress.
 *
 * usage: bun phases/run.ts BUNKER IMAGE COMMAND [ARG...]     engine from BUNKER_ENGINE, home from BUNKER_HOME
 */
import os from "node:os"
import { Effect, Stream, Tracer } from "effect"
import { ImageStore } from "../../src/actors/images/ImageStore.ts"
import { Sweeper } from "../../src/actors/sandboxes/Sweeper.ts"
import { VmSupervisor } from "../../src/actors/sandboxes/VmSupervisor.ts"
import type { SandboxConfig } from "../../src/domain/sandbox/sandbox.ts"
import { readSettings } from "../../src/domain/settings.ts"
import { bunkerLayer } from "../../src/plugin/bunker.ts"

const loaded = performance.now()
const [bunker, image, ...argv] = process.argv.slice(2) as [string, string, string, ...Array<string>]
const settings = readSettings(process.env, process.cwd(), os.homedir())

interface Step {
  readonly name: string
  readonly depth: number
  readonly began: number
  ended: number | undefined
}

const steps: Array<Step> = []
const depths = new Map<string, number>()

/** Keeps every span with the times of this process's clock: milliseconds since it started. */
const tracer = Tracer.make({
  span: (options) => {
    const span = new Tracer.NativeSpan(options)
    const parent = options.parent._tag === "Some" ? (depths.get(options.parent.value.spanId) ?? 0) : -1
    const step: Step = { name: options.name, depth: parent + 1, began: performance.now(), ended: undefined }
    depths.set(span.spanId, step.depth)
    steps.push(step)
    const end = span.end.bind(span)
    span.end = (time, exit) => {
      step.ended = performance.now()
      end(time, exit)
    }
    return span
  }
})

const config: SandboxConfig = {
  image,
  command: argv,
  env: [],
  cpus: 1,
  memoryMb: 512,
  diskMb: 4096,
  engine: settings.engine === "krun" ? "krun" : "qemu",
  endsWithCommand: true,
  labels: {}
}

let firstOutput: number | undefined

const body = Effect.gen(function* () {
  const vms = yield* VmSupervisor
  const images = yield* ImageStore
  yield* Effect.withSpan(
    Sweeper.use((sweeper) => Effect.ignore(sweeper.Sweep({ force: false }))),
    "step: sweep"
  )
  yield* Stream.runDrain(images.Pull({ reference: image, policy: "never" })).pipe(Effect.withSpan("step: ensure image"))
  yield* images.Inspect({ reference: image }).pipe(Effect.withSpan("step: inspect image"))
  const info = yield* vms.Create({ ephemeral: true, config }).pipe(Effect.withSpan("step: create"))
  yield* vms.Start({ name: info.name, detached: false }).pipe(Effect.withSpan("step: start"))
  const request = { argv: argv as [string, ...Array<string>], env: [], tty: null, stdin: false }
  yield* vms.Exec({ name: info.name, request }).pipe(
    Stream.runForEach((event) =>
      Effect.sync(() => {
        if (event._tag === "Stdout") firstOutput ??= performance.now()
      })
    ),
    Effect.withSpan("step: exec")
  )
  yield* vms.Finish({ name: info.name, exitCode: 0 }).pipe(Effect.withSpan("step: finish"))
})

await Effect.runPromise(
  Effect.provideService(
    Effect.provide(
      body,
      bunkerLayer(settings, { command: [bunker], agentPath: settings.agent ?? "", mountHelperPath: "" })
    ).pipe(Effect.withSpan("layers and body")),
    Tracer.Tracer,
    tracer
  )
)
const done = performance.now()
const ms = (value: number | undefined) => (value?.toFixed(1) ?? "-").padStart(8)
console.log(`${ms(0)} ${ms(loaded)}  modules loaded`)
for (const { name, depth, began, ended } of steps) {
  console.log(`${ms(began)} ${ms(ended === undefined ? undefined : ended - began)}  ${"  ".repeat(depth)}${name}`)
}
console.log(`${ms(firstOutput)} ${ms(undefined)}  first output\n${ms(done)} ${ms(undefined)}  done`)
process.exit(0)
