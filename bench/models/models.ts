/**
 * Measures the cache of models: an install of a few large and of many small files from the disk beside `cp -a` and `sha256sum`, a
 * pull over loopback HTTP beside `curl` and `sha256sum` of the same bytes, and a quick look at 20,000 files. Ours ends with
 * syncfs(2), the others leave their bytes in memory; a third column has them sync, too.
 */

import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import type { Effect } from "effect"
import { Stream } from "effect"
import { ModelCache } from "../../src/actors/models/ModelCache.ts"
import { entry, sourcesFor, startModels } from "../../test/support/models.ts"
import { environment, writeResult } from "../support/results.ts"
import { summarize, table } from "../support/statistics.ts"

const rounds = Number(process.env["BENCH_RUNS"] ?? 3)
const largeMb = Number(process.env["BENCH_MODELS_MB"] ?? 2048)
const largeFiles = 8
const smallFiles = 20_000

const timed = async (work: () => unknown): Promise<number> => {
  const began = performance.now()
  await work()
  return performance.now() - began
}

/** A shell command that must succeed. */
const shell = async (script: string): Promise<void> => {
  const child = Bun.spawn(["sh", "-ec", script], { stdout: "ignore", stderr: "inherit" })
  if ((await child.exited) !== 0) throw new Error(`${script} failed`)
}

const fill = (directory: string, files: number, bytes: number): void => {
  fs.mkdirSync(directory, { recursive: true })
  const chunk = new Uint8Array(Math.min(bytes, 65_536))
  for (let index = 0; index < files; index++) {
    const folder = path.join(directory, `d${index % 100}`)
    fs.mkdirSync(folder, { recursive: true })
    const fd = fs.openSync(path.join(folder, `f${index}`), "w")
    for (let at = 0; at < bytes; at += chunk.length) fs.writeSync(fd, crypto.getRandomValues(chunk))
    fs.closeSync(fd)
  }
}

const open = async (home: string, hubEndpoint = "http://127.0.0.1:9") => {
  const models = await startModels(home, sourcesFor({ hubEndpoint }))
  const run = <A, E, R>(effect: Effect.Effect<A, E, R>): Promise<A> =>
    models.runtime.runPromise(effect as unknown as Effect.Effect<A, E>)
  const add = (name: string, source: string) => models.ask("POST", "/ai/models", entry(name, { source }))
  return {
    add,
    pull: (name: string) => run(ModelCache.use((cache) => Stream.runDrain(cache.Pull({ name })))),
    look: (name: string) => run(ModelCache.use((cache) => cache.Status({ name }))),
    drop: (name: string) => run(ModelCache.use((cache) => cache.Drop({ name }))),
    ask: models.ask,
    dispose: models.dispose
  }
}

type Contestants = Readonly<Record<string, () => Promise<void>>>

/** Each in turn, `rounds` times, after one that does not count; `between` clears up. */
const race = async (contestants: Contestants, between: () => Promise<unknown>) => {
  const times: Record<string, Array<number>> = {}
  for (let round = 0; round <= rounds; round++) {
    for (const [name, work] of Object.entries(contestants)) {
      await between()
      const ms = await timed(work)
      if (round > 0) (times[name] ??= []).push(ms)
    }
  }
  return Object.fromEntries(Object.entries(times).map(([name, values]) => [name, summarize(values)!]))
}

const copyAndHash = (from: string, to: string): string =>
  `cp -a '${from}' '${to}'; cd '${to}'; find . -type f -print0 | xargs -0 sha256sum > '${to}.sums'`

const benchDirectory = async (home: string, source: string, scratch: string) => {
  const models = await open(home)
  const name = path.basename(source)
  await models.add(name, `dir:${source}`)
  const copy = path.join(scratch, "copy")
  const clear = async () => {
    await models.drop(name)
    fs.rmSync(copy, { recursive: true, force: true })
    await shell(`sync -f '${scratch}'`)
  }
  const result = await race(
    {
      bunker: () => models.pull(name),
      "cp -a + sha256sum": () => shell(copyAndHash(source, copy)),
      "cp -a + sha256sum + sync": () => shell(`${copyAndHash(source, copy)}; sync -f '${copy}'`)
    },
    clear
  )
  await clear()
  return { result, models, name }
}

