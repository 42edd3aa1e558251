import { describe, expect } from "bun:test"
import { Effect, Fiber, Layer, Option } from "effect"
import { TestClock } from "effect/testing"
import {
  holdContent,
  installLeaseMs,
  Lease,
  LeaseManager,
  statements,
  withLease
} from "../../../src/actors/leases/LeaseManager.ts"
import { Database, type Service as DatabaseService } from "../../../src/store/database/Database.ts"
import { currentBootId } from "../../../src/store/processes/processes.ts"
import { leaseToken } from "../../../src/store/processes/processToken.ts"
import { startChild } from "../../support/children.ts"
import { freshHome, homeAt, temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

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
      expect(yield* Effect.flip(leases.Complete({ lease: first! }))).toMatchObject({
        _tag: "LeaseLost",
        lease: "sweep"
      })
      yield* leases.Complete({ lease: second! })
      yield* TestClock.adjust("29 seconds")
      expect(yield* leases.TryAcquire(claim)).toBeNull()
      yield* TestClock.adjust("1 seconds")
      expect(yield* leases.TryAcquire(claim)).not.toBeNull()
    }).pipe(Effect.provide(environment))
  )

  it.effect("shows what is held and by when it ends, without the secrets of the holders", () =>
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      expect(yield* leases.List()).toEqual([])
      yield* leases.TryAcquire(claim)
      yield* leases.HoldContent({ token: "t1", resources: ["sha256:b", "sha256:a"], durationMs: 5000 })
      yield* leases.HoldContent({ token: "t2", resources: ["sha256:a"], durationMs: 9000 })
      expect((yield* leases.List()).map((each) => ({ ...each }))).toEqual([
        { kind: "maintenance", name: "sweep", expiresAt: 10_000 },
        { kind: "content", name: "sha256:a", expiresAt: 9000 },
        { kind: "content", name: "sha256:b", expiresAt: 5000 }
      ])
      yield* TestClock.adjust("9 seconds")
      expect((yield* leases.List()).map(({ name }) => name)).toEqual(["sweep"])
    }).pipe(Effect.provide(environment))
  )

  it.effect("times that a clock wrote which ran ahead hold nothing up, and a dead holder holds nothing", () =>
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      const db = yield* Database
      yield* TestClock.setTime(1_000_000_000)
      const year = 1_000_000_000 + 365 * 86_400_000
      const row = (expires: number, completed: number | null, holder: string | null) =>
        Effect.gen(function* () {
          yield* db.run("DELETE FROM maintenance_lease")
          const insert =
            "INSERT INTO maintenance_lease (name, lease_expires_at, last_completed_at, holder_token, holder_pid) VALUES (?, ?, ?, ?, 1)"
          yield* db.run(insert, ["sweep", expires, completed, holder])
          return (yield* leases.TryAcquire(claim)) !== null
        })
      const boot = currentBootId()
      const [, , namespace] = leaseToken().split("-")
      const dead = `999999999-1-${namespace}-${boot}/x`
      const foreign = `1-1-1-00000000-0000-0000-0000-000000000000/x`
      const soon = 1_000_000_000 + 5000
      expect(yield* row(0, 1_000_000_000 - 29_999, null)).toBe(false)
      expect(yield* row(0, year, null)).toBe(true)
      expect(yield* row(soon, null, leaseToken())).toBe(false)
      expect(yield* row(soon, null, foreign)).toBe(false)
      expect(yield* row(soon, null, dead)).toBe(true)
      expect(yield* row(year, null, dead)).toBe(true)
      expect(yield* row(year, null, foreign)).toBe(true)
      expect(yield* row(year, null, leaseToken())).toBe(true)
    }).pipe(Effect.provide(environment))
  )

  it.effect("a hold that was lost while its process slept is taken again", () =>
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      const db = yield* Database
      const hold = yield* holdContent(leases)
      yield* hold.add(["sha256:a", "sha256:b"])
      const held = Effect.map(leases.List(), (list) => list.map(({ name }) => name))
      yield* db.run("DELETE FROM content_lease WHERE resource = 'sha256:a'")
      expect(yield* held).toEqual(["sha256:b"])
      yield* TestClock.adjust("20 seconds")
      expect(yield* held).toEqual(["sha256:a", "sha256:b"])
      yield* db.run("DELETE FROM content_lease")
      yield* TestClock.adjust("20 seconds")
      expect(yield* held).toEqual(["sha256:a", "sha256:b"])
    }).pipe(Effect.scoped, Effect.provide(environment))
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
    "64 processes at once give one winner",
    () =>
      Effect.gen(function* () {
        const home = yield* temporaryDirectory
        yield* Effect.scoped(Layer.build(homeAt(home)))
        // Longer than 64 processes take on a busy machine.
        const long = JSON.stringify({ ...claim, durationMs: 600_000 })
        // All stay until the last has asked: what a dead process held is free.
        const body = `say((await go(home, {}, LeaseManager.use((l) => l.TryAcquire(${long})))) === null ? "0" : "1")
          await Bun.stdin.text()`
        const children = Array.from({ length: 64 }, () => startChild(home, body))
        const first = async (child: (typeof children)[number]) => {
          const { value } = await child.stdout.getReader().read()
          return new TextDecoder().decode(value)
        }
        const answers = yield* Effect.promise(() => Promise.all(children.map(first))).pipe(
          Effect.ensuring(Effect.sync(() => children.forEach((child) => void child.kill("SIGKILL"))))
        )
        expect(answers.toSorted().join("")).toBe(`${"0".repeat(63)}1`)
      }),
    120_000
  )

  it.live(
    "what a killed holder had is free at once",
    () =>
      Effect.gen(function* () {
        const home = yield* temporaryDirectory
        const claim = { name: "x", durationMs: 600_000, minIntervalMs: 0 }
        const body = `await go(home, {}, Effect.andThen(LeaseManager.use((l) => l.TryAcquire(${JSON.stringify(claim)})),
          Effect.andThen(Effect.sync(() => say("held")), Effect.never)))`
        const child = startChild(home, body)
        yield* Effect.promise(() => child.stdout.getReader().read())
        yield* Effect.gen(function* () {
          const leases = yield* LeaseManager
          expect(yield* leases.TryAcquire(claim)).toBeNull()
          child.kill("SIGKILL")
          yield* Effect.promise(() => child.exited)
          expect(yield* leases.TryAcquire(claim)).not.toBeNull()
        }).pipe(Effect.provide(Layer.provideMerge(LeaseManager.layer, homeAt(home))))
      }),
    30_000
  )

  it.live("a refused attempt is one SELECT and no write; a first one wins with three statements", () =>
    Effect.gen(function* () {
      const trace: Array<string> = []
      const traced = Layer.effect(
        Database,
        Effect.map(Database, (db): DatabaseService => {
          const note =
            <A extends ReadonlyArray<unknown>, B>(run: (sql: string, ...rest: A) => B) =>
            (sql: string, ...rest: A) => {
              trace.push(sql.split(" ")[0]!)
              return run(sql, ...rest)
            }
          return { ...db, all: note(db.all) as typeof db.all, get: note(db.get) as typeof db.get, run: note(db.run) }
        })
      ).pipe(Layer.provide(freshHome))
      yield* Effect.gen(function* () {
        const leases = yield* LeaseManager
        yield* leases.TryAcquire(claim)
        expect(trace.splice(0)).toEqual(["SELECT", "INSERT", "UPDATE"])
        expect(yield* leases.TryAcquire(claim)).toBeNull()
        expect(trace.splice(0)).toEqual(["SELECT"])
      }).pipe(Effect.provide(Layer.provide(LeaseManager.layer, traced)))
    })
  )

  it.effect("scoped use renews, completes on success, and frees at once on failure", () =>
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      const long = yield* Effect.forkChild(withLease(leases, claim, Effect.as(Effect.sleep("25 seconds"), "done")))
      // Second by second: each renewal crosses the actor's mailbox before the next one is due.
      for (let second = 0; second < 24; second += 1) yield* TestClock.adjust("1 seconds")
      expect(yield* leases.TryAcquire(claim)).toBeNull()
      yield* TestClock.adjust("1 seconds")
      expect(yield* Fiber.join(long)).toEqual(Option.some("done"))
      expect(yield* withLease(leases, claim, Effect.die("not run"))).toEqual(Option.none())
      const other = { ...claim, name: "other" }
      expect(yield* Effect.flip(withLease(leases, other, Effect.fail("broken")))).toBe("broken")
      expect(yield* withLease(leases, other, Effect.succeed("at once"))).toEqual(Option.some("at once"))
    }).pipe(Effect.provide(environment))
  )

  it.effect("scoped use interrupts the effect when the lease is lost", () =>
    Effect.gen(function* () {
      const leases = yield* LeaseManager
      const db = yield* Database
      let interrupted = false
      const body = Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (interrupted = true)))
      const running = yield* Effect.forkChild(Effect.flip(withLease(leases, claim, body)))
      yield* TestClock.adjust("1 seconds")
      yield* db.run("UPDATE maintenance_lease SET holder_token = 'somebody else'")
      yield* TestClock.adjust("3 seconds")
      expect(yield* Fiber.join(running)).toMatchObject({ _tag: "LeaseLost", lease: claim.name })
      expect(interrupted).toBe(true)
    }).pipe(Effect.provide(environment))
  )

  it.live("an install lease keeps every other start out until it is cleared by its holder", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      const open = Effect.scoped(Layer.build(homeAt(home)))
      yield* Effect.gen(function* () {
        const leases = yield* LeaseManager
        const lease = yield* leases.InstallAcquire({ durationMs: installLeaseMs })
        const error = yield* Effect.flip(open)
        expect(error).toMatchObject({ _tag: "InstallInProgress", deadline: lease.expiresAt })
        expect(yield* Effect.flip(leases.InstallAcquire({ durationMs: 1 }))).toMatchObject({
          deadline: lease.expiresAt
        })
        const moved = yield* leases.InstallRenew({ lease, durationMs: installLeaseMs * 2 })
        expect(moved.expiresAt).toBeGreaterThan(lease.expiresAt)
        const forged = new Lease({ ...moved, token: "forged" })
        expect(yield* Effect.flip(leases.InstallClear({ lease: forged }))).toMatchObject({ _tag: "LeaseLost" })
        expect(yield* Effect.flip(leases.InstallClear({ lease }))).toMatchObject({ _tag: "LeaseLost" })
        yield* Effect.flip(open)
        yield* leases.InstallClear({ lease: moved })
        yield* open
      }).pipe(Effect.provide(Layer.provideMerge(LeaseManager.layer, homeAt(home))))
    })
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
