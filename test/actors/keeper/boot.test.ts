/** Boots whose guest never says a word; the engine is played by the test. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import { Deferred, Effect, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { bootVm } from "../../../src/actors/keeper/boot.ts"
import { LeaseManager } from "../../../src/actors/leases/LeaseManager.ts"
import { Sweeper } from "../../../src/actors/sandboxes/Sweeper.ts"
import type { LeasedImage } from "../../../src/domain/image/image.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { findSandbox } from "../../../src/store/database/sandboxes.ts"
import { identify } from "../../../src/store/processes/processes.ts"
import { Engines, type VmConfig } from "../../../src/vm/engines/Engine.ts"
import type { EngineKind } from "../../../src/vm/engines/types.ts"
import type { VmExit } from "../../../src/vm/runner/start.ts"
import { freshHome } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { putSandbox } from "../../support/sandboxes.ts"

const name = "mute" as SafeName
const me = identify(process.pid)!
const environment = Layer.mergeAll(
  Layer.mock(ImageStore, {}),
  Sweeper.layer().pipe(Layer.provideMerge(LeaseManager.layer), Layer.provideMerge(freshHome))
)
const exit: VmExit = { code: undefined, signal: "SIGKILL", report: undefined, output: "" }

/** Boots with an engine whose VM starts, writes to its console and is mute. `listening`: somebody waits for its agent. */
const boot = Effect.fnUntraced(function* (
  kind: EngineKind,
  started: (config: VmConfig) => Effect.Effect<void> = () => Effect.void
) {
  yield* putSandbox({ name, status: "created", ephemeral: true })
  const { info } = (yield* findSandbox(yield* Database, name))!
  const listening = yield* Deferred.make<void>()
  const killed = yield* Deferred.make<VmExit>()
  const engine = {
    kind,
    available: Effect.void,
    attach: () => Effect.never,
    spawn: (config: VmConfig) =>
      Effect.gen(function* () {
        yield* Effect.orDie(config.onProcess?.(me) ?? Effect.void)
        yield* started(config)
        fs.appendFileSync(config.consolePath, "the kernel hangs here\n")
        return {
          identity: me,
          exited: Deferred.await(killed),
          kill: Effect.asVoid(Deferred.succeed(killed, exit)),
          transport: {
            control: Effect.andThen(Deferred.succeed(listening, undefined), Effect.never),
            exec: () => Effect.never
          }
        }
      })
  }
  const engines = Layer.mock(Engines, { get: () => engine, auto: Effect.succeed({ engine, reason: "", fresh: false }) })
  const image = { disk: "/nonexistent", config: {} } as LeasedImage
  const booting = yield* bootVm({ info, image, dieWithParent: true }).pipe(
    Effect.scoped,
    Effect.flip,
    Effect.provide(engines),
    Effect.forkChild({ startImmediately: true })
  )
  yield* Deferred.await(listening)
  return { booting, killed }
})

describe("a boot", () => {
  for (const [kind, seconds] of [
    ["krun", 30],
    ["qemu", 180]
  ] as const) {
    it.effect(`waits ${seconds} s for an agent under ${kind}, ends the VM then and says what its console said`, () =>
      Effect.gen(function* () {
        const { booting, killed } = yield* boot(kind)
        yield* TestClock.adjust(seconds * 1000 - 1)
        expect(booting.pollUnsafe()).toBeUndefined()
        expect(yield* Deferred.isDone(killed)).toBe(false)
        yield* TestClock.adjust(1)
        const failure = yield* Fiber.join(booting)
        expect(failure).toMatchObject({ _tag: "BootFailed", console: "the kernel hangs here\n" })
        expect(failure.message).toContain(`its agent did not answer within ${seconds} s`)
        expect(failure.message).toContain("last console line: the kernel hangs here")
        expect(yield* Deferred.isDone(killed)).toBe(true)
        // Kept for whoever wants to read it.
        expect((yield* findSandbox(yield* Database, name))?.info).toMatchObject({
          status: "crashed",
          terminationReason: "boot_failed",
          terminationDetail: expect.stringContaining("did not answer")
        })
      }).pipe(Effect.provide(environment))
    )
  }

  it.effect("has recorded the VM's process before the guest runs", () =>
    Effect.gen(function* () {
      const db = yield* Database
      let before: unknown
      const { booting } = yield* boot("qemu", () =>
        Effect.map(Effect.orDie(findSandbox(db, name)), (record) => void (before = record))
      )
      expect(before).toMatchObject({ info: { status: "starting", pid: me.pid }, process: me, hasRunningRun: true })
      yield* Fiber.interrupt(booting)
    }).pipe(Effect.provide(environment))
  )
})
