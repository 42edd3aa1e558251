/** `login` and `logout`: the credentials of registries. */
import { Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ImageStore } from "../../actors/images/ImageStore.ts"
import { withBunker } from "../context.ts"
import { flag } from "../flags.ts"
import { say } from "../terminal/output.ts"
import { ask, askSecret, readSecret } from "../terminal/prompt.ts"

const registry = Argument.String("registry").pipe(
  Argument.withDescription("Host of the registry, like ghcr.io; default: docker.io"),
  Argument.withDefault("docker.io")
)

const usernameFlag = Flag.String("username").pipe(
  Flag.withAlias("u"),
  Flag.withDescription("User name at the registry"),
  Flag.optional
)
const passwordFlag = flag("password-stdin", undefined, "Read the password or access token from stdin")

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
