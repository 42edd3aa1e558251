/**
 * Keeps a keeper from working on a home directory that was removed or replaced under it: a VM that nobody can find any more is stopped.
 * One whose files are there, and whose database alone is another, is found by that database (store/database/syncDefinitions.ts) and goes on.
 */

import { Effect } from "effect"
import type { SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { type Footing, footingOf } from "../../store/files/homeState.ts"
import { Paths } from "../../store/files/Paths.ts"
import { stopVm } from "./Keeper.ts"
import type { KeptVm } from "./runningVm.ts"

/** How often the home is looked at, in milliseconds. What it has become counts when it is so twice. */
const lookMs = 1000
/** Time for the guest to end in order, in milliseconds. */
const stopMs = 10_000

/** Runs until the home is another, and then until the VM has ended. */
export const watchHome = Effect.fn("Keeper.watchHome")(function* (vm: KeptVm, info: SandboxInfo) {
  const paths = yield* Paths
  const look = footingOf(paths, info.name)
  // No definition tells another database of an ephemeral sandbox.
  const isLost = (footing: Footing) => footing === "gone" || (info.ephemeral && footing !== "whole")
  let before = false
  while (true) {
    yield* Effect.sleep(lookMs)
    const now = isLost(look())
    if (now && before) break
    before = now
  }
  const detail = `its home directory ${paths.home} was removed or replaced while it ran`
  yield* Effect.logError(`${info.name} is stopped: ${detail}`)
  yield* stopVm(vm, new Termination({ exitCode: null, exitSignal: null, reason: "internal_error", detail }), stopMs)
})
