/** Processes that die at each step of an install or a drop, and eight that pull one model at once. */
import { afterEach, describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import type { Effect } from "effect"
import { Sweeper } from "../../src/actors/sandboxes/Sweeper.ts"
import { startHub } from "../support/hub.ts"
import { noise } from "../support/imageStore.ts"
import { entry, scratch, startModels } from "../support/models.ts"

const child = path.join(import.meta.dir, "../support/modelChild.ts")

const start = (task: object) =>
  Bun.spawn([process.execPath, child, JSON.stringify(task)], { stdout: "pipe", stderr: "inherit", stdin: "ignore" })

const finish = async (process: ReturnType<typeof start>) => {
  const lines = (await new Response(process.stdout).text()).trim().split("\n")
  await process.exited
  return { lines, signal: process.signalCode }
}

describe("a process that is killed", () => {
  const cleanups: Array<() => unknown> = []
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
  })

  type Before = "nothing" | "old"
  const prepare = async (before: Before) => {
    const place = scratch()
    cleanups.push(place.dispose)
    const old = place.tree("old", { both: "old", first: "1" })
    const fresh = place.tree("new", { both: "new", "sub/second": "2" })
    const it = await startModels(place.home)
    await it.ask("POST", "/ai/models", entry("m"))
    if (before === "old") await it.ask("POST", "/ai/models/m/pull", { fixture_dir: old })
    await it.dispose()
    return { place, old, fresh }
  }
  const tasks = {
    pull: (home: string, fresh: string) => ({
      home,
      method: "POST",
      url: "/ai/models/m/pull",
      body: { fixture_dir: fresh }
    }),
    drop: (home: string) => ({ home, method: "DELETE", url: "/ai/models/m/cache" })
  }

  /** The state that others find: which files, and that record and files agree after a sweep. */
  const lookAfter = async (home: string): Promise<"missing" | "old" | "new"> => {
    const it = await startModels(home)
    try {
      const seen = (await it.ask("GET", "/ai/models/m/cache?verify=full")).body
      await it.runtime.runPromise(
        Sweeper.use((sweeper) => sweeper.Sweep({ force: true })) as unknown as Effect.Effect<unknown>
      )
      const swept = (await it.ask("GET", "/ai/models/m/cache?verify=full")).body
      expect(swept.status).toBe(seen.status)
      expect(swept.manifest).toEqual(seen.manifest)
      for (const place of [".staging", ".purge"]) {
        const directory = path.join(home, "models", place)
        expect(fs.existsSync(directory) ? fs.readdirSync(directory) : []).toEqual([])
      }
      const record = (await it.ask("GET", "/ai/models/m")).body
      if (seen.status === "missing") {
        expect(record).toMatchObject({ status: "registered", cache_dir: null })
        return "missing"
      }
      expect(seen.status).toBe("installed")
      expect(record).toMatchObject({
        status: "installed",
        installed_at_unix_ms: seen.manifest.installed_at_unix_ms,
        cache_size_bytes: seen.manifest.total_size_bytes
      })
      const paths = seen.manifest.files.map((file: { path: string }) => file.path).join()
      expect(["both,first", "both,sub/second"]).toContain(paths)
      return paths === "both,first" ? "old" : "new"
    } finally {
      await it.dispose()
    }
  }

  const cases: ReadonlyArray<readonly [keyof typeof tasks, Before, ReadonlyArray<string>]> = [
    ["pull", "nothing", ["missing", "new"]],
    ["pull", "old", ["old", "new"]],
    ["drop", "old", ["old", "missing"]]
  ]
  for (const [action, before, allowed] of cases) {
    test(`leaves the whole old or the whole new at every step of a ${action} over ${before}`, async () => {
      const whole = await prepare(before)
      const { lines } = await finish(start(tasks[action](whole.place.home, whole.fresh)))
      expect(lines.at(-1)).toBe("status 200")
      const steps = lines.filter((line) => line.startsWith("step "))
      expect(steps.length).toBeGreaterThanOrEqual(3)
      const found: Array<string> = []
      for (const [kill, step] of steps.entries()) {
        const { place, fresh } = await prepare(before)
        const { signal } = await finish(start({ ...tasks[action](place.home, fresh), kill }))
        expect({ step, signal }).toEqual({ step, signal: "SIGKILL" })
        const state = await lookAfter(place.home)
        expect({ step, state, fine: allowed.includes(state) }).toEqual({ step, state, fine: true })
        found.push(state)
      }
      // Once it changed, it stays changed.
      expect(found).toEqual(found.toSorted((a, b) => allowed.indexOf(a) - allowed.indexOf(b)))
      expect(found.at(-1)).toBe(allowed.at(-1)!)
    }, 120_000)
  }

  test("while it copies leaves what was there, and the next pull goes through", async () => {
    const { place } = await prepare("old")
    const big = place.tree("big", { weights: noise(64_000_000, 3) })
    const running = start(tasks.pull(place.home, big))
    const staging = path.join(place.home, "models", ".staging")
    const copying = () =>
      fs.readdirSync(staging).some((name) => fs.existsSync(path.join(staging, name, "payload", "weights")))
    while (running.exitCode === null && !copying()) await Bun.sleep(1)
    running.kill("SIGKILL")
    await running.exited
    expect(await lookAfter(place.home)).toBe("old")
    const again = await finish(start(tasks.pull(place.home, big)))
    expect(again.lines.at(-1)).toBe("status 200")
  }, 60_000)
})

test("eight processes that pull one model at once make one install, and all answer 200", async () => {
  const place = scratch()
  const gate = Promise.withResolvers<void>()
  const hub = startHub(
    { "org/repo": { files: { "config.json": "{}", "model.bin": noise(500_000, 5) }, large: ["model.bin"] } },
    { gate: gate.promise }
  )
  try {
    const it = await startModels(place.home)
    await it.ask("POST", "/ai/models", entry("m"))
    const task = { home: place.home, method: "POST", url: "/ai/models/m/pull", hubEndpoint: hub.endpoint }
    const children = Array.from({ length: 8 }, () => start(task))
    const outputs = children.map((each) => {
      const ready = Promise.withResolvers<void>()
      const whole = (async () => {
        let text = ""
        for await (const chunk of each.stdout.pipeThrough(new TextDecoderStream())) {
          text += chunk
          if (text.includes("ready")) ready.resolve()
        }
        return text
      })()
      return { ready: ready.promise, whole }
    })
    await Promise.all(outputs.map((each) => each.ready))
    gate.resolve()
    const texts = await Promise.all(outputs.map((each) => each.whole))
    expect(texts.map((text) => /status (\d+)/.exec(text)?.[1])).toEqual(Array(8).fill("200"))
    expect(texts.filter((text) => text.includes("step staged"))).toHaveLength(1)
    expect(hub.downloads("model.bin")).toHaveLength(1)
    expect((await it.ask("GET", "/ai/models/m/cache?verify=full")).body).toMatchObject({ status: "installed" })
    await it.dispose()
  } finally {
    await hub.stop()
    place.dispose()
  }
}, 60_000)
