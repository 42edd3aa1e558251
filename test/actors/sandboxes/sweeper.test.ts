import { describe, expect, test } from "bun:test"
import { existsSync, mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import { LeaseManager } from "../../../src/actors/leases/LeaseManager.ts"
import { decide, Sweeper } from "../../../src/actors/sandboxes/Sweeper.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import type { SandboxInfo, Status } from "../../../src/domain/sandbox/sandbox.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { findSandbox } from "../../../src/store/database/sandboxes.ts"
import { tryFileLock } from "../../../src/store/files/lock.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { saveEnding, saveProcess } from "../../../src/store/files/runFile.ts"
import { identify } from "../../../src/store/processes/processes.ts"
import { leaseToken } from "../../../src/store/processes/processToken.ts"
import { runChild, startChild } from "../../support/children.ts"
import { freshHome, homeAt, temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { deadProcess, putSandbox } from "../../support/sandboxes.ts"

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

  it.live("what a keeper was about to end, and for what, is recorded so when both died", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const dead = yield* deadProcess
      const drain = { exitCode: null, exitSignal: null, reason: "drain_requested", detail: null } as const
      const failed = { exitCode: 3, exitSignal: null, reason: "failed", detail: null } as const
      for (const [name, ending, of] of [
        ["drained", drain, dead],
        ["failed", failed, dead],
        ["stale", drain, { ...dead, startTicks: dead.startTicks + 1 }]
      ] as const) {
        const id = yield* putSandbox({ name, status: "draining", process: dead })
        mkdirSync(paths.sandbox(name as SafeName).directory, { recursive: true })
        const run = { sandboxId: id, engine: "qemu", startedAt: 2 }
        yield* saveProcess(paths, name as SafeName, run, of)
        yield* saveEnding(paths, name as SafeName, of, ending)
      }
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ reconciled: 3 })
      expect(yield* statusOf("drained")).toMatchObject({ status: "stopped", terminationReason: "drain_requested" })
      expect(yield* statusOf("failed")).toMatchObject({ terminationReason: "failed", exitCode: 3 })
      expect(yield* statusOf("stale")).toMatchObject({ terminationReason: "shutdown_requested" })
    }).pipe(Effect.provide(environment))
  )

  it.live("a pid that another process uses now, or that is from another boot, counts as dead", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const me = identify(process.pid)!
      yield* putSandbox({ name: "reused", status: "running", process: { ...me, startTicks: me.startTicks - 1 } })
      yield* putSandbox({ name: "rebooted", status: "running", process: { ...me, bootId: "another boot" } })
      yield* (yield* Database).run(
        "UPDATE sandbox SET config = json_set(config, '$.restart', json(?)) WHERE name = ?",
        ['{"policy":"always"}', "rebooted"]
      )
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ reconciled: 2 })
      expect(yield* statusOf("reused")).toMatchObject({ status: "crashed", restartAt: null })
      // What ran when the machine went down comes back by its policy.
      expect(yield* statusOf("rebooted")).toMatchObject({
        status: "crashed",
        restartCount: 1,
        restartAt: expect.any(Number)
      })
    }).pipe(Effect.provide(environment))
  )

  it.live("what a guest's agent ended by itself is recorded so, from its last word", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const dead = yield* deadProcess
      for (const [name, word] of [
        ["late", "max_duration_exceeded"],
        ["idle", "idle_timeout"],
        ["liar", "completed"]
      ] as const) {
        yield* putSandbox({ name, status: "running", process: dead })
        mkdirSync(paths.sandbox(name as SafeName).logs, { recursive: true })
        writeFileSync(
          paths.sandbox(name as SafeName).consoleLog,
          `${"x".repeat(9000)}\nbunker-agent: powering off by itself: ${word}\nreboot: Restarting system\n`
        )
      }
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ reconciled: 3 })
      expect(yield* statusOf("late")).toMatchObject({ status: "stopped", terminationReason: "max_duration_exceeded" })
      expect(yield* statusOf("idle")).toMatchObject({ status: "stopped", terminationReason: "idle_timeout" })
      expect(yield* statusOf("liar")).toMatchObject({ status: "crashed", terminationReason: "internal_error" })
    }).pipe(Effect.provide(environment))
  )

  it.live("what an ephemeral sandbox said that did not boot, or crashed, is kept for an hour", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const db = yield* Database
      for (const [name, reason, minutes] of [
        ["fresh", "boot_failed", 59],
        ["old", "boot_failed", 61],
        ["panic", "internal_error", 59],
        ["old-panic", "internal_error", 61],
        ["mute", "agent_unresponsive", 1],
        ["done", "completed", 1],
        ["failed", "failed", 1]
      ] as const) {
        const id = yield* putSandbox({ name, status: "crashed", ephemeral: true, process: yield* deadProcess })
        yield* db.run("UPDATE sandbox SET updated_at = ? WHERE id = ?", [Date.now() - minutes * 60_000, id])
        yield* db.run(
          "UPDATE run SET status = 'terminated', termination_reason = ?, terminated_at = 3 WHERE sandbox_id = ?",
          [reason, id]
        )
        mkdirSync(paths.sandbox(name as SafeName).logs, { recursive: true })
      }
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ removed: 4 })
      expect(readdirSync(paths.sandboxes).toSorted()).toEqual(["fresh", "mute", "panic"])
      // Whoever has read it gives it up.
      expect(yield* sweeper.Clean({ name: "fresh" as SafeName })).toBe("removed")
    }).pipe(Effect.provide(environment))
  )

  it.live("an ephemeral sandbox that died with its keeper waits for a reader, and goes when its run died, too", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const dead = yield* deadProcess
      for (const [name, creator] of [
        ["detached", undefined],
        ["foreground", leaseToken()],
        ["looked-at", leaseToken()]
      ] as const) {
        yield* putSandbox({ name, status: "running", ephemeral: true, process: dead })
        const own = paths.sandbox(name as SafeName)
        mkdirSync(own.directory, { recursive: true })
        if (creator !== undefined) writeFileSync(own.creator, creator)
      }
      yield* sweeper.Reconcile({ name: "looked-at" as SafeName })
      expect(yield* statusOf("looked-at")).toBeUndefined()
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ reconciled: 2, removed: 1, errors: 0 })
      expect(readdirSync(paths.sandboxes)).toEqual(["detached"])
      expect(yield* sweeper.Reconcile({ name: "detached" as SafeName })).toBe(false)
      expect(yield* statusOf("detached")).toMatchObject({ status: "crashed", terminationReason: "internal_error" })
    }).pipe(Effect.provide(environment))
  )

  it.live("an ephemeral sandbox that was never started goes with whoever made it", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const db = yield* Database
      const own = leaseToken()
      const [holder, random] = own.split("/") as [string, string]
      const dead = `${holder.replace(/^\d+-\d+/, `${2 ** 22 + 1}-7`)}/${random}`
      const rebooted = own.replace(/[0-9a-f-]{36}\//, `${crypto.randomUUID()}/`)
      const elsewhere = own.replace(/^(\d+-\d+)-\d+/, "$1-7")
      for (const [name, ephemeral, creator, seconds] of [
        ["mine", true, own, 100_000],
        ["orphan", true, dead, 0],
        ["half", true, undefined, 11],
        ["young", true, undefined, 0],
        ["empty", true, "", 11],
        ["rebooted", true, rebooted, 11],
        ["stranger", true, elsewhere, 80_000],
        ["lost", true, elsewhere, 90_000],
        ["kept", false, dead, 100_000]
      ] as const) {
        const id = yield* putSandbox({ name, status: "created", ephemeral })
        yield* db.run("UPDATE sandbox SET updated_at = ? WHERE id = ?", [Date.now() - seconds * 1000, id])
        const own = paths.sandbox(name as SafeName)
        mkdirSync(own.directory, { recursive: true })
        if (creator !== undefined) writeFileSync(own.creator, creator)
      }
      expect({ ...(yield* sweeper.Sweep({ force: true, dryRun: true })) }).toMatchObject({ reconciled: 5 })
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toMatchObject({ reconciled: 5, removed: 5, errors: 0 })
      expect(readdirSync(paths.sandboxes).toSorted()).toEqual(["kept", "mine", "stranger", "young"])
      expect(yield* statusOf("mine")).toMatchObject({ status: "created" })
    }).pipe(Effect.provide(environment))
  )

  it.live("a zombie counts as dead", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      // The shell's child ends after the shell has become a sleep, which never waits for it.
      const parent = Bun.spawn(["sh", "-c", "sleep 0.5 & echo $!; exec sleep 60"], { stdout: "pipe" })
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

  it.live(
    "puts 250 of 1,000 stale rows right in one window, oldest first",
    () =>
      Effect.gen(function* () {
        const dead = yield* deadProcess
        for (let index = 0; index < 1_000; index += 1) {
          yield* putSandbox({ name: `s${index}`, status: index % 2 === 0 ? "running" : "draining", process: dead })
        }
        const sweep = Effect.flatMap(Sweeper, (sweeper) => sweeper.Sweep({ force: true }))
        const home = (yield* Paths).home
        const roomy = Sweeper.layer({ wallMs: 30_000 }).pipe(
          Layer.provideMerge(LeaseManager.layer),
          Layer.provide(homeAt(home))
        )
        const first = yield* sweep.pipe(Effect.provide(roomy))
        expect({ ...first }).toEqual({ reconciled: 250, removed: 0, errors: 0, timed_out: false })
        expect(yield* statusOf("s0")).toMatchObject({ status: "crashed" })
        expect(yield* statusOf("s249")).toMatchObject({ status: "stopped" })
        expect(yield* statusOf("s250")).toMatchObject({ status: "running" })
        const hurried = Sweeper.layer({ wallMs: 1 }).pipe(
          Layer.provideMerge(LeaseManager.layer),
          Layer.provide(homeAt(home))
        )
        expect(yield* sweep.pipe(Effect.provide(hurried))).toMatchObject({ timed_out: true })
      }).pipe(Effect.provide(freshHome)),
    60_000
  )

  it.live("a dry run tells the same and changes nothing", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      yield* putSandbox({ name: "dead", status: "running", process: yield* deadProcess })
      yield* putSandbox({ name: "gone", status: "crashed", ephemeral: true })
      const expected = { reconciled: 1, removed: 1, errors: 0, timed_out: false }
      expect({ ...(yield* sweeper.Sweep({ force: true, dryRun: true })) }).toEqual(expected)
      expect(yield* statusOf("dead")).toMatchObject({ status: "running" })
      expect(yield* statusOf("gone")).toMatchObject({ status: "crashed" })
      expect({ ...(yield* sweeper.Sweep({ force: true })) }).toEqual(expected)
    }).pipe(Effect.provide(environment))
  )

  it.live("a directory that can not be removed keeps its row for the next sweep", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const directory = path.join((yield* Paths).sandboxes, "stuck")
      yield* putSandbox({ name: "stuck", status: "stopped", ephemeral: true })
      mkdirSync(directory)
      writeFileSync(path.join(directory, "file"), "x")
      const immutable = (flag: string) => Bun.spawnSync(["chattr", flag, path.join(directory, "file")]).exitCode === 0
      // A file system without the flag (tmpfs) can not show this.
      if (!immutable("+i")) return console.warn("skipped: no immutable files here")
      const clean = sweeper.Clean({ name: "stuck" as SafeName })
      expect(
        yield* Effect.ensuring(
          clean,
          Effect.sync(() => immutable("-i"))
        )
      ).toBe("dir_remove_failed")
      expect(yield* statusOf("stuck")).toMatchObject({ status: "stopped" })
      expect(yield* sweeper.Sweep({ force: true })).toMatchObject({ removed: 1 })
    }).pipe(Effect.provide(environment))
  )

  it.live(
    "16 processes cleaning one sandbox give exactly one removed",
    () =>
      Effect.gen(function* () {
        const home = (yield* Paths).home
        yield* putSandbox({ name: "one", status: "stopped", ephemeral: true })
        mkdirSync(path.join((yield* Paths).sandboxes, "one", "logs"), { recursive: true })
        const body = `say(await go(home, {}, Sweeper.use((s) => s.Clean({ name: "one" }))))`
        const answers = yield* Effect.promise(() => Promise.all(Array.from({ length: 16 }, () => runChild(home, body))))
        expect(answers.filter((answer) => answer === "removed")).toHaveLength(1)
        expect(answers.filter((answer) => !["removed", "already_gone", "already_claimed"].includes(answer))).toEqual([])
      }).pipe(Effect.provide(freshHome)),
    60_000
  )

  it.live(
    "a sweep killed in the middle is finished by the next one",
    () =>
      Effect.gen(function* () {
        const { home } = yield* Paths
        const db = yield* Database
        const dead = yield* deadProcess
        for (let index = 0; index < 3_000; index += 1)
          yield* putSandbox({ name: `k${index}`, status: "running", process: dead })
        const rows = (status: string) =>
          Effect.map(
            db.get<{ n: number }>("SELECT count(*) AS n FROM sandbox WHERE status = ?", [status]),
            (row) => row!.n
          )
        const child = startChild(
          home,
          `await go(home, { activeRows: 3000, wallMs: 60000 }, Sweeper.use((s) => s.Sweep({ force: true })))`
        )
        while ((yield* rows("crashed")) === 0) yield* Effect.sleep(5)
        child.kill("SIGKILL")
        yield* Effect.promise(() => child.exited)
        expect(yield* rows("running")).toBeGreaterThan(0)
        // Its lease has to run out first: nobody else sweeps meanwhile.
        yield* db.run("UPDATE maintenance_lease SET lease_expires_at = 0")
        const next = Sweeper.layer({ activeRows: 3_000, wallMs: 60_000 }).pipe(
          Layer.provideMerge(LeaseManager.layer),
          Layer.provide(homeAt(home))
        )
        yield* Effect.flatMap(Sweeper, (sweeper) => sweeper.Sweep({ force: true })).pipe(Effect.provide(next))
        expect(yield* rows("running")).toBe(0)
        expect(yield* rows("crashed")).toBe(3_000)
      }).pipe(Effect.provide(freshHome)),
    120_000
  )

  it.live("names the sandboxes that an older schema would not understand, by status", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const me = identify(process.pid)!
      yield* putSandbox({ name: "z-running", status: "running", process: me })
      yield* putSandbox({ name: "a-created", status: "created" })
      yield* putSandbox({ name: "stopped", status: "stopped" })
      yield* putSandbox({ name: "crashed", status: "crashed", process: me })
      expect((yield* sweeper.Active()).map((each) => ({ ...each }))).toEqual([
        { name: "a-created", status: "created", pid: null },
        { name: "z-running", status: "running", pid: process.pid }
      ])
    }).pipe(Effect.provide(environment))
  )

  it.live("clears run directories and temporary files that belong to nobody, and leases that ended", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const db = yield* Database
      const id = yield* putSandbox({ name: "kept", status: "stopped" })
      const old = new Date(Date.now() - 48 * 3_600_000)
      const make = (file: string, age: Date) => {
        mkdirSync(file, { recursive: true })
        writeFileSync(path.join(file, "x"), "x")
        utimesSync(file, age, age)
      }
      make(paths.run(id).directory, old)
      make(path.join(paths.runs, "999999"), old)
      make(path.join(paths.runs, "999998"), new Date())
      make(path.join(paths.temporary, "old.tmp"), old)
      make(path.join(paths.temporary, "new.tmp"), new Date())
      mkdirSync(path.join(paths.sandboxes, "kept"))
      for (const name of ["kept", "gone"]) {
        writeFileSync(path.join(paths.locks, `machine-${name}.lock`), "")
        utimesSync(path.join(paths.locks, `machine-${name}.lock`), old, old)
      }
      yield* db.run("INSERT INTO content_lease VALUES ('t', 'ended', 1), ('t', 'held', ?)", [Date.now() + 60_000])
      yield* sweeper.Sweep({ force: true })
      expect(readdirSync(paths.runs).toSorted()).toEqual([String(id), "999998"].toSorted())
      expect(readdirSync(paths.temporary)).toEqual(["new.tmp"])
      expect(readdirSync(paths.locks)).toEqual(["machine-kept.lock"])
      expect(yield* db.all("SELECT resource FROM content_lease")).toEqual([{ resource: "held" }])
    }).pipe(Effect.provide(environment))
  )

  it.live(
    "clears directories of machines whose creator died before it wrote the definition, and nothing with content",
    () =>
      Effect.gen(function* () {
        const sweeper = yield* Sweeper
        const paths = yield* Paths
        const { pid, startTicks } = yield* deadProcess
        const directory = (name: string) => path.join(paths.sandboxes, name)
        for (const name of ["empty", "half", "late", "disk", "old", "log", "written", "recorded", "creating"])
          mkdirSync(directory(name))
        // What a boot that came after the removal used to leave.
        mkdirSync(path.join(directory("late"), "logs"))
        mkdirSync(path.join(directory("log"), "logs"))
        writeFileSync(path.join(directory("log"), "logs/main.log"), "")
        writeFileSync(path.join(directory("old"), "upper.ext4"), "")
        utimesSync(path.join(directory("old"), "upper.ext4"), 0, 0)
        const temporary = (maker: { pid: number; startTicks: number }) =>
          `config.toml.${maker.pid.toString(36)}-${maker.startTicks.toString(36)}-1-0a1b2c3d.tmp`
        writeFileSync(path.join(directory("half"), temporary({ pid, startTicks })), "")
        writeFileSync(path.join(directory("written"), temporary(identify(process.pid)!)), "")
        writeFileSync(path.join(directory("disk"), "upper.ext4"), "")
        yield* putSandbox({ name: "recorded", status: "stopped" })
        yield* tryFileLock(paths.sandbox("creating" as SafeName).machineLock)
        yield* sweeper.Sweep({ force: true })
        expect(readdirSync(paths.sandboxes).toSorted()).toEqual([
          "creating",
          "disk",
          "log",
          "old",
          "recorded",
          "written"
        ])
        for (const name of ["empty", "half", "late"])
          expect(readdirSync(paths.locks)).not.toContain(`machine-${name}.lock`)
      }).pipe(Effect.scoped, Effect.provide(environment))
  )

  it.live("leaves a VM that somebody keeps to its keeper", () =>
    Effect.gen(function* () {
      const sweeper = yield* Sweeper
      const paths = yield* Paths
      const id = yield* putSandbox({ name: "kept", status: "running", process: yield* deadProcess })
      mkdirSync(paths.run(id).directory)
      yield* Effect.gen(function* () {
        expect(yield* tryFileLock(paths.run(id).keeperLock)).toBe(true)
        expect(yield* sweeper.Sweep({ force: true })).toMatchObject({ reconciled: 0 })
      }).pipe(Effect.scoped)
      expect(yield* sweeper.Sweep({ force: true })).toMatchObject({ reconciled: 1 })
    }).pipe(Effect.provide(environment))
  )
})

