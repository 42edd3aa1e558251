/**
 * Measures cold pulls into an empty home, beside `skopeo copy` + `umoci unpack` and microsandbox from the same docker-registry in
 * the same run, in turn; then persists of a known image per second, and the prune of 1,000 images.
 *
 * BENCH_RUNS (5), BENCH_ONLY ("busybox debian forty"), BENCH_BUNKER (dist/bunker), BENCH_DIRECTORY (where homes are made).
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Effect } from "effect"
import { startRegistry } from "../../test/support/registry.ts"
import { peer, peerProgram } from "../support/lab.ts"
import { environment, writeResult } from "../support/results.ts"
import { summarize, table } from "../support/statistics.ts"
import { corpus, missingForCorpus } from "./corpus.ts"
import { persistsPerSecond, pruneThousand } from "./records.ts"

const root = path.join(import.meta.dirname, "../..")
const runs = Number(process.env["BENCH_RUNS"] ?? 5)
const only = (process.env["BENCH_ONLY"] ?? "busybox debian forty").split(" ")
const program = process.env["BENCH_BUNKER"] ?? path.join(root, "dist/bunker")

/** From the specification: wall time at most this part of the better peer's, peak memory below its. */
const aims = { wallOverBetterPeer: 0.7, memoryOverBetterPeer: 1 }

interface Timing {
  readonly exit: number
  readonly rssKb: number
  readonly cpu: number
  readonly code: number
}

const contestants: Readonly<Record<string, (reference: string, home: string) => ReadonlyArray<string>>> = {
  bunker: (reference) => [program, "pull", "-q", reference],
  "skopeo + umoci": (reference, home) => [
    "/bin/sh",
    "-c",
    `skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$1" "oci:$2/layout:it" && umoci --log error unpack --image "$2/layout:it" "$2/bundle"`,
    "sh",
    reference,
    home
  ],
  microsandbox: (reference) => [peerProgram(), "pull", "-q", "--insecure", reference]
}

/** One cold run in a home of its own, which is removed. */
const once = (timer: string, place: string, name: string, reference: string): Timing => {
  const home = fs.mkdtempSync(path.join(place, "home-"))
  const file = path.join(place, "time.json")
  fs.rmSync(file, { force: true })
  try {
    const env = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", HOME: home, BUNKER_HOME: home, MSB_HOME: home }
    // What earlier runs wrote must not be this one's to write back.
    Bun.spawnSync(["sync", "-f", place])
    const command = contestants[name]!(reference, home)
    const { stderr } = Bun.spawnSync([timer, name, file, ...command], { env, stdout: "ignore", stderr: "pipe" })
    const timing = JSON.parse(fs.readFileSync(file, "utf8")) as Timing
    if (timing.code !== 0) throw new Error(`${command.join(" ")} ended with ${timing.code}: ${stderr}`)
    return timing
  } finally {
    fs.rmSync(home, { recursive: true, force: true })
  }
}

const summaries = (timings: ReadonlyArray<Timing>) => ({
  wallMs: summarize(timings.map(({ exit }) => exit))!,
  cpuMs: summarize(timings.map(({ cpu }) => cpu))!,
  maxRssKb: summarize(timings.map(({ rssKb }) => rssKb))!
})

/** The peer that took less time. */
const better = (measured: Readonly<Record<string, ReturnType<typeof summaries>>>) =>
  Object.entries(measured)
    .filter(([name]) => name !== "bunker")
    .toSorted(([, a], [, b]) => a.wallMs.median - b.wallMs.median)[0]!

const pulls = (place: string, timer: string) =>
  Effect.gen(function* () {
    const registry = yield* startRegistry()
    const results = []
    for (const { name, image } of corpus().filter((subject) => only.includes(subject.name))) {
      yield* registry.seed(`bench/${name}`, "1", image)
      const bytes = image.blobs.reduce((sum, blob) => sum + blob.bytes.length, 0)
      const reference = `${registry.host}/bench/${name}:1`
      const timings: Record<string, Array<Timing>> = {}
      for (let run = -1; run < runs; run += 1) {
        for (const contestant of Object.keys(contestants)) {
          const timing = once(timer, place, contestant, reference)
          if (run >= 0) (timings[contestant] ??= []).push(timing)
        }
      }
      const measured = Object.fromEntries(Object.entries(timings).map(([each, all]) => [each, summaries(all)]))
      const [betterPeer, peer] = better(measured)
      const bunker = measured["bunker"]!
      results.push({
        image: name,
        storedBytes: bytes,
        contestants: measured,
        betterPeer,
        wallOverBetterPeer: bunker.wallMs.median / peer.wallMs.median,
        memoryOverBetterPeer: bunker.maxRssKb.median / peer.maxRssKb.median
      })
    }
    return results
  })

export const benchImages = async (): Promise<void> => {
  const missing = [...missingForCorpus(), ...["skopeo", "umoci", "docker-registry"].filter((tool) => !Bun.which(tool))]
  if (missing.length > 0) throw new Error(`this bench needs ${missing.join(", ")}`)
  const place = fs.mkdtempSync(path.join(process.env["BENCH_DIRECTORY"] ?? os.tmpdir(), "bunker-bench-images-"))
  try {
    const timer = path.join(place, "timer")
    const built = Bun.spawnSync(["cc", "-O2", "-o", timer, path.join(root, "bench/vm/timer.c")], { stderr: "inherit" })
    if (built.exitCode !== 0) throw new Error("the timer needs a C compiler")
    const results = await Effect.runPromise(Effect.scoped(pulls(place, timer)))
    const rows = results.flatMap(({ image, contestants: measured, memoryOverBetterPeer, wallOverBetterPeer }) => [
      ...Object.entries(measured).map(([name, { cpuMs, maxRssKb, wallMs }]) => [
        `${image}: ${name}`,
        wallMs.median.toFixed(0),
        wallMs.min.toFixed(0),
        cpuMs.median.toFixed(0),
        (maxRssKb.median / 1024).toFixed(0)
      ]),
      [`${image}: bunker / better peer`, wallOverBetterPeer.toFixed(2), "", "", memoryOverBetterPeer.toFixed(2)]
    ])
    console.log(`\n${table([[`medians of ${runs}`, "wall ms", "fastest", "cpu ms", "peak MiB"], ...rows])}\n`)
    const persists = await persistsPerSecond(path.join(place, "persists"))
    const prune = await pruneThousand(path.join(place, "prune"), 3)
    console.log(`persist of a known image: ${persists.median.toFixed(0)}/s`)
    console.log(`prune of 1,000 images: ${prune.median.toFixed(0)} ms\n`)
    const peers = {
      microsandbox: `${peer.package}@${peer.version}`,
      skopeo: version("skopeo"),
      umoci: version("umoci")
    }
    const content = {
      environment: { ...environment(), loadAverage: os.loadavg() },
      peers,
      runs,
      aims,
      pulls: results,
      persistsPerSecond: persists,
      pruneMs: prune
    }
    console.log(`wrote ${writeResult("images", content)}`)
  } finally {
    fs.rmSync(place, { recursive: true, force: true })
  }
}

const version = (tool: string): string => Bun.spawnSync([tool, "--version"]).stdout.toString().split("\n", 1)[0] ?? ""
