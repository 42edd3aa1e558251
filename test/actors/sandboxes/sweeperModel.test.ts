/** Compares sweeps of random populations, between random transitions of others, with a small model. */
import { expect } from "bun:test"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { LeaseManager } from "../../../src/actors/leases/LeaseManager.ts"
import { Sweeper } from "../../../src/actors/sandboxes/Sweeper.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import { isTerminal, type Status } from "../../../src/domain/sandbox/sandbox.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { deleteSandbox, insertRun, terminate, transition } from "../../../src/store/database/sandboxes.ts"
import { identify, type ProcessIdentity } from "../../../src/store/processes/processes.ts"
import { freshHome } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { generator, seedOf } from "../../support/random.ts"
import { putSandbox } from "../../support/sandboxes.ts"

const seed = seedOf("sweeper model")
const statuses: ReadonlyArray<Status> = ["created", "starting", "running", "draining", "paused", "stopped", "crashed"]
const live: ReadonlyArray<Status> = ["starting", "running", "draining", "paused"]

interface Sandbox {
  readonly id: number
  readonly name: string
  readonly ephemeral: boolean
  status: Status
  /** What its newest run's process is; none: no running run. */
  process: "none" | "alive" | "dead"
  /** True when its newest run is recorded as crashed. */
  crashed: boolean
  updatedAt: number
}

const me = identify(process.pid)!
const processes: Record<"alive" | "dead", ReadonlyArray<ProcessIdentity>> = {
  alive: [me],
  // Gone, reused by another, and of another boot: the same to whoever asks.
  dead: [
    { ...me, pid: 2 ** 22 + 1 },
    { ...me, startTicks: me.startTicks - 1 },
    { ...me, bootId: "before" }
  ]
}

/** What a sweep without bounds makes of the population; answers its report. */
const sweepModel = (population: Map<string, Sandbox>, now: number) => {
  const report = { reconciled: 0, removed: 0, errors: 0, timed_out: false }
  for (const box of population.values()) {
    if (!live.includes(box.status) || box.process === "alive") continue
    const abandoned = box.status === "starting" && box.process === "none" && now - box.updatedAt > 10_000
    if (box.process === "none" && box.status !== "draining" && !abandoned) continue
    box.status = box.status === "draining" ? "stopped" : "crashed"
    if (box.process !== "none") box.crashed = box.status === "crashed"
    box.process = "none"
    box.updatedAt = now
    report.reconciled += 1
  }
  for (const box of population.values()) {
    // Nobody is named who made it.
    if (!box.ephemeral || box.status !== "created" || now - box.updatedAt <= 10_000) continue
    const crashed = box.process !== "none" || box.crashed
    Object.assign(box, { status: "crashed", process: "none", crashed, updatedAt: now })
    report.reconciled += 1
  }
  for (const box of [...population.values()]) {
    if (!box.ephemeral || !isTerminal(box.status) || box.process === "alive") continue
    if (box.crashed && now - box.updatedAt < 3_600_000) continue
    population.delete(box.name)
    report.removed += 1
  }
  return report
}

const story = (random: (below: number) => number) =>
  Effect.gen(function* () {
    const sweeper = yield* Sweeper
    const db = yield* Database
    const population = new Map<string, Sandbox>()
    const pick = <A>(list: ReadonlyArray<A>): A => list[random(list.length)]!
    let now = 0
    for (let step = 0; step < 300; step += 1) {
      const box = population.size === 0 ? undefined : pick([...population.values()])
      switch (random(6)) {
        case 0:
        case 1: {
          const kind = pick(["none", "alive", "dead"] as const)
          const input = { name: `s${step}`, status: pick(statuses), ephemeral: random(2) === 0 }
          const id = yield* putSandbox({ ...input, ...(kind === "none" ? {} : { process: pick(processes[kind]) }) })
          population.set(input.name, { ...input, id, process: kind, crashed: false, updatedAt: 1 })
          break
        }
        case 2: {
          // Another process moves one on, by the rules.
          if (box === undefined) break
          const to = pick(statuses)
          if (yield* transition(db, box.id, to, now)) Object.assign(box, { status: to, updatedAt: now })
          break
        }
        case 3: {
          if (box === undefined || box.process !== "none" || box.status !== "running") break
          yield* insertRun(db, box.id, "krun", pick(processes.dead), now)
          Object.assign(box, { process: "dead", crashed: false })
          break
        }
        case 4: {
          if (box === undefined) break
          const end = { exitCode: 0, exitSignal: null, reason: "completed", detail: null } as const
          if (yield* terminate(db, box.id, [box.status], "stopped", end, now)) {
            const crashed = box.process === "none" && box.crashed
            Object.assign(box, { status: "stopped", process: "none", crashed, updatedAt: now })
          } else if (yield* deleteSandbox(db, box.id)) population.delete(box.name)
          break
        }
        default: {
          const ms = random(random(8) === 0 ? 4_000_000 : 20_000)
          yield* TestClock.adjust(ms)
          now += ms
          const expected = sweepModel(population, now)
          const report = yield* sweeper.Sweep({ force: true })
          expect({ seed, step, report: { ...report } }).toEqual({ seed, step, report: expected })
        }
      }
    }
    const rows = yield* db.all<{ readonly name: SafeName; readonly status: Status }>(
      "SELECT name, status FROM sandbox ORDER BY id"
    )
    const left = [...population.values()].toSorted((a, b) => a.id - b.id).map(({ name, status }) => ({ name, status }))
    expect(rows).toEqual(left as never)
  })

const environment = Sweeper.layer({ activeRows: 10_000, endedRows: 10_000, wallMs: 100_000 }).pipe(
  Layer.provideMerge(LeaseManager.layer),
  Layer.provideMerge(freshHome)
)

for (let round = 0; round < 8; round += 1) {
  it.effect(
    `300 random steps agree with the model (round ${round})`,
    () => story(generator(seed + round)).pipe(Effect.provide(environment)),
    60_000
  )
}
