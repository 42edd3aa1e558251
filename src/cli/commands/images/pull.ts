/** `bunker pull`. Decides nothing: sends its messages and prints what comes back. */
import { Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { print } from "../../terminal/output.ts"
import { familiar, progressStyle, showProgress } from "../../terminal/progress.ts"
import { askSecret, NoAnswer, readSecret } from "../../terminal/prompt.ts"
import { images, platformFlag, platformOf, quietFlag } from "./imageCommon.ts"

const usernameFlag = Flag.String("username").pipe(
  Flag.withAlias("u"),
  Flag.withDescription("User name at the registry, for this pull only; asks for the password"),
  Flag.optional
)

const passwordFlag = flag("password-stdin", undefined, "Read the password or access token from stdin")

const loginOf = Effect.fnUntraced(function* (flags: {
  readonly username: Option.Option<string>
  readonly passwordStdin: boolean
}) {
  if (Option.isNone(flags.username)) {
    return flags.passwordStdin ? yield* new NoAnswer({ message: "--password-stdin needs --username, too" }) : {}
  }
  const password = flags.passwordStdin ? yield* readSecret : yield* askSecret("Password: ")
  return { login: { username: flags.username.value, password } }
})

export const pull = Command.make(
  "pull",
  {
    policy: Flag.Literals("pull", ["if-missing", "always"]).pipe(
      Flag.withDescription("if-missing asks the registry only for what is not here"),
      Flag.withDefault("always" as const)
    ),
    platform: platformFlag,
    insecure: flag("insecure", undefined, "Allow plain HTTP to the registry"),
    username: usernameFlag,
    passwordStdin: passwordFlag,
    json: flag("json", undefined, "Print events as JSON lines"),
    quiet: quietFlag,
    image: images
  },
  Effect.fn("Cli.pull")(function* (flags) {
    const login = yield* loginOf(flags)
    const body = Effect.gen(function* () {
      const store = yield* ImageStore
      const platform = { ...(yield* platformOf(flags.platform)), ...login }
      for (const reference of flags.image) {
        const stream = store.Pull({ reference, policy: flags.policy, insecure: flags.insecure, ...platform })
        const pulled = yield* showProgress(stream, progressStyle(flags))
        if (!flags.json) yield* Effect.forEach(pulled, (each) => print(familiar(each.reference)), { discard: true })
      }
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Fetch images from registries. Layers that are here already are not fetched again."),
  Command.withShortDescription("Fetch an image from a registry")
)
