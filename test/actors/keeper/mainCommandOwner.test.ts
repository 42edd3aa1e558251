/** A main command whose connection breaks; the guest is played by the test. */
import { expect } from "bun:test"
import path from "node:path"
import { Deferred, Effect } from "effect"
import { AgentTimeoutMs } from "../../../src/actors/keeper/agentWatch.ts"
import { makeMainCommand } from "../../../src/actors/keeper/mainCommand.ts"
import { keepMain, resumeMain } from "../../../src/actors/keeper/mainCommandOwner.ts"
import { GuestChannelFailed } from "../../../src/domain/errors/vm.ts"
import type { SandboxInfo } from "../../../src/domain/sandbox/sandbox.ts"
import { openLog } from "../../../src/store/files/logs.ts"
import { fakeVm } from "../../support/fakeVm.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const broken = new GuestChannelFailed({ reason: "a frame makes no sense" })

/** Starts the main command of a guest that breaks its connection, and answers questions or not. */
const start = Effect.fnUntraced(function* (endsWithCommand: boolean, ping: Effect.Effect<void, GuestChannelFailed>) {
  const vm = yield* fakeVm({ command: ["sh"], endsWithCommand }, false, undefined, {
    exec: () => Effect.fail(broken),
    keeps: Effect.succeed(true),
    ping
  })
  const main = makeMainCommand(yield* openLog(path.join(yield* temporaryDirectory, "main.jsonl")))
  yield* keepMain(vm, main, vm.config)
  // What follows from it has no step left to wait for.
  yield* Effect.sleep("20 millis")
  return vm
})

it.live("a sandbox ends with a main command that nobody can hear of any more, and says so", () =>
  Effect.gen(function* () {
    const vm = yield* start(true, Effect.void)
    expect(yield* Deferred.await(vm.ended)).toMatchObject({
      reason: "failed",
      detail: `its command is lost: ${broken.message}`
    })
  })
)

it.live("one that stays without its command stays, and so does one whose guest is silent: its VM ends by itself", () =>
  Effect.gen(function* () {
    for (const vm of [yield* start(false, Effect.void), yield* start(true, Effect.fail(broken))]) {
      expect(yield* Deferred.isDone(vm.ended)).toBe(false)
      expect(vm.ending()).toBe(false)
    }
  })
)

it.live("a guest that answers, and never hands the command over, holds up its next keeper for a time only", () =>
  Effect.gen(function* () {
    const channel = { reattach: () => Effect.never, ping: Effect.void }
    const vm = yield* fakeVm({ command: ["sh"], endsWithCommand: true }, false, undefined, channel)
    const main = makeMainCommand(yield* openLog(path.join(yield* temporaryDirectory, "main.jsonl")))
    const info = { config: vm.config, status: "running" } as SandboxInfo
    yield* Effect.provideService(resumeMain(vm, main, info), AgentTimeoutMs, 50)
    expect(yield* Deferred.await(vm.ended)).toMatchObject({
      reason: "failed",
      detail: expect.stringContaining("does not hand the command over")
    })
  })
)
