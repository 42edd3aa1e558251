/** Gives commands the settings of this process and the whole Bunker over them, built when first asked for. */
import { Context, Effect } from "effect"
import { Sweeper } from "../actors/Sweeper.ts"
import type { Settings } from "../domain/settings.ts"
import { type Bunker, bunkerLayer, type Program } from "../plugin/bunker.ts"

export class Session extends Context.Service<
  Session,
  { readonly settings: Settings; readonly program: Program; readonly debug: boolean }
>()("bunker/Session") {}

/** Runs a command with everything it may use, and with the bounded startup sweep going on beside it. */
export const withBunker = <A, E>(
  effect: Effect.Effect<A, E, Bunker | Session>,
  options: { readonly sweep: boolean } = { sweep: false }
) =>
  Effect.gen(function* () {
    const { settings, program } = yield* Session
    const body = options.sweep
      ? Effect.andThen(
          Sweeper.use((sweeper) => Effect.ignore(sweeper.Sweep({ force: false }))),
          effect
        )
      : effect
    return yield* body.pipe(Effect.provide(bunkerLayer(settings, program)))
  })
