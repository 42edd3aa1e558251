/** What happens to a sandbox that asks for an engine which boots no guest here. The engines are played by the test. */
import { expect } from "bun:test"
import { Effect, Layer } from "effect"
import { bootVm } from "../../../src/actors/keeper/boot.ts"
import { Sweeper } from "../../../src/actors/sandboxes/Sweeper.ts"
import { EngineUnavailable } from "../../../src/domain/errors/vm.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import type { SandboxInfo } from "../../../src/domain/sandbox/sandbox.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { findSandbox } from "../../../src/store/database/sandboxes.ts"
import type { Engine, EngineKind } from "../../../src/vm/engines/Engine.ts"
import { Engines } from "../../../src/vm/engines/Engine.ts"
import { freshHome } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { putSandbox } from "../../support/sandboxes.ts"

/** Boots a sandbox that is pinned to krun; answers how that failed, what is recorded, and which engines were asked for. */
const pinned = Effect.fnUntraced(function* (available: Engine["available"], reason: string) {
  const asked = new Set<EngineKind>()
  const engines = Layer.mock(Engines, {
    get: (kind) => {
      asked.add(kind)
      return { kind, available, attach: () => Effect.die("attached"), spawn: () => Effect.die("spawned") } as never
    },
    auto: Effect.die("chose another"),
    probe: (kind) => Effect.succeed({ kind, ok: false, reason, milliseconds: 30_000, cached: true })
  })
  const name = "web" as SafeName
  yield* putSandbox({ name, status: "created", ephemeral: true })
  const db = yield* Database
  const { info } = (yield* findSandbox(db, name))!
  const asks = { ...info, config: { ...info.config, engine: "krun" } } as SandboxInfo
  const error = yield* bootVm({ info: asks, image: { disk: "/none" } as never, dieWithParent: true }).pipe(
    Effect.scoped,
    Effect.flip,
    Effect.provide(Layer.merge(engines, Layer.mock(Sweeper, { Clean: () => Effect.void as never })))
  )
  return { error, after: (yield* findSandbox(db, name))?.info, asked: [...asked] }
})

it.live("an engine that was asked for by name and boots no guest says why and what to do; no other is taken", () =>
  Effect.gen(function* () {
    const { error, after, asked } = yield* pinned(Effect.void, "the guest did not answer within 30 s")
    expect(error).toMatchObject({ _tag: "EngineUnavailable", engine: "krun" })
    expect(error.message).toContain(
      "krun can not be used here: the guest did not answer within 30 s; use --engine qemu"
    )
    expect(error.message).toContain("'bunker doctor' says more")
    expect(after).toMatchObject({ status: "crashed", terminationReason: null, pid: null })
    expect(asked).toEqual(["krun"])
  }).pipe(Effect.provide(freshHome))
)

it.live("an engine that lacks something says what, and is not probed", () =>
  Effect.gen(function* () {
    const lacks = new EngineUnavailable({ engine: "krun", reason: "/dev/kvm is missing", advice: "load the module" })
    const { error, asked } = yield* pinned(Effect.fail(lacks), "probed")
    expect(error).toBe(lacks)
    expect(asked).toEqual(["krun"])
  }).pipe(Effect.provide(freshHome))
)
