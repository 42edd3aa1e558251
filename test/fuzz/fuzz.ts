/** The loop of the fuzzer: mutates what is in the pool, and adds to it what had a new outcome. */
import fs from "node:fs"
import path from "node:path"
import { generator } from "../support/random.ts"
import { inputMaxMs, type Target } from "./targets.ts"

/** Inputs of earlier runs that had an outcome of their own, compressed by zstd. */
export const corpusOf = (target: string): string => path.join(import.meta.dir, "corpus", target)

const corpus = (target: string): ReadonlyArray<Uint8Array> => {
  const directory = corpusOf(target)
  if (!fs.existsSync(directory)) return []
  return fs
    .readdirSync(directory)
    .toSorted()
    .map((name) => Bun.zstdDecompressSync(fs.readFileSync(path.join(directory, name))))
}

export interface Finding {
  readonly input: Uint8Array
  readonly reason: string
}

/** Inputs between two runs of the checks that start processes. */
const thoroughEvery = 50
const findingsMax = 20

/** Runs the corpus, then mutations of it while `goOn` says so. */
export const fuzz = async (target: Target, seed: number, place: string, goOn: (runs: number) => boolean) => {
  const random = generator(seed)
  const pool: Array<Uint8Array> = []
  const outcomes = new Set<string>()
  const findings: Array<Finding> = []
  let runs = 0
  const feed = async (input: Uint8Array): Promise<void> => {
    runs += 1
    const directory = path.join(place, "input")
    fs.mkdirSync(directory)
    // For whoever watches from outside: an endless loop can not be told from within.
    fs.writeFileSync(path.join(place, "current"), input)
    const began = performance.now()
    try {
      const outcome = await target.run(input, directory, runs % thoroughEvery === 0)
      const took = performance.now() - began
      if (took > inputMaxMs) throw new Error(`it took ${Math.round(took)} ms`)
      if (!outcomes.has(outcome)) {
        outcomes.add(outcome)
        pool.push(input)
      }
    } catch (cause) {
      findings.push({ input, reason: cause instanceof Error ? (cause.stack ?? cause.message) : String(cause) })
    } finally {
      fs.rmSync(directory, { recursive: true, force: true })
    }
  }
  const seeds = await target.seeds()
  for (const input of [...seeds, ...corpus(target.name)]) await feed(input)
  // The seeds stay even where two of them end the same way.
  pool.push(...seeds)
  while (goOn(runs) && findings.length < findingsMax) {
    const [input, other] = [pool[random(pool.length)]!, pool[random(pool.length)]!]
    await feed(target.mutate(random, input, other))
  }
  return { runs, outcomes, pool, findings }
}
