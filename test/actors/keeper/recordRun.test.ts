/** What is recorded of how a VM ended; its process is played by the test. */

import { describe, expect } from "bun:test"
import fs from "node:fs"
import { Deferred, Effect, Layer } from "effect"
import { stopVm } from "../../../src/actors/keeper/Keeper.ts"
import { noNetwork } from "../../../src/actors/keeper/network/network.ts"
import type { Pausing } from "../../../src/actors/keeper/pausing.ts"
import { keepRecords } from "../../../src/actors/keeper/recordRun.ts"
import { LeaseManager } from "../../../src/actors/leases/LeaseManager.ts"
import { Sweeper } from "../../../src/actors/sandboxes/Sweeper.ts"
import type { RunDefaults } from "../../../src/domain/image/image.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import { Termination } from "../../../src/domain/sandbox/termination.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { findSandbox } from "../../../src/store/database/sandboxes.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import type { GuestRequests } from "../../../src/vm/guest/GuestChannel.ts"
import type { GuestTransport } from "../../../src/vm/guest/transport.ts"
import type { VmExit } from "../../../src/vm/runner/start.ts"
import { freshHome } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { deadProcess, putSandbox } from "../../support/sandboxes.ts"

const environment = Sweeper.layer().pipe(Layer.provideMerge(LeaseManager.layer), Layer.provideMerge(freshHome))
const stop = new Termination({ exitCode: null, exitSignal: null, reason: "shutdown_requested", detail: null })
const exitOf = (how: Partial<VmExit>): VmExit => ({
  code: undefined,
  signal: undefined,
  report: undefined,
  output: "",
  ...how
})

/** A VM whose process ends when the test says so, or by SIGKILL. */
const kept = Effect.fnUntraced(function* (
  ephemeral: boolean,
  poweroff: (exit: (exit: VmExit) => void, options: { readonly signal: number }) => Effect.Effect<void>,
  killed: Partial<VmExit> = { signal: "SIGKILL" },
  stopSignal: string | null = null
) {
  const [db, paths] = [yield* Database, yield* Paths]
  const name = `box-${crypto.randomUUID()}` as SafeName
  const identity = yield* deadProcess
  const id = yield* putSandbox({ name, status: "starting", ephemeral, process: identity })
  fs.mkdirSync(paths.sandbox(name).logs, { recursive: true })
  fs.mkdirSync(paths.run(id).directory, { recursive: true })
  const exited = yield* Deferred.make<VmExit>()
  const exit = (how: VmExit) => void Deferred.doneUnsafe(exited, Effect.succeed(how))
  const vm = yield* keepRecords(
    (yield* findSandbox(db, name))!.info,
    { stopSignal } as RunDefaults,
    {
      identity,
      transport: {} as GuestTransport,
      exited: Deferred.await(exited),
      kill: Effect.sync(() => exit(exitOf(killed))),
      network: noNetwork(name),
      ports: { open: () => Effect.void, set: () => Effect.succeed([]) }
    },
    { poweroff: (options: { signal: number }) => poweroff(exit, options) } as unknown as GuestRequests,
    { paused: () => false, thaw: Effect.void } as Pausing
  )
  return {
    vm,
    exit,
    directory: paths.sandbox(name).directory,
    info: Effect.map(findSandbox(db, name), (record) => record?.info)
  }
})

describe("the record of an end", () => {
  const deaf = () => Effect.never

  it.live("has SIGKILL beside the reason when the time to end in order was over", () =>
    Effect.gen(function* () {
      const { vm, info } = yield* kept(false, deaf)
      expect(yield* stopVm(vm, stop, 20)).toMatchObject({ reason: "shutdown_requested", exitSignal: "SIGKILL" })
      expect(yield* info).toMatchObject({
        status: "stopped",
        terminationReason: "shutdown_requested",
        exitSignal: "SIGKILL"
      })
    }).pipe(Effect.scoped, Effect.provide(environment))
  )

  it.live("the same for a VM that another process started, whose signal nobody sees", () =>
    Effect.gen(function* () {
      const { vm, info } = yield* kept(false, deaf, {})
      yield* stopVm(vm, stop, 20)
      expect(yield* info).toMatchObject({ terminationReason: "shutdown_requested", exitSignal: "SIGKILL" })
    }).pipe(Effect.scoped, Effect.provide(environment))
  )

  it.live("has no signal where it ended in order, were it at the last moment", () =>
    Effect.gen(function* () {
      const ended = exitOf({ code: 0 })
      const { vm, info } = yield* kept(false, (exit) => Effect.sync(() => exit(ended)))
      expect(yield* stopVm(vm, stop, 5000)).toMatchObject({ exitSignal: null })
      expect(yield* info).toMatchObject({ exitSignal: null, terminationReason: "shutdown_requested" })
      const late = yield* kept(false, deaf, { code: 0 })
      expect(yield* stopVm(late.vm, stop, 20)).toMatchObject({ exitSignal: null })
    }).pipe(Effect.scoped, Effect.provide(environment))
  )

  it.live("keeps an ephemeral sandbox that crashed for whoever reads why, and no other", () =>
    Effect.gen(function* () {
      const { vm, exit, info, directory } = yield* kept(true, deaf)
      exit(exitOf({ signal: "SIGSEGV" }))
      expect(yield* Deferred.await(vm.ended)).toMatchObject({ reason: "internal_error", exitSignal: "SIGSEGV" })
      expect(yield* info).toMatchObject({ status: "crashed", terminationDetail: expect.stringContaining("SIGSEGV") })
      expect(fs.existsSync(`${directory}/logs`)).toBe(true)
      const other = yield* kept(true, deaf)
      yield* stopVm(other.vm, stop, 20)
      expect(yield* other.info).toBeUndefined()
      expect(fs.existsSync(other.directory)).toBe(false)
    }).pipe(Effect.scoped, Effect.provide(environment))
  )

  it.live("says that an image's stop signal is none, and sends the one that it names", () =>
    Effect.gen(function* () {
      const signals: Array<number> = []
      for (const [name, detail] of [
        ["SIGRTMIN+3", null],
        ["6", null],
        [null, null],
        ["SIGFOO", expect.stringContaining('"SIGFOO"')]
      ] as const) {
        const { vm, info } = yield* kept(
          false,
          (exit, { signal }) =>
            Effect.sync(() => {
              signals.push(signal)
              exit(exitOf({ code: 0 }))
            }),
          {},
          name
        )
        expect(yield* stopVm(vm, stop, 5000)).toMatchObject({ reason: "shutdown_requested", detail })
        expect(yield* info).toMatchObject({ terminationReason: "shutdown_requested", terminationDetail: detail })
      }
      expect(signals).toEqual([37, 6, 15, 15])
    }).pipe(Effect.scoped, Effect.provide(environment))
  )
})
