/** Gives commands the settings of this process and the whole Bunker over them, built when first asked for. */
import { Context, Effect } from "effect"
import { Sweeper } from "../actors/sandboxes/Sweeper.ts"
import { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import type { Settings } from "../domain/settings.ts"
import { type Bunker, bunkerLayer, type PluginChoice, type Program } from "../plugin/bunker.ts"
import { EndsAtOnce } from "../store/database/session/files.ts"

export class Session extends Context.Service<
  Session,
  { readonly settings: Settings; readonly program: Program; readonly debug: boolean }
>()("bunker/Session") {}

/** Whoever sweeps in this window also looks after what crashes left running. */
const startupSweep = Sweeper.use((sweeper) => sweeper.Sweep({ force: false })).pipe(
  Effect.flatMap((report) => (report === null ? Effect.void : VmSupervisor.use((vms) => vms.Recover())))
)

/** Time that a command which boots a VM has for itself: by then the guest's kernel is at work, and this process waits. */
const sweepAfter = "300 millis"

/**
 * Runs a command with everything it may use, beside the bounded startup sweep. Plugins of the home's owner are built
 * only for commands that reach them (`plugins: "all"`), so that a broken one stops none of Bunker's own commands.
 */
export const withBunker = <A, E>(
  effect: Effect.Effect<A, E, Bunker | Session>,
  options: { readonly sweep?: boolean | "later"; readonly plugins?: PluginChoice } = {}
) =>
  Effect.gen(function* () {
    const { settings, program } = yield* Session
    const sweep = options.sweep === "later" ? Effect.delay(startupSweep, sweepAfter) : startupSweep
    const body = options.sweep !== false ? Effect.andThen(Effect.forkChild(Effect.ignore(sweep)), effect) : effect
    return yield* body.pipe(
      Effect.provide(bunkerLayer(settings, program, options.plugins)),
      Effect.provideService(EndsAtOnce, true)
    )
  })
