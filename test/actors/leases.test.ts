import { describe, expect } from "bun:test"
import path from "node:path"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { holdContent, LeaseManager, statements } from "../../src/actors/LeaseManager.ts"
import { Database } from "../../src/store/Database.ts"
import { freshHome, temporaryDirectory } from "../support/home.ts"
import { it } from "../support/it.ts"

const environment = Layer.provideMerge(LeaseManager.layer, freshHome)
const claim = { name: "sweep", durationMs: 10_000, minIntervalMs: 30_000 }

describe("LeaseManager", () => {
  it.effect("refuses while held, after expiry grants, after completion waits for the interval", () =>
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      const first = yield* leases.TryAcquire(claim)
      expect(first).not.toBeNull()
      expect(yield* leases.TryAcquire(claim)).toBeNull()
      yield* TestClock.adjust("10 seconds")
      const second = yield* leases.TryAcquire(claim)
      expect(second).not.toBeNull()
      expect(yield* Effect.flip(leases.Complete({ lease: first! }))).toMatchObject({ _tag: "LeaseLost", name: "sweep" })
      yield* leases.Complete({ lease: second! })
      yield* TestClock.adjust("29 seconds")
      expect(yield* leases.TryAcquire(claim)).toBeNull()
      yield* TestClock.adjust("1 seconds")
      expect(yield* leases.TryAcquire(claim)).not.toBeNull()
    }).pipe(Effect.provide(environment))
  )

  it.effect("a renewed lease lives on, and one that ended can not be renewed", () =>
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      const lease = (yield* leases.TryAcquire(claim))!
      yield* TestClock.adjust("9 seconds")
      const renewed = yield* leases.Renew({ lease, durationMs: 10_000 })
      yield* TestClock.adjust("9 seconds")
      expect(yield* leases.TryAcquire(claim)).toBeNull()
      yield* TestClock.adjust("2 seconds")
      expect(yield* Effect.flip(leases.Renew({ lease: renewed, durationMs: 1 }))).toMatchObject({ _tag: "LeaseLost" })
    }).pipe(Effect.provide(environment))
  )

  it.live(
    "32 processes at once give one winner",
    () =>
      Effect.gen(function* () {
        const home = yield* temporaryDirectory
        const script = `
        import { Effect, Layer } from "effect"
        import { LeaseManager } from ${JSON.stringify(path.join(import.meta.dir, "../../src/actors/LeaseManager.ts"))}
        import { homeAt } from ${JSON.stringify(path.join(import.meta.dir, "../support/home.ts"))}
        const won = await Effect.runPromise(Effect.scoped(Effect.gen(function* () {
          const context = yield* Layer.build(Layer.provideMerge(LeaseManager.layer, homeAt(${JSON.stringify(home)})))
          return yield* LeaseManager.use((l) => l.TryAcquire(${JSON.stringify(claim)})).pipe(Effect.provideContext(context))
        })))
        process.stdout.write(won === null ? "0" : "1")`
        const run = async () => {
          const child = Bun.spawn([process.execPath, "-e", script], {
            cwd: import.meta.dir,
            stdout: "pipe",
            stderr: "inherit"
          })
          return new Response(child.stdout).text()
        }
        const answers = yield* Effect.promise(() => Promise.all(Array.from({ length: 32 }, run)))
        expect(answers.toSorted().join("")).toBe(`${"0".repeat(31)}1`)
      }),
    60_000
  )

  it.effect("content is held while the scope lives, renewed past its duration, and free after it", () =>
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      const db = yield* Database
      const heldAt = (ms: number) => Effect.map(db.get(statements.held, ["sha256:x", ms]), (row) => row !== undefined)
      yield* Effect.gen(function* () {
        const hold = yield* holdContent(leases)
        yield* hold.add(["sha256:x"])
        expect(yield* heldAt(59_999)).toBe(true)
        expect(yield* heldAt(60_000)).toBe(false)
        yield* TestClock.adjust("45 seconds")
        expect(yield* heldAt(90_000)).toBe(true)
      }).pipe(Effect.scoped)
      expect(yield* heldAt(0)).toBe(false)
    }).pipe(Effect.provide(environment))
  )
})
