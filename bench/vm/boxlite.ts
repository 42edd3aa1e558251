/**
 * BoxLite as a program over its npm package uses it: the package brings no command line. Boxes have 512 MiB and one vCPU, the
 * package's defaults besides, but for the jail of the monitor process (see docs/benchmarks.md).
 *
 * usage: bun boxlite.ts PACKAGE run LAYOUT COMMAND    a new box, its output; stopped and removed
 *                       PACKAGE up LAYOUT             a box named "bench" that outlives this process
 *                       PACKAGE exec COMMAND          in that box, from a process that connects to it
 *                       PACKAGE stop | rm
 *                       PACKAGE inside FILE RUNS EXECS LAYOUT COMMAND
 *
 * `inside` does it all in one living process, and appends a line like timer's to FILE for each step.
 */
import fs from "node:fs"
import path from "node:path"

/** What is used of the package: it is installed for this bench alone, out of reach of the compiler. */
interface Execution {
  readonly stdout: () => Promise<{ readonly next: () => Promise<string | null> }>
  readonly wait: () => Promise<{ readonly exitCode: number }>
}
interface Box {
  readonly exec: (command: string) => Promise<Execution>
  readonly start: () => Promise<void>
  readonly stop: () => Promise<void>
}
interface Runtime {
  readonly create: (options: object, name?: string) => Promise<Box>
  readonly get: (name: string) => Promise<Box | null>
  readonly remove: (name: string, force: boolean) => Promise<void>
}

const [directory, verb, ...rest] = process.argv.slice(2) as [string, string, ...Array<string>]
const { JsBoxlite } = (await import(path.join(directory, "dist/index.js"))) as {
  readonly JsBoxlite: { readonly withDefaultConfig: () => Runtime }
}
const runtime = JsBoxlite.withDefaultConfig()

const size = { cpus: 1, memoryMib: 512, security: { jailerEnabled: false } }
const passing = (layout: string) => runtime.create({ ...size, rootfsPath: layout, autoRemove: true })
const staying = async (layout: string): Promise<Box> => {
  const box = await runtime.create({ ...size, rootfsPath: layout, autoRemove: false, detach: true }, "bench")
  await box.start()
  return box
}
const existing = async (): Promise<Box> => {
  const box = await runtime.get("bench")
  if (box === null) throw new Error('there is no box "bench"')
  return box
}

/** Exit code 0, when the step ends without an error. */
const done = async (step: Promise<unknown>): Promise<number> => {
  await step
  return 0
}
/** Passes the output on as it comes; answers the exit code. */
const exec = async (box: Box, command: string, write: (text: string) => void): Promise<number> => {
  const execution = await box.exec(command)
  const stdout = await execution.stdout()
  for (let text = await stdout.next(); text !== null; text = await stdout.next()) write(text)
  return (await execution.wait()).exitCode
}
const run = async (layout: string, command: string, write: (text: string) => void): Promise<number> => {
  const box = await passing(layout)
  try {
    return await exec(box, command, write)
  } finally {
    await box.stop()
  }
}

/** Appends a line about one step, which is told of its output; `rssKb` and `cpu` of a step are not known here. */
const timed = async (file: string, label: string, step: (write: () => void) => Promise<number>): Promise<void> => {
  const began = performance.now()
  let first = -1
  const code = await step(() => {
    if (first < 0) first = performance.now() - began
  })
  const line = { label, first, exit: performance.now() - began, code, rssKb: 0, cpu: 0 }
  fs.appendFileSync(file, `${JSON.stringify(line)}\n`)
}

const inside = async (file: string, runs: number, execs: number, layout: string, command: string): Promise<number> => {
  const label = "boxlite-inside"
  // Of a try before this one that got stuck.
  await runtime.remove("bench", true).catch(() => undefined)
  for (let turn = 0; turn <= runs; turn++) {
    await timed(file, turn === 0 ? `warm-${label}` : label, (write) => run(layout, command, write))
  }
  if (execs === 0) return 0
  await timed(file, `${label}-up`, () => done(staying(layout)))
  const box = await existing()
  await exec(box, command, () => {})
  for (let turn = 0; turn < execs; turn++) {
    await timed(file, `${label}-exec`, (write) => exec(box, command, write))
  }
  await timed(file, `${label}-stop`, () => done(box.stop()))
  await runtime.remove("bench", true)
  return 0
}

const print = (text: string): void => void process.stdout.write(text)
const verbs: Readonly<Record<string, (...words: Array<string>) => Promise<number>>> = {
  run: (layout, command) => run(layout!, command!, print),
  up: (layout) => done(staying(layout!)),
  exec: async (command) => exec(await existing(), command!, print),
  stop: async () => done((await existing()).stop()),
  rm: () => done(runtime.remove("bench", true)),
  inside: (file, runs, execs, layout, command) => inside(file!, Number(runs), Number(execs), layout!, command!)
}
process.exitCode = await verbs[verb]!(...rest)
