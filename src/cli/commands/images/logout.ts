/** `bunker logout`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { withBunker } from "../../context.ts"
import { say } from "../../terminal/output.ts"
import { registry } from "./registryCommon.ts"

export const logout = Command.make(
  "logout",
  { registry },
  Effect.fn("Cli.logout")(function* (flags) {
    const body = Effect.gen(function* () {
      const { forgotten } = yield* (yield* ImageStore).Logout({ registry: flags.registry })
      yield* say(forgotten ? `logged out of ${flags.registry}` : `there was no login for ${flags.registry}`)
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Forget the credentials of a registry wherever they are kept."),
  Command.withShortDescription("Log out of a registry")
)
