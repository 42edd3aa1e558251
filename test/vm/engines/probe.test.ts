/** Probes the engine under test by really booting, and what a machine without engines says. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { type EngineOptions, Engines } from "../../../src/vm/engines/Engine.ts"
import { kvmProblem, makeKrunEngine } from "../../../src/vm/engines/krun.ts"
import { it } from "../../support/it.ts"
import { bootTimeoutMs, engineKind, engineOptions, missing, runDirectory } from "../../support/vm.ts"

const withOptions = <A, E>(options: EngineOptions, use: (engines: Engines["Service"]) => Effect.Effect<A, E>) =>
  Engines.use(use).pipe(Effect.provide(Engines.layer(options)))

/** The kernel of a shared cache, results and init disks of its own. */
const freshCache = (directory: string): EngineOptions => {
  const bootCacheDir = path.join(directory, "boot")
  fs.mkdirSync(bootCacheDir)
  return { ...engineOptions, bootCacheDir }
}

describe.skipIf(missing !== undefined)(`probe of ${engineKind}`, () => {
  it.live(
    "boots once, remembers, and asks again when the agent changes",
    () =>
      Effect.gen(function* () {
        const directory = yield* runDirectory
        // A copy: the one in native/guest/build may be built anew between the two probes.
        const agentPath = path.join(directory, "agent")
        fs.copyFileSync(engineOptions.agentPath, agentPath)
        const options = { ...freshCache(directory), agentPath }
        const probe = withOptions(options, (engines) => engines.probe(engineKind))
        const first = yield* probe
        expect(first).toMatchObject({ kind: engineKind, ok: true, cached: false })
        expect(yield* probe).toEqual({ ...first, cached: true })
        fs.renameSync(agentPath, `${agentPath}.first`)
        fs.writeFileSync(agentPath, "no program")
        const broken = yield* probe
        expect(broken).toMatchObject({ ok: false, cached: false })
        expect(broken.reason).toContain("before its agent answered")
        expect(yield* probe).toEqual({ ...broken, cached: true })
        // Each of two builds that take turns knows its own result.
        fs.renameSync(`${agentPath}.first`, agentPath)
        expect(yield* probe).toEqual({ ...first, cached: true })
        for (const file of fs.readdirSync(options.bootCacheDir).filter((name) => name.startsWith("probe-")))
          fs.writeFileSync(path.join(options.bootCacheDir, file), "{ torn")
        expect(yield* probe).toMatchObject({ ok: true, cached: false })
      }),
    bootTimeoutMs * 2
  )
})

describe.skipIf(missing !== undefined || engineKind !== "qemu")("a probe that a disk hindered", () => {
  it.live("says so and is not remembered", () =>
    Effect.gen(function* () {
      const directory = yield* runDirectory
      const options = freshCache(directory)
      const before = process.env["TMPDIR"]
      process.env["TMPDIR"] = path.join(directory, "missing")
      const probe = withOptions(options, (engines) => engines.probe("qemu"))
      const found = yield* probe.pipe(
        Effect.ensuring(
          Effect.sync(() => {
            if (before === undefined) delete process.env["TMPDIR"]
            else process.env["TMPDIR"] = before
          })
        )
      )
      expect(found).toMatchObject({ ok: false, cached: false })
      expect(found.reason).toContain(path.join(directory, "missing"))
      expect(fs.readdirSync(options.bootCacheDir).filter((name) => name.startsWith("probe"))).toEqual([])
    })
  )
})

describe("KVM", () => {
  it.live("that is missing, closed to the user or broken is named, with what to do", () =>
    Effect.gen(function* () {
      const directory = yield* runDirectory
      const refusal = (device: string) => Effect.flip(makeKrunEngine(engineOptions, device).available)
      const missing = yield* refusal(path.join(directory, "kvm"))
      expect(missing).toMatchObject({ _tag: "EngineUnavailable", engine: "krun" })
      expect(missing.message).toContain(`${directory}/kvm is missing; load the module kvm_intel or kvm_amd`)
      expect(missing.message).toContain("or use --engine qemu")
      const broken = yield* refusal(directory)
      expect(broken.message).toContain(`${directory} answers EISDIR; load the module`)
      for (const code of ["EACCES", "EPERM"]) {
        const { advice, reason } = kvmProblem("/dev/kvm", code)
        expect({ reason, advice }).toEqual({
          reason: "/dev/kvm may not be opened",
          advice: expect.stringContaining("sudo usermod -aG kvm $USER")
        })
      }
      if (process.getuid?.() === 0) return
      const closed = path.join(directory, "closed")
      fs.writeFileSync(closed, "", { mode: 0o400 })
      expect((yield* refusal(closed)).message).toContain("may not be opened; add yourself to the group")
    })
  )
})

describe("auto", () => {
  const none = {
    libkrun: "/nonexistent/libkrun.so.1",
    libkrunfw: "/nonexistent/libkrunfw.so.5",
    qemu: "/nonexistent/qemu"
  }

  it.live("says of every engine why it can not be used, and where it looked", () =>
    Effect.gen(function* () {
      const options = { ...freshCache(yield* runDirectory), ...none }
      const failure = yield* Effect.flip(withOptions(options, (engines) => engines.auto))
      expect(failure.message).toContain("/nonexistent/qemu was not found")
      expect(failure.message).toMatch(/\/dev\/kvm|libkrun\.so\.1 was not found/)
      const found = yield* Effect.flip(withOptions(options, (engines) => engines.get("krun").available))
      expect(["LibraryNotFound", "EngineUnavailable"]).toContain(found._tag)
    })
  )

  it.live("falls back to qemu with the reason, and not for an engine asked for by name", () =>
    Effect.gen(function* () {
      if (missing !== undefined || engineKind !== "qemu") return
      const options = { ...freshCache(yield* runDirectory), libkrun: none.libkrun }
      const choice = yield* withOptions(options, (engines) => engines.auto)
      expect(choice.engine.kind).toBe("qemu")
      expect(choice.reason).toMatch(/\/dev\/kvm|libkrun\.so\.1 was not found/)
      expect((yield* withOptions(options, (engines) => engines.probe("krun"))).ok).toBe(false)
    })
  )
})
