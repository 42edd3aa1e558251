import { describe, expect } from "bun:test"
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import { LeaseManager } from "../../src/actors/LeaseManager.ts"
import { Sweeper } from "../../src/actors/Sweeper.ts"
import type { SafeName } from "../../src/domain/name.ts"
import { Database } from "../../src/store/Database.ts"
import { Paths } from "../../src/store/Paths.ts"
import { identify } from "../../src/store/processes.ts"
import { findSandbox } from "../../src/store/sandboxes.ts"
import { freshHome, temporaryDirectory } from "../support/home.ts"
import { it } from "../support/it.ts"
import { deadProcess, putSandbox } from "../support/sandboxes.ts"

const environment = Sweeper.layer().pipe(Layer.provideMerge(LeaseManager.layer), Layer.provideMerge(freshHome))

const statusOf = (name: string) =>
  Effect.gen(function* () {
    return (yield* findSandbox(yield* Database, name as SafeName))?.info
  })

describe("Sweeper", () => {
  it.live("reconciles dead and draining sandboxes, removes ended ephemeral ones, leaves the living", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const dead = yield* deadProcess
      yield* putSandbox({ name: "dead", status: "running", process: dead })
      yield* putSandbox({ name: "drained", status: "draining", process: dead })
      yield* putSandbox({ name: "early", status: "draining" })
      yield* putSandbox({ name: "alive", status: "running", process: identify(process.pid)! })
      yield* putSandbox({ name: "starting", status: "running" })
      yield* putSandbox({ name: "gone", status: "stopped", ephemeral: true })
      mkdirSync(path.join(paths.sandboxes, "gone", "logs"), { recursive: true })
      const report = yield* sweeper.Sweep({ force: false })
      expect({ ...report }).toEqual({ reconciled: 3, removed: 1, errors: 0, timed_out: false })
      expect(yield* statusOf("dead")).toMatchObject({ status: "crashed", terminationReason: "internal_error" })
      expect(yield* statusOf("drained")).toMatchObject({ status: "stopped", terminationReason: "shutdown_requested" })
      expect(yield* statusOf("early")).toMatchObject({ status: "stopped" })
      expect(yield* statusOf("alive")).toMatchObject({ status: "running" })
      expect(yield* statusOf("starting")).toMatchObject({ status: "running" })
      expect(yield* statusOf("gone")).toBeUndefined()
      expect(existsSync(path.join(paths.sandboxes, "gone"))).toBe(false)
      expect(yield* sweeper.Sweep({ force: false })).toBeNull()
    }).pipe(Effect.provide(environment))
  )

  it.live("a pid that another process uses now, or that is from another boot, counts as dead", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const me = identify(process.pid)!
      yield* putSandbox({ name: "reused", status: "running", process: { ...me, startTicks: me.startTicks - 1 } })
      yield* putSandbox({ name: "rebooted", status: "running", process: { ...me, bootId: "another boot" } })
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ reconciled: 2 })
      expect(yield* statusOf("reused")).toMatchObject({ status: "crashed" })
      expect(yield* statusOf("rebooted")).toMatchObject({ status: "crashed" })
    }).pipe(Effect.provide(environment))
  )

  it.live("a zombie counts as dead", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      // The shell's child ends at once; the exec'd sleep never waits for it.
      const parent = Bun.spawn(["sh", "-c", "true & echo $!; exec sleep 60"], { stdout: "pipe" })
      const line = yield* Effect.promise(() => parent.stdout.getReader().read())
      const pid = Number(new TextDecoder().decode(line.value))
      while (!(yield* Effect.promise(() => Bun.file(`/proc/${pid}/stat`).text())).includes(") Z "))
        yield* Effect.sleep(5)
      yield* putSandbox({ name: "zombie", status: "running", process: identify(pid)! })
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ reconciled: 1 })
      parent.kill("SIGKILL")
    }).pipe(Effect.provide(environment))
  )

  it.live("cleans one sandbox only when it is ephemeral, ended and without a process", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      yield* putSandbox({ name: "kept", status: "stopped" })
      yield* putSandbox({ name: "busy", status: "running", ephemeral: true })
      yield* putSandbox({ name: "live", status: "stopped", ephemeral: true, process: identify(process.pid)! })
      yield* putSandbox({ name: "bare", status: "crashed", ephemeral: true })
      const clean = (name: string) => sweeper.Clean({ name: name as SafeName })
      expect(yield* clean("kept")).toBe("skipped_persistent")
      expect(yield* clean("busy")).toBe("skipped_active")
      expect(yield* clean("live")).toBe("skipped_live_pid")
      expect(yield* clean("bare")).toBe("removed")
      expect(yield* clean("bare")).toBe("already_gone")
      expect(existsSync(paths.sandboxes)).toBe(true)
    }).pipe(Effect.provide(environment))
  )

  it.live("removing a directory never follows a link out of it", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const outside = yield* temporaryDirectory
      writeFileSync(path.join(outside, "precious"), "x")
      yield* putSandbox({ name: "inner", status: "stopped", ephemeral: true })
      mkdirSync(path.join(paths.sandboxes, "inner"))
      symlinkSync(outside, path.join(paths.sandboxes, "inner", "link"))
      yield* putSandbox({ name: "outer", status: "stopped", ephemeral: true })
      symlinkSync(outside, path.join(paths.sandboxes, "outer"))
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ removed: 2 })
      expect(existsSync(path.join(outside, "precious"))).toBe(true)
    }).pipe(Effect.provide(environment))
  )

  it.live("one bad row is counted and stops no other", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const db = yield* Database
      const dead = yield* deadProcess
      yield* putSandbox({ name: "bad", status: "running", process: dead })
      yield* db.run("UPDATE sandbox SET config = '{' WHERE name = 'bad'")
      yield* putSandbox({ name: "good", status: "running", process: dead })
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ reconciled: 1, errors: 1 })
      expect(yield* statusOf("good")).toMatchObject({ status: "crashed" })
    }).pipe(Effect.provide(environment))
  )
})