describe("what is decided about a row", () => {
  const row = (status: Status, hasRunningRun: boolean, updatedAt = 0) =>
    ({ info: { status, updatedAt } as SandboxInfo, process: undefined, hasRunningRun }) as const
  const now = 1_000_000
  const table: ReadonlyArray<readonly [string, Status, boolean, boolean, string | undefined]> = [
    ["running, dead", "running", true, false, "crashed internal_error"],
    ["running, alive", "running", true, true, undefined],
    ["running, no run", "running", false, false, undefined],
    ["draining, dead", "draining", true, false, "stopped shutdown_requested"],
    ["draining, alive", "draining", true, true, undefined],
    ["draining, no run", "draining", false, false, "stopped shutdown_requested"],
    ["starting, no run, long ago", "starting", false, false, "crashed boot_failed"],
    ["starting, dead", "starting", true, false, "crashed internal_error"],
    ["paused, dead", "paused", true, false, "crashed internal_error"],
    ["created", "created", false, false, undefined],
    ["stopped", "stopped", false, false, undefined],
    ["crashed", "crashed", true, false, undefined]
  ]
  for (const [name, status, run, alive, expected] of table) {
    test(`${name}: ${expected ?? "left as it is"}`, () => {
      const decision = decide(row(status, run), alive, now)
      expect(decision === undefined ? undefined : `${decision.to} ${decision.end.reason}`).toBe(expected as string)
    })
  }
  test("starting, no run, since a time that is yet to come: crashed", () => {
    expect(decide(row("starting", false, now + 10_001), false, now)?.to).toBe("crashed")
    expect(decide(row("starting", false, now + 10_000), false, now)).toBeUndefined()
  })
  test("starting, no run, just now: left as it is", () => {
    expect(decide(row("starting", false, now - 1), false, now)).toBeUndefined()
  })
})
