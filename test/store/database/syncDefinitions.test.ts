/** Rows and definitions of machines: each follows the other, and either can be lost. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import type { SafeName } from "../../../src/domain/name.ts"
import type { SandboxInfo } from "../../../src/domain/sandbox/sandbox.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { findSandbox, terminate, transition } from "../../../src/store/database/sandboxes.ts"
import {
  findMachine,
  indexMachines,
  machineProblems,
  settleMachine
} from "../../../src/store/database/syncDefinitions.ts"
import { loadMachine, saveMachine, updateMachineIp } from "../../../src/store/files/definitions.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { saveEnd, saveProcess } from "../../../src/store/files/runFile.ts"
import { identify } from "../../../src/store/processes/processes.ts"
import { freshHome, homeAt, temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { machine } from "../../support/machines.ts"
import { deadProcess, putSandbox } from "../../support/sandboxes.ts"

const web = "web" as SafeName
const list = Effect.gen(function* () {
  const { records, problems } = yield* indexMachines(yield* Database, yield* Paths)
  const all = Object.fromEntries(records.map(({ info }) => [info.name as string, info]))
  return { all: all as Record<string, SandboxInfo>, problems }
})
const file = Effect.map(Paths, (paths) => paths.sandbox(web).machineFile)
const edit = (change: (text: string) => string) =>
  Effect.map(file, (name) => fs.writeFileSync(name, change(fs.readFileSync(name, "utf8"))))

const first = <A>(effect: Effect.Effect<A, unknown, Database | Paths>, home: string) =>
  Effect.orDie(effect.pipe(Effect.provide(homeAt(home))))

describe("machines", () => {
  it.live("show what was edited with the next command, and keep it through state changes", () =>
    Effect.gen(function* () {
      const [db, paths] = [yield* Database, yield* Paths]
      yield* saveMachine(paths, machine("web"))
      const { id, vmId } = (yield* list).all["web"]!
      yield* edit((text) =>
        `# mine\n${text.replace("memory_mb = 256", "memory_mb = 1024")}image = "alpine"\n`.replace(
          /image = "docker[^\n]*\n/,
          ""
        )
      )
      const { info } = (yield* findMachine(db, paths, web))!
      expect(info).toMatchObject({ id, vmId, config: { memoryMb: 1024, image: "docker.io/library/alpine:latest" } })
      yield* transition(db, id, "starting", 1)
      yield* transition(db, id, "running", 2)
      yield* settleMachine(db, paths, web)
      expect(fs.readFileSync(yield* file, "utf8")).toMatch(/^# mine\n[\s\S]*state = "running"/)
      const end = { exitCode: null, exitSignal: null, reason: "internal_error", detail: null } as const
      yield* terminate(db, id, ["running"], "crashed", end, 3)
      expect((yield* list).all["web"]).toMatchObject({ status: "crashed", config: { memoryMb: 1024 } })
      expect((yield* loadMachine(paths, web)).machine).toMatchObject({ state: "stopped", vmId })
    }).pipe(Effect.provide(freshHome))
  )

  it.live("are running on disk until they have ended, and have no address after that", () =>
    Effect.gen(function* () {
      const [db, paths] = [yield* Database, yield* Paths]
      yield* saveMachine(paths, machine("web"))
      const { id } = (yield* list).all["web"]!
      const onDisk = Effect.gen(function* () {
        yield* settleMachine(db, paths, web)
        const { state, ipAddress } = (yield* loadMachine(paths, web)).machine
        return { state, ipAddress }
      })
      for (const status of ["starting", "running", "paused", "running", "draining"] as const) {
        yield* transition(db, id, status, 1)
        expect({ status, state: (yield* onDisk).state }).toEqual({ status, state: "running" })
      }
      yield* updateMachineIp(paths, web, "10.0.0.2")
      // A crash now still needs to be put right.
      expect((yield* loadMachine(paths, web)).needsRecovery).toBe(true)
      expect(yield* onDisk).toEqual({ state: "running", ipAddress: "10.0.0.2" })
      const end = { exitCode: null, exitSignal: null, reason: "shutdown_requested", detail: null } as const
      yield* terminate(db, id, ["draining"], "stopped", end, 3)
      expect(yield* onDisk).toEqual({ state: "stopped", ipAddress: undefined })
    }).pipe(Effect.provide(freshHome))
  )

  it.live("come back from their files when the database is gone", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      const before = yield* first(
        Effect.gen(function* () {
          const paths = yield* Paths
          for (const state of ["created", "running", "stopped"] as const)
            yield* saveMachine(paths, machine(state, { state, createdAt: 1_600_000_000_000 }))
          return (yield* list).all
        }),
        home
      )
      for (const name of fs.readdirSync(home).filter((each) => each.startsWith("bunker.db")))
        fs.rmSync(path.join(home, name))
      yield* first(
        Effect.gen(function* () {
          const { all } = yield* list
          expect(
            Object.values(all)
              .map(({ name, status }) => `${name} ${status}`)
              .toSorted()
          ).toEqual(["created created", "running stopped", "stopped stopped"])
          for (const [name, info] of Object.entries(all)) {
            expect(info).toMatchObject({
              vmId: before[name]!.vmId,
              config: before[name]!.config,
              createdAt: 1_600_000_000_000
            })
          }
          const { machine: corrected } = yield* loadMachine(yield* Paths, "running" as SafeName)
          expect(corrected.state).toBe("stopped")
        }),
        home
      )
    })
  )

  it.live("whose VM lives are running again when the database is gone", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      const self = identify(process.pid)!
      const saved = (name: string, sandboxId: number, process = self) =>
        Effect.gen(function* () {
          const paths = yield* Paths
          yield* saveMachine(paths, machine(name, { state: "running" }))
          yield* saveProcess(paths, name as SafeName, { sandboxId, engine: "qemu", startedAt: 7 }, process)
        })
      yield* first(
        Effect.gen(function* () {
          yield* saved("alive", 41)
          yield* saved("dead", 42, yield* deadProcess)
          const { all } = yield* list
          expect(all["alive"]).toMatchObject({
            id: 41,
            status: "running",
            pid: process.pid,
            engine: "qemu",
            startedAt: 7
          })
          expect(all["dead"]).toMatchObject({ status: "stopped", pid: null })
        }),
        home
      )
    })
  )

  it.live("whose end was recorded nowhere else start again as their policy says of that end", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      yield* first(
        Effect.gen(function* () {
          const [paths, process] = [yield* Paths, yield* deadProcess]
          const ends = {
            unknown: undefined,
            stopped: "shutdown_requested",
            ended: "completed",
            failed: "failed"
          } as const
          const config = { ...machine("any").config, restart: { policy: "on-failure" } } as const
          for (const [sandboxId, [text, reason]] of Object.entries(ends).entries()) {
            const name = text as SafeName
            yield* saveMachine(paths, machine(name, { state: "running", config }))
            yield* saveProcess(paths, name, { sandboxId, engine: "qemu", startedAt: 7 }, process)
            if (reason === undefined) continue
            const end = { exitCode: 0, exitSignal: null, reason, detail: null }
            yield* saveEnd(paths, name, { ...process, pid: process.pid + 1 }, { ...end, reason: "failed" })
            yield* saveEnd(paths, name, process, end)
          }
          const { all } = yield* list
          const again = Object.entries(all).filter(([, { restartAt }]) => restartAt !== null)
          expect(again.map(([name]) => name).toSorted()).toEqual(["failed", "unknown"])
        }),
        home
      )
    })
  )

  it.live("that were put there by hand appear, and a copy is another machine", () =>
    Effect.gen(function* () {
      const [db, paths] = [yield* Database, yield* Paths]
      yield* saveMachine(paths, machine("web"))
      const { vmId } = (yield* list).all["web"]!
      fs.cpSync(paths.sandbox(web).directory, path.join(paths.sandboxes, "web2"), { recursive: true })
      const { all, problems } = yield* list
      expect(problems).toMatchObject([{ name: "web2", kind: "name", reason: expect.stringContaining('"web"') }])
      expect(all["web2"]).toMatchObject({ status: "created", config: all["web"]!.config })
      expect(all["web2"]!.vmId).not.toBe(vmId)
      expect(yield* machineProblems(paths)).toHaveLength(1)
      const { id } = all["web2"]!
      yield* transition(db, id, "starting", 1)
      yield* list
      const copy = yield* loadMachine(paths, "web2" as SafeName)
      expect(copy).toMatchObject({ otherName: undefined, machine: { vmId: all["web2"]!.vmId } })
      expect(yield* machineProblems(paths)).toEqual([])
      expect((yield* list).all["web"]!.vmId).toBe(vmId)
    }).pipe(Effect.provide(freshHome))
  )

  it.live("whose directory was removed are gone, whose file was lost are written again", () =>
    Effect.gen(function* () {
      const paths = yield* Paths
      for (const name of ["web", "kept"]) yield* saveMachine(paths, machine(name))
      const before = (yield* list).all
      fs.rmSync(paths.sandbox(web).directory, { recursive: true })
      fs.rmSync(paths.sandbox("kept" as SafeName).machineFile)
      expect(Object.keys((yield* list).all)).toEqual(["kept"])
      expect((yield* loadMachine(paths, "kept" as SafeName)).machine).toMatchObject({
        vmId: before["kept"]!.vmId,
        config: before["kept"]!.config
      })
    }).pipe(Effect.provide(freshHome))
  )

  it.live("that an older build made get a file, ephemeral sandboxes none", () =>
    Effect.gen(function* () {
      const paths = yield* Paths
      yield* putSandbox({ name: "old", status: "stopped" })
      yield* putSandbox({ name: "gone", status: "running", ephemeral: true })
      const { all } = yield* list
      expect((yield* loadMachine(paths, "old" as SafeName)).machine).toMatchObject({
        vmId: all["old"]!.vmId,
        state: "stopped"
      })
      expect(fs.existsSync(paths.sandbox("gone" as SafeName).directory)).toBe(false)
    }).pipe(Effect.provide(freshHome))
  )

  it.live("whose file is broken keep their record, and are reported each time", () =>
    Effect.gen(function* () {
      const [db, paths] = [yield* Database, yield* Paths]
      yield* saveMachine(paths, machine("web"))
      const { id, config } = (yield* list).all["web"]!
      yield* edit((text) => text.replace("memory_mb = 256", "memory_mb = 1"))
      fs.mkdirSync(path.join(paths.sandboxes, "lost"))
      fs.writeFileSync(path.join(paths.sandboxes, "lost", "config.toml"), "name =")
      for (const _ of [1, 2]) {
        const { all, problems } = yield* list
        expect(Object.values(all)).toMatchObject([{ id, config }])
        expect(problems.map(({ name, kind }) => `${name} ${kind}`).toSorted()).toEqual(["lost broken", "web broken"])
      }
      expect((yield* findMachine(db, paths, web))?.info.id).toBe(id)
      expect(yield* Effect.flip(findMachine(db, paths, "lost" as SafeName))).toMatchObject({
        _tag: "MachineConfigInvalid"
      })
      yield* edit((text) => text.replace("memory_mb = 1", "memory_mb = 128"))
      expect((yield* findMachine(db, paths, web))?.info.config.memoryMb).toBe(128)
    }).pipe(Effect.provide(freshHome))
  )

  it.live("are looked at by sixteen at once without harm", () =>
    Effect.gen(function* () {
      const paths = yield* Paths
      yield* saveMachine(paths, machine("web"))
      const layer = Layer.fresh(homeAt(paths.home))
      yield* Effect.forEach(Array.from({ length: 16 }), () => Effect.provide(list, layer), { concurrency: 16 })
      expect(Object.keys((yield* list).all)).toEqual(["web"])
      expect(yield* findSandbox(yield* Database, web)).toBeDefined()
    }).pipe(Effect.provide(freshHome))
  )
})
