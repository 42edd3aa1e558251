/**
 * Measures what leases and sweeps cost: refused attempts in one process and in four, and a sweep of 250 stale rows in a small table
 * and in one of a million sandboxes. The limit beside them is the same statement run directly by bun:sqlite.
 */
import { Database as Sqlite } from "bun:sqlite"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Effect, Layer } from "effect"
import { LeaseManager, statements } from "../../src/actors/leases/LeaseManager.ts"
import { Sweeper } from "../../src/actors/sandboxes/Sweeper.ts"
import { homeAt } from "../../test/support/home.ts"
import { config } from "../../test/support/sandboxes.ts"
import { environment as machine, writeResult } from "../support/results.ts"
import { summarize, table } from "../support/statistics.ts"

const claim = { name: "bench", durationMs: 3_600_000, minIntervalMs: 0 }
const rounds = 5
const attempts = 20_000
/** Rows in which nothing is to be done. */
const bystanders = 1_000_000
const stale = 250

const median = (values: ReadonlyArray<number>): number => summarize(values)?.median ?? Number.NaN

const environment = (home: string) =>
  Sweeper.layer({ wallMs: 60_000 }).pipe(Layer.provideMerge(LeaseManager.layer), Layer.provideMerge(homeAt(home)))

/** Refused attempts per second of the actor over `home`, whose lease is held. */
const refusedPerSecond = (home: string): Promise<number> =>
  Effect.runPromise(
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      yield* leases.TryAcquire(claim)
      const began = performance.now()
      for (let index = 0; index < attempts; index += 1) yield* leases.TryAcquire(claim)
      return attempts / ((performance.now() - began) / 1000)
    }).pipe(Effect.provide(environment(home)))
  )

/** The same read, directly. */
const limitPerSecond = (home: string): number => {
  const sqlite = new Sqlite(path.join(home, "bunker.db"))
  const read = sqlite.query(statements.read)
  const began = performance.now()
  for (let index = 0; index < attempts; index += 1) read.get(claim.name)
  const perSecond = attempts / ((performance.now() - began) / 1000)
  sqlite.close()
  return perSecond
}

const child = async (home: string): Promise<number> => {
  const running = Bun.spawn([process.execPath, import.meta.path, "--refused", home], { stdout: "pipe" })
  return Number(await new Response(running.stdout).text())
}

/** Writes `count` sandboxes that have ended, and `stale` that run in a process that does not exist. */
const fill = (home: string, count: number): void => {
  const sqlite = new Sqlite(path.join(home, "bunker.db"))
  const text = JSON.stringify(config)
  const insert = sqlite.query(
    "INSERT INTO sandbox (name, config, status, ephemeral, created_at, updated_at) VALUES (?, ?, ?, 0, 1, 1) RETURNING id"
  )
  const insertRun = sqlite.query(
    "INSERT INTO run (sandbox_id, engine, pid, pid_started_at, boot_id, status, started_at) VALUES (?, 'krun', 1, 1, 'none', 'running', 1)"
  )
  sqlite.transaction(() => {
    for (let index = 0; index < count; index += 1) insert.get(`b${index}`, text, "stopped")
    for (let index = 0; index < stale; index += 1) {
      const { id } = insert.get(`s${index}`, text, "running") as { id: number }
      insertRun.run(id)
    }
  })()
  sqlite.close()
}

/** Milliseconds of one sweep that finds all the stale rows. */
const sweepMs = (home: string): Promise<number> =>
  Effect.runPromise(
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const began = performance.now()
      const report = yield* sweeper.Sweep({ force: true })
      const took = performance.now() - began
      if (report?.reconciled !== stale) throw new Error(`the sweep put ${report?.reconciled} right, not ${stale}`)
      return took
    }).pipe(Effect.provide(environment(home)))
  )

const again = (home: string): void => {
  const sqlite = new Sqlite(path.join(home, "bunker.db"))
  sqlite.run("UPDATE sandbox SET status = 'running' WHERE name LIKE 's%' AND status = 'crashed'")
  sqlite.run("UPDATE run SET status = 'running'")
  sqlite.close()
}

const sweeps = async (home: string): Promise<ReadonlyArray<number>> => {
  const times: Array<number> = []
  for (let round = 0; round < rounds; round += 1) {
    if (round > 0) again(home)
    times.push(await sweepMs(home))
  }
  return times
}

export const benchLeases = async (): Promise<void> => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "bench-leases-"))
  try {
    const small = path.join(directory, "small")
    const large = path.join(directory, "large")
    const one = []
    const limit = []
    for (let round = 0; round < rounds; round += 1) {
      one.push(await refusedPerSecond(small))
      limit.push(limitPerSecond(small))
    }
    const four = await Promise.all(Array.from({ length: 4 }, () => child(small)))
    fill(small, 0)
    const smallMs = await sweeps(small)
    await Effect.runPromise(Effect.scoped(Layer.build(homeAt(large))))
    fill(large, bystanders)
    const largeMs = await sweeps(large)
    const total = four.reduce((sum, each) => sum + each, 0)
    const rows = [
      [
        "refused attempts/s, one process",
        median(one).toFixed(0),
        `${(median(one) / median(limit)).toFixed(2)} x the bare read`
      ],
      ["refused attempts/s, four processes", total.toFixed(0), `${(total / median(one)).toFixed(2)} x one process`],
      ["bare prepared read/s (limit)", median(limit).toFixed(0), ""],
      [
        `sweep of ${stale} stale rows, ms`,
        median(smallMs).toFixed(1),
        `${(median(smallMs) / 250).toFixed(2)} of its 250 ms budget`
      ],
      [
        `the same among ${bystanders} rows, ms`,
        median(largeMs).toFixed(1),
        `${(median(largeMs) / median(smallMs)).toFixed(2)} x the small table`
      ]
    ]
    console.log(table([["", "median", "ratio"], ...rows]))
    const raw = { one, four, limit, smallMs, largeMs }
    console.log(writeResult("leases", { environment: machine(), attempts, bystanders, stale, raw }))
  } finally {
    fs.rmSync(directory, { recursive: true, force: true })
  }
}

const [flag, home] = process.argv.slice(2)
if (import.meta.main && flag === "--refused" && home !== undefined)
  process.stdout.write(String(await refusedPerSecond(home)))
