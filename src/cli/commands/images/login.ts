/** `bunker login`. Decides nothing: sends its messages and prints what comes back. */
import { Effect, Option } from "effect"
import { Command } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { say } from "../../terminal/output.ts"
import { ask, askSecret, readSecret } from "../../terminal/prompt.ts"
import { passwordFlag, registry, usernameFlag } from "./registryCommon.ts"

export const login = Command.make(
  "login",
  {
    username: usernameFlag,
    passwordStdin: passwordFlag,
    insecure: flag("insecure", undefined, "Allow plain HTTP to the registry"),
    registry
  },
  Effect.fn("Cli.login")(function* (flags) {
    const username = Option.isSome(flags.username)
      ? flags.username.value
      : yield* ask(`User name at ${flags.registry}: `, "--username")
    const password = flags.passwordStdin ? yield* readSecret : yield* askSecret("Password: ")
    const body = Effect.gen(function* () {
      const { insecure } = flags
      const kept = yield* (yield* ImageStore).Login({ registry: flags.registry, username, password, insecure })
      yield* say(`logged in to ${flags.registry}; the password is in ${kept.place}`)
      if (kept.plain) yield* say("it is not encrypted there: whoever can read the file can read it")
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Check a user name and password with a registry and keep them: with Docker's credential helper if one is set up, else in the keyring of the system, else in Docker's config.json."
  ),
  Command.withShortDescription("Log in to a registry")
)
