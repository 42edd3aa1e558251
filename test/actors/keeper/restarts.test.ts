/** What the records plan at a sandbox's end, and who carries it out. */
import { describe, expect } from "bun:test"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { awaitRestart } from "../../../src/actors/keeper/process.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import type { TerminationReason } from "../../../src/domain/sandbox/sandbox.ts"
import { Database } from "../../../src/store/database/Database.ts"
import {
  beginStart,
  cancelRestart,
  findSandbox,
  insertRun,
  terminate,
  transition
} from "../../../src/store/database/sandboxes.ts"
import { freshHome } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { config, deadProcess, putSandbox } from "../../support/sandboxes.ts"

const box = "box" as SafeName
const info = Effect.gen(function* () {
  return (yield* findSandbox(yield* Database, box))!.info
})

/** A sandbox with a policy that is up since `startedAt`. */
const running = Effect.fnUntraced(function* (restart: NonNullable<typeof config.restart>, startedAt: number) {
  const db = yield* Database
  const id = yield* putSandbox({ name: box, status: "created" })
  yield* db.run("UPDATE sandbox SET config = ? WHERE id = ?", [JSON.stringify({ ...config, restart }), id])
  yield* beginStart(db, id, startedAt)
  yield* insertRun(db, id, "qemu", yield* deadProcess, startedAt)
  yield* transition(db, id, "running", startedAt)
  return id
})

const end = Effect.fnUntraced(function* (id: number, reason: TerminationReason, nowMs: number) {
  const db = yield* Database
  const termination = { exitCode: 1, exitSignal: null, reason, detail: null }
  return yield* terminate(db, id, ["running", "starting", "draining"], "stopped", termination, nowMs)
})

describe("restarts", () => {
  it.effect("are planned with the end, and given up", () =>
    Effect.gen(function* () {
      const db = yield* Database
      const id = yield* running({ policy: "on-failure", attemptsMax: 2 }, 1000)
      yield* end(id, "failed", 2000)
      expect(yield* info).toMatchObject({ status: "stopped", restartCount: 1, restartAt: 2500 })
      expect(yield* beginStart(db, id, 2500, 2400)).toBe(false)
      expect(yield* beginStart(db, id, 2500, 2500)).toBe(true)
      expect(yield* info).toMatchObject({ status: "starting", restartCount: 1, restartAt: null })
      yield* end(id, "boot_failed", 3000)
      expect(yield* info).toMatchObject({ restartCount: 2, restartAt: 4000 })
      yield* beginStart(db, id, 4000, 4000)
      yield* end(id, "boot_failed", 5000)
      expect(yield* info).toMatchObject({ restartCount: 2, restartAt: null })
      // Somebody starts it: a new row of attempts.
      expect(yield* beginStart(db, id, 6000)).toBe(true)
      expect(yield* info).toMatchObject({ status: "starting", restartCount: 0 })
    }).pipe(Effect.provide(freshHome))
  )

  it.effect("are not planned after a stop, nor for what goes with its end", () =>
    Effect.gen(function* () {
      const db = yield* Database
      const id = yield* running({ policy: "always" }, 1000)
      yield* db.run("UPDATE sandbox SET ephemeral = 1 WHERE id = ?", [id])
      yield* end(id, "failed", 2000)
      expect(yield* info).toMatchObject({ restartAt: null })
      yield* db.run("UPDATE sandbox SET ephemeral = 0, status = 'running' WHERE id = ?", [id])
      yield* end(id, "shutdown_requested", 2000)
      expect(yield* info).toMatchObject({ restartAt: null })
    }).pipe(Effect.provide(freshHome))
  )

  it.effect("wait for their time, and are taken back by whoever stops or starts the sandbox", () =>
    Effect.gen(function* () {
      const db = yield* Database
      const id = yield* running({ policy: "always" }, 1000)
      const wait = (at: number) => Effect.forkChild(awaitRestart(box, at), { startImmediately: true })
      yield* end(id, "failed", 1000)
      const due = yield* wait(1500)
      yield* TestClock.adjust(1499)
      expect(due.pollUnsafe()).toBeUndefined()
      yield* TestClock.adjust(1)
      expect(yield* Fiber.join(due)).toBe(true)
      yield* beginStart(db, id, 1500, 1500)
      yield* end(id, "failed", 2000)
      const stopped = yield* wait(3000)
      expect(yield* cancelRestart(db, id)).toBe(true)
      expect(yield* cancelRestart(db, id)).toBe(false)
      yield* TestClock.adjust(250)
      expect(yield* Fiber.join(stopped)).toBe(false)
      expect(yield* beginStart(db, id, 3000, 3000)).toBe(false)
      yield* db.run("DELETE FROM sandbox WHERE id = ?", [id])
      expect(yield* awaitRestart(box, 3000)).toBe(false)
    }).pipe(Effect.provide(freshHome))
  )

  it.effect("come at once when a clock that ran ahead has dated them", () =>
    Effect.gen(function* () {
      const db = yield* Database
      const id = yield* running({ policy: "always" }, 1000)
      yield* end(id, "failed", 1000)
      const year = 365 * 86_400_000
      yield* db.run("UPDATE sandbox SET restart_at = ? WHERE id = ?", [year, id])
      expect(yield* awaitRestart(box, year)).toBe(true)
    }).pipe(Effect.provide(freshHome))
  )
})