export const benchModels = async (): Promise<void> => {
  const scratch = fs.mkdtempSync(path.join(process.env["BENCH_DIRECTORY"] ?? os.tmpdir(), "bk-bench-"))
  const home = path.join(scratch, "home")
  try {
    const large = path.join(scratch, "large")
    fill(large, largeFiles, (largeMb * 2 ** 20) / largeFiles)
    const big = await benchDirectory(home, large, scratch)
    await big.models.dispose()

    const small = path.join(scratch, "small")
    fill(small, smallFiles, 4096)
    const many = await benchDirectory(home, small, scratch)
    await many.models.pull(many.name)
    const looks: Array<number> = []
    for (let round = 0; round < 10; round++) looks.push(await timed(() => many.models.look(many.name)))
    const asked: Array<number> = []
    for (let round = 0; round < 5; round++) {
      asked.push(await timed(() => many.models.ask("GET", `/ai/models/${many.name}/cache`)))
    }
    await many.models.drop(many.name)
    await many.models.dispose()

    const server = Bun.spawn([process.execPath, path.join(import.meta.dirname, "server.ts"), large], { stdout: "pipe" })
    const reader = server.stdout.getReader()
    const { endpoint, urls } = JSON.parse(new TextDecoder().decode((await reader.read()).value)) as {
      readonly endpoint: string
      readonly urls: ReadonlyArray<string>
    }
    const web = await open(home, endpoint)
    await web.add("web", "hf:org/large")
    const downloads = path.join(scratch, "downloads")
    const fetches = urls.map((url, index) => `-o '${downloads}/${index}' '${url}'`).join(" ")
    const overHttp = await race(
      {
        bunker: () => web.pull("web"),
        "curl + sha256sum": () => shell(`curl -sf ${fetches}; sha256sum '${downloads}'/* > '${downloads}.sums'`)
      },
      async () => {
        await web.drop("web")
        fs.rmSync(downloads, { recursive: true, force: true })
        fs.mkdirSync(downloads)
        await shell(`sync -f '${scratch}'`)
      }
    )
    await web.dispose()
    server.kill()

    const row = (what: string, results: Readonly<Record<string, { readonly median: number }>>, other: string) => {
      const [ours, theirs] = [results["bunker"]!.median, results[other]!.median]
      return [what, `${Math.round(ours)} ms`, `${Math.round(theirs)} ms`, `${(ours / theirs).toFixed(2)} ×`]
    }
    console.log(
      table([
        ["", "bunker", "beside it", "ratio"],
        row(`${largeMb} MiB in ${largeFiles} files: cp -a + sha256sum`, big.result, "cp -a + sha256sum"),
        row("  the same, synced", big.result, "cp -a + sha256sum + sync"),
        row(`${smallFiles} files of 4 KiB: cp -a + sha256sum`, many.result, "cp -a + sha256sum"),
        row("  the same, synced", many.result, "cp -a + sha256sum + sync"),
        row(`${largeMb} MiB over loopback HTTP: curl + sha256sum`, overHttp, "curl + sha256sum"),
        [`quick look at ${smallFiles} files`, `${summarize(looks)!.median} ms`, "", ""],
        ["  over HTTP, with the manifest", `${summarize(asked)!.median} ms`, "", ""]
      ])
    )
    const file = writeResult("models", {
      unit: "ms",
      environment: environment(),
      loadAverage: os.loadavg(),
      largeMb,
      largeFiles,
      smallFiles,
      large: big.result,
      small: many.result,
      http: overHttp,
      quickLook: summarize(looks),
      quickLookOverHttp: summarize(asked)
    })
    console.log(`written to ${file}`)
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true })
  }
}
