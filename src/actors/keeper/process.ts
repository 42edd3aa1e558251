/**
 * Keeps one detached sandbox through all its runs, in a process of its own: boots or adopts its VM, runs its main command, waits for
 * the end, and starts it again when its restart policy says so (the records plan that: see store/database/sandboxes.ts).
 *
 * Invariants: a planned restart is done by one process at a time, and not at all once somebody took it back, started or removed the
 * sandbox; a VM whose agent does not answer is ended, not left.
 */

import fs from "node:fs"
import { Clock, Deferred, Effect, Option } from "effect"
import { isAhead } from "../../domain/elapsed.ts"
import type { StartError } from "../../domain/errors/groups.ts"
import { SandboxNotFound } from "../../domain/errors/vm.ts"
import type { SafeName } from "../../domain/name.ts"
import { delayMsMax } from "../../domain/sandbox/restart.ts"
import type { SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { Database } from "../../store/database/Database.ts"
import { cancelRestart, findSandbox } from "../../store/database/sandboxes.ts"
import { findMachine } from "../../store/database/syncDefinitions.ts"
import { footingOf } from "../../store/files/homeState.ts"
import { tryFileLock } from "../../store/files/lock.ts"
import { Paths } from "../../store/files/Paths.ts"
import { livingProcess } from "../../store/files/runFile.ts"
import { hostVm } from "../sandboxes/keeperClient.ts"
import { stopVm } from "./Keeper.ts"
import type { MainCommand } from "./mainCommand.ts"
import { keepMain, resumeMain } from "./mainCommandOwner.ts"
import type { KeptVm } from "./runningVm.ts"
import { watchHome } from "./watchHome.ts"

/** How often a planned restart is looked at again, in milliseconds: it may have been taken back. */
const lookMs = 250
/** Time for a sandbox to end in order whose keeper ended while it was asked to, in milliseconds. */
const stopMs = 10_000
/** Time for answers to leave before the keeper's socket goes, in milliseconds. */
const farewellMs = 100

/** What a keeper process was started for. */
export type KeepFor = "start" | "adopt" | "restart"

/** Says how the start went, once. */
export type Report = (error?: StartError) => Effect.Effect<void>

/** One run, from its boot to its end. */
const keepRun = (
  info: SandboxInfo,
  how: { readonly adopt: boolean; readonly restartAt?: number },
  { up, leave }: { readonly up: Effect.Effect<void>; readonly leave: Effect.Effect<never> }
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const paths = yield* Paths
      const { creator } = paths.sandbox(info.name)
      const footing = footingOf(paths, info.name)
      const { vm, main } = yield* hostVm(info, { ...how, dieWithParent: false })
      // It lives on without whoever made it: how it ends is somebody's to read.
      if (!how.adopt) fs.rmSync(creator, { force: true })
      // Before the report, so that whoever waits for it can attach at once.
      yield* how.adopt ? resume(vm, main, info) : keepMain(vm, main, info.config)
      yield* up
      yield* Effect.forkScoped(watchHome(vm, info))
      yield* Deferred.await(vm.ended)
      // Whoever asked for the end gets the answer before the socket goes.
      yield* Effect.sleep(farewellMs)
      // What belongs to the run would be taken away by its path.
      if (footing() === "gone") return yield* leave
    })
  )

/** Goes on with what the last keeper was about to do. */
const resume = Effect.fnUntraced(function* (vm: KeptVm, main: MainCommand, info: SandboxInfo) {
  const asked = livingProcess(yield* Paths, info.name)?.ending
  const nothing = { exitCode: null, exitSignal: null, reason: "shutdown_requested", detail: null } as const
  const end = new Termination(asked ?? nothing)
  // First, or the end of its command would be the reason.
  if (info.status === "draining") vm.expect(end)
  // A paused guest answers once it runs on.
  if (vm.pausing.paused()) yield* Effect.forkScoped(Effect.andThen(vm.pausing.running, resumeMain(vm, main, info)))
  else yield* resumeMain(vm, main, info)
  if (info.status === "draining") yield* Effect.forkScoped(stopVm(vm, end, stopMs))
})

/** Waits for the time of a planned restart; false when it is planned no longer. */
export const awaitRestart = Effect.fnUntraced(function* (name: SafeName, restartAt: number) {
  const db = yield* Database
  while (true) {
    const record = yield* findSandbox(db, name)
    if (record?.info.restartAt !== restartAt) return false
    const now = yield* Clock.currentTimeMillis
    if (!isAhead(restartAt, delayMsMax, now)) return true
    yield* Effect.sleep(Math.min(lookMs, restartAt - now))
  }
})

/** Starts the sandbox again for as long as its policy plans it, in the records that this process began with. */
const keepRestarting = Effect.fnUntraced(function* (name: SafeName, leave: Effect.Effect<never>) {
  const db = yield* Database
  const paths = yield* Paths
  const look = footingOf(paths, name)
  let held = false
  while (look() === "whole") {
    const before = yield* findSandbox(db, name)
    const restartAt = before?.info.restartAt ?? null
    if (before === undefined || restartAt === null) return
    const { id } = before.info
    held ||= yield* tryFileLock(paths.run(id).restartLock)
    if (!held) return
    if (!(yield* awaitRestart(name, restartAt))) continue
    // As it is defined by now.
    const record = Option.getOrUndefined(yield* Effect.option(findMachine(db, paths, name)))
    yield* keepRun(record?.info ?? before.info, { adopt: false, restartAt }, { up: Effect.void, leave }).pipe(
      Effect.catch((error) => Effect.logWarning(`${name} did not start again: ${error.message}`))
    )
    // What failed before it was even recorded as a start would fail again at once, for ever.
    const after = yield* findSandbox(db, name)
    if (after?.info.restartAt === restartAt) yield* cancelRestart(db, id)
  }
}, Effect.scoped)

/** The whole life of a keeper process. `leave` ends the process at once, without a word to anybody. */
export const keepSandbox = Effect.fn("Keeper.process")(function* (
  name: SafeName,
  what: KeepFor,
  report: Report,
  leave: Effect.Effect<never>
) {
  const db = yield* Database
  if (what === "restart") yield* report()
  else {
    const record = yield* findSandbox(db, name)
    if (record === undefined) return yield* new SandboxNotFound({ sandbox: name })
    const { info } = record
    yield* keepRun(info, { adopt: what === "adopt" }, { up: report(), leave }).pipe(
      Effect.catchTag("SupervisorUnreachable", (error) =>
        Effect.gen(function* () {
          if (what !== "adopt") return yield* error
          yield* report(error)
        })
      )
    )
  }
  yield* keepRestarting(name, leave)
})
