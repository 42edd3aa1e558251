/** A VM without a machine, for what a keeper decides by itself. */

import { Deferred, Effect } from "effect"
import { noNetwork } from "../../src/actors/keeper/network/network.ts"
import type { KeptVm } from "../../src/actors/keeper/runningVm.ts"
import type { SandboxConfig } from "../../src/domain/sandbox/sandbox.ts"
import { Termination } from "../../src/domain/sandbox/termination.ts"
import { config } from "./sandboxes.ts"

/** A VM that ends when it is asked to, unless it is deaf. */
export const fakeVm = Effect.fnUntraced(function* (
  limits: Partial<SandboxConfig>,
  deaf = false,
  state: { paused: boolean } = { paused: false },
  channel: Partial<KeptVm["channel"]> = {}
) {
  const ended = yield* Deferred.make<Termination>()
  const use = { commands: 0, touches: 0 }
  let expected: Termination | undefined
  const end = Effect.suspend(() => Deferred.succeed(ended, expected as Termination))
  const vm: KeptVm = {
    ephemeral: false,
    channel: { poweroff: () => (deaf ? Effect.never : Effect.asVoid(end)), ...channel } as unknown as KeptVm["channel"],
    config: { ...config, ...limits },
    image: { env: [], entrypoint: [], cmd: [], workingDir: "", user: "" } as unknown as KeptVm["image"],
    ended,
    expect: (reason) => void (expected ??= reason),
    giveUp: () => void (expected = expected && new Termination({ ...expected, exitSignal: "SIGKILL" })),
    ending: () => expected !== undefined,
    use,
    traffic: { received: 0, sent: 0 },
    activity: () => void (use.touches += 1),
    markDraining: () => Effect.void,
    kill: Effect.asVoid(end),
    network: noNetwork("fake"),
    ports: { open: () => Effect.void, set: () => Effect.succeed([]) },
    pausing: { paused: () => state.paused, thaw: Effect.void } as KeptVm["pausing"],
    measured: {} as KeptVm["measured"]
  }
  return vm
})
