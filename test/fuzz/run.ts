/**
 * Feeds hostile inputs to what reads images. An input whose outcome was not seen before joins those that are mutated further; a
 * finding is written to test/fuzz/findings, and the process ends with 1.
 *
 * usage: bun run fuzz [TARGET...] [--seconds N (60, for all)] [--seed N] [--keep (adds what was new to the corpus)]
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { parseArgs } from "node:util"
import { corpusOf, fuzz } from "./fuzz.ts"
import { targets } from "./targets.ts"

/** Inputs of a target that are added to the corpus at most. */
const corpusMax = 40

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 31)) },
    keep: { type: "boolean", default: false }
  }
})
const chosen = targets.filter(({ name }) => positionals.length === 0 || positionals.includes(name))
const unknown = positionals.filter((name) => !targets.some((target) => target.name === name))
if (unknown.length > 0) {
  console.error(`fuzz: no target ${unknown.join(", ")}; there are ${targets.map(({ name }) => name).join(", ")}`)
  process.exit(2)
}
const place = fs.mkdtempSync(path.join(os.tmpdir(), "bk-fuzz-"))
let failed = false
console.log(`seed ${values.seed}`)
try {
  for (const target of chosen) {
    const untilMs = Date.now() + (Number(values.seconds) * 1000) / chosen.length
    const { findings, outcomes, pool, runs } = await fuzz(
      target,
      Number(values.seed),
      place,
      () => Date.now() < untilMs
    )
    console.log(`${target.name}: ${runs} inputs, ${outcomes.size} outcomes, ${findings.length} findings`)
    for (const { input, reason } of findings) {
      failed = true
      const file = path.join(import.meta.dir, "findings", `${target.name}-${Bun.hash(input).toString(16)}`)
      fs.mkdirSync(path.dirname(file), { recursive: true })
      fs.writeFileSync(file, input)
      console.log(`  ${path.relative(process.cwd(), file)}: ${reason}`)
    }
    if (values.keep) for (const input of small(pool)) keep(target.name, input)
  }
} finally {
  fs.rmSync(place, { recursive: true, force: true })
}
process.exit(failed ? 1 : 0)

/** The smallest of what had an outcome of its own. */
function small(pool: ReadonlyArray<Uint8Array>): ReadonlyArray<Uint8Array> {
  return pool
    .filter(({ length }) => length <= 32_768)
    .toSorted((a, b) => a.length - b.length)
    .slice(0, corpusMax)
}

function keep(target: string, input: Uint8Array): void {
  const file = path.join(corpusOf(target), `${Bun.hash(input).toString(16)}.zst`)
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(file, Bun.zstdCompressSync(input, { level: 19 }))
}
