/** Compares the lease manager with a small model over long random stories, on a test clock. */
import { expect } from "bun:test"
import { Effect, Layer, Result } from "effect"
import { TestClock } from "effect/testing"
import { installExclusive, type Lease, LeaseManager } from "../../../src/actors/leases/LeaseManager.ts"
import { freshHome } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { generator, seedOf } from "../../support/random.ts"

const seed = seedOf("lease model")

interface Row {
  holder: string | undefined
  expiresAt: number
  completedAt: number | undefined
}

/** The specification, L1 to L4, over a map. */
class Model {
  readonly rows = new Map<string, Row>()
  row(name: string): Row {
    const row = this.rows.get(name) ?? { holder: undefined, expiresAt: 0, completedAt: undefined }
    this.rows.set(name, row)
    return row
  }
  mayAcquire(name: string, minIntervalMs: number, now: number): boolean {
    const row = this.row(name)
    return row.expiresAt <= now && (row.completedAt === undefined || row.completedAt <= now - minIntervalMs)
  }
  holds(lease: Lease, now: number): boolean {
    const row = this.row(lease.name)
    return row.holder === lease.token && row.expiresAt > now
  }
}

const story = (steps: number, random: (below: number) => number) =>
  Effect.gen(function* () {
    const leases = yield* LeaseManager
    const model = new Model()
    const known: Array<Lease> = []
    const names = ["a", "b", "c"]
    let now = 0
    const log: Array<string> = []
    const check = (what: string, real: unknown, expected: unknown) => {
      log.push(`${now} ${what} -> ${JSON.stringify(real)}`)
      if (log.length > 12) log.shift()
      expect({ seed, log, real }).toEqual({ seed, log, real: expected })
    }
    /** Whether a message went well, or the tag of its failure. */
    const tag = <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E>) =>
      Effect.map(Effect.result(effect), (result) => (Result.isSuccess(result) ? "ok" : result.failure._tag))
    const any = () => known[random(known.length)]
    const remember = (lease: Lease) => {
      known.push(lease)
      Object.assign(model.row(lease.name), { holder: lease.token, expiresAt: lease.expiresAt })
    }
    for (let step = 0; step < steps; step += 1) {
      const durationMs = 1 + random(5_000)
      switch (random(9)) {
        case 0:
        case 1: {
          const claim = { name: names[random(names.length)]!, durationMs, minIntervalMs: random(8_000) }
          const may = model.mayAcquire(claim.name, claim.minIntervalMs, now)
          const lease = yield* leases.TryAcquire(claim)
          check(`acquire ${claim.name}`, lease !== null, may)
          if (lease !== null) {
            expect(lease.expiresAt).toBe(now + durationMs)
            remember(lease)
          }
          break
        }
        case 2: {
          const lease = any()
          if (lease === undefined) break
          const holds = model.holds(lease, now)
          const done = yield* Effect.result(leases.Renew({ lease, durationMs }))
          check(`renew ${lease.name}`, Result.isSuccess(done), holds)
          if (Result.isSuccess(done)) remember(done.success)
          break
        }
        case 3: {
          const lease = any()
          if (lease === undefined) break
          const holds = model.holds(lease, now)
          check(`complete ${lease.name}`, yield* tag(leases.Complete({ lease })), holds ? "ok" : "LeaseLost")
          if (holds) Object.assign(model.row(lease.name), { holder: undefined, expiresAt: 0, completedAt: now })
          break
        }
        case 4: {
          const lease = any()
          if (lease === undefined) break
          yield* leases.Release({ lease })
          const row = model.row(lease.name)
          if (row.holder === lease.token) Object.assign(row, { holder: undefined, expiresAt: 0 })
          break
        }
        case 5: {
          const may = model.mayAcquire(installExclusive, 0, now)
          const done = yield* Effect.result(leases.InstallAcquire({ durationMs }))
          check("install", Result.isSuccess(done), may)
          if (Result.isSuccess(done)) remember(done.success)
          else expect(done.failure).toMatchObject({ deadline: model.row(installExclusive).expiresAt })
          break
        }
        case 6: {
          const lease = known.findLast((each) => each.name === installExclusive)
          if (lease === undefined) break
          // Token and deadline: an older deadline of the same holder is lost, too.
          const exact = model.holds(lease, now) && model.row(installExclusive).expiresAt === lease.expiresAt
          if (random(2) === 0) {
            const done = yield* Effect.result(leases.InstallRenew({ lease, durationMs }))
            check("install renew", Result.isSuccess(done), exact)
            if (Result.isSuccess(done)) remember(done.success)
          } else {
            check("install clear", yield* tag(leases.InstallClear({ lease })), exact ? "ok" : "LeaseLost")
            if (exact) model.rows.set(installExclusive, { holder: undefined, expiresAt: 0, completedAt: undefined })
          }
          break
        }
        default: {
          const ms = random(4) === 0 ? random(10_000) : random(800)
          yield* TestClock.adjust(ms)
          now += ms
        }
      }
    }
  })

for (let round = 0; round < 6; round += 1) {
  it.effect(
    `1,000 random messages agree with the model (round ${round})`,
    () => story(1_000, generator(seed + round)).pipe(Effect.provide(Layer.provideMerge(LeaseManager.layer, freshHome))),
    60_000
  )
}
