/**
 * Feeds hostile inputs to what reads images. An input whose outcome was not seen before joins those that are mutated further; a
 * finding, also one that never ends, is written to test/fuzz/findings, and the process ends with 1.
 *
 * usage: bun run fuzz [TARGET...] [--seconds N (60, for all)] [--seed N] [--keep (adds what was new to the corpus)]
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { parseArgs } from "node:util"
import { corpusOf, fuzz } from "./fuzz.ts"
import { type Target, targets } from "./targets.ts"

/** An input that takes so long will never end, in milliseconds. */
const stuckMs = 60_000
/** Inputs of a target that are added to the corpus at most, and their longest. */
const corpusMax = 40
const corpusBytesMax = 32_768

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 31)) },
    keep: { type: "boolean", default: false }
  }
})

const tell = (target: string, input: Uint8Array, reason: string): void => {
  const file = path.join(import.meta.dir, "findings", `${target}-${Bun.hash(input).toString(16)}`)
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(file, input)
  console.log(`  ${path.relative(process.cwd(), file)}: ${reason}`)
}

/** Adds the smallest of what had an outcome of its own. */
const keep = (target: string, pool: ReadonlyArray<Uint8Array>): void => {
  const small = pool.filter(({ length }) => length <= corpusBytesMax).toSorted((a, b) => a.length - b.length)
  for (const input of small.slice(0, corpusMax)) {
    const file = path.join(corpusOf(target), `${Bun.hash(input).toString(16)}.zst`)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(file, Bun.zstdCompressSync(input, { level: 19 }))
  }
}

/** Fuzzes one target in `place`; answers whether nothing was found. */
const fuzzOne = async (target: Target, place: string, seconds: number): Promise<boolean> => {
  const untilMs = Date.now() + seconds * 1000
  const { findings, outcomes, pool, runs } = await fuzz(target, Number(values.seed), place, () => Date.now() < untilMs)
  console.log(`${target.name}: ${runs} inputs, ${outcomes.size} outcomes, ${findings.length} findings`)
  for (const { input, reason } of findings) tell(target.name, input, reason)
  if (values.keep) keep(target.name, pool)
  return findings.length === 0
}

/** Fuzzes one target in a process of its own, and sees from outside when it no longer gets on. */
const watch = async (target: Target, seconds: number): Promise<boolean> => {
  const place = fs.mkdtempSync(path.join(os.tmpdir(), "bk-fuzz-"))
  const options = ["--seconds", String(seconds), "--seed", values.seed, ...(values.keep ? ["--keep"] : [])]
  const child = Bun.spawn([process.execPath, import.meta.path, target.name, ...options], {
    env: { ...process.env, BUNKER_FUZZ_PLACE: place },
    stdio: ["ignore", "inherit", "inherit"]
  })
  const current = path.join(place, "current")
  const timer = setInterval(() => {
    const stat = fs.statSync(current, { throwIfNoEntry: false })
    if (child.killed || stat === undefined || Date.now() - stat.mtimeMs < stuckMs) return
    tell(target.name, fs.readFileSync(current), `it does not end within ${stuckMs / 1000} s`)
    child.kill("SIGKILL")
  }, 1000)
  const code = await child.exited
  clearInterval(timer)
  fs.rmSync(place, { recursive: true, force: true })
  return code === 0
}

const chosen = targets.filter(({ name }) => positionals.length === 0 || positionals.includes(name))
const unknown = positionals.filter((name) => !targets.some((target) => target.name === name))
if (unknown.length > 0) {
  console.error(`fuzz: no target ${unknown.join(", ")}; there are ${targets.map(({ name }) => name).join(", ")}`)
  process.exit(2)
}
const place = process.env["BUNKER_FUZZ_PLACE"]
if (place === undefined) console.log(`seed ${values.seed}`)
let clean = true
for (const target of chosen) {
  const seconds = Number(values.seconds) / chosen.length
  clean = (await (place === undefined ? watch(target, seconds) : fuzzOne(target, place, seconds))) && clean
}
process.exit(clean ? 0 : 1)
