/** `secret`: sets, lists and removes secrets. A value comes from a pipe, a file, the environment or a question, never from an argument. */
import fs from "node:fs"
import { Effect, Option, Redacted } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { SecretStore } from "../../../actors/secrets/SecretStore.ts"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { SecretName, valueProblem } from "../../../domain/network/secrets.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { checkFlags } from "../../ioFlags.ts"
import { print, say } from "../../terminal/output.ts"
import { askSecret, readSecret } from "../../terminal/prompt.ts"
import { readSecretFile } from "./secretFlags.ts"

const name = Argument.String("name").pipe(Argument.withDescription("Name of the secret, like GITHUB_TOKEN"))
const sandboxFlag = Flag.String("sandbox").pipe(
  Flag.withDescription("The value that this sandbox alone has"),
  Flag.optional
)

const within = (sandbox: Option.Option<string>) => (Option.isSome(sandbox) ? { sandbox: sandbox.value } : {})

const checkName = (text: string) => checkFlags(SecretName, text, { "": "name" })

interface Sources {
  readonly fromEnv: Option.Option<string>
  readonly fromFile: Option.Option<string>
}

const valueFrom = Effect.fnUntraced(function* (secret: string, { fromEnv, fromFile }: Sources) {
  if (Option.isSome(fromEnv)) {
    const value = process.env[fromEnv.value]
    if (value === undefined) {
      return yield* new InvalidSpec({
        field: "--from-env",
        reason: `there is no variable ${fromEnv.value.slice(0, 64)}`
      })
    }
    return Redacted.make(value)
  }
  if (Option.isSome(fromFile)) return yield* readSecretFile("--from-file", fromFile.value)
  return yield* process.stdin.isTTY || fs.fstatSync(0).isCharacterDevice()
    ? askSecret(`Value of ${secret}: `)
    : readSecret
})

const set = Command.make(
  "set",
  {
    sandbox: sandboxFlag,
    fromEnv: Flag.String("from-env").pipe(Flag.withDescription("Take the value of this variable"), Flag.optional),
    fromFile: Flag.String("from-file").pipe(
      Flag.withDescription("Take what is in this file, without the line's end"),
      Flag.optional
    ),
    name
  },
  Effect.fn("Cli.secretSet")(function* (flags) {
    yield* checkName(flags.name)
    const value = yield* valueFrom(flags.name, flags)
    const problem = valueProblem(Redacted.value(value))
    if (problem !== undefined) return yield* new InvalidSpec({ field: "value", reason: problem })
    return yield* withBunker(
      SecretStore.use((store) => store.Set({ name: flags.name, value, ...within(flags.sandbox) }))
    )
  })
).pipe(
  Command.withDescription(
    "Keep a value, encrypted. It is read from stdin, or asked for at a terminal. Sandboxes that run have it with their next request."
  ),
  Command.withShortDescription("Keep a value"),
  Command.withExamples([
    { command: "gh auth token | bunker secret set GITHUB_TOKEN", description: "From another program" },
    {
      command: "bunker run --allow-net=api.github.com --secret GITHUB_TOKEN=api.github.com IMAGE",
      description: "Use it"
    }
  ])
)

const list = Command.make(
  "ls",
  { sandbox: sandboxFlag, json: flag("json", undefined, "JSON") },
  Effect.fn("Cli.secretList")(function* (flags) {
    return yield* withBunker(
      Effect.gen(function* () {
        const found = yield* (yield* SecretStore).List(within(flags.sandbox))
        if (flags.json) {
          return yield* print(JSON.stringify(found.map((each) => ({ name: each.name, updated_at: each.updatedAt }))))
        }
        const width = Math.max(4, ...found.map((each) => each.name.length))
        yield* print(`${"NAME".padEnd(width)}  UPDATED`)
        for (const each of found) {
          yield* print(`${each.name.padEnd(width)}  ${new Date(each.updatedAt).toISOString()}`)
        }
      })
    )
  })
).pipe(
  Command.withDescription("List names and the times of their last change. Values are never shown."),
  Command.withShortDescription("List names")
)

const remove = Command.make(
  "rm",
  { sandbox: sandboxFlag, name },
  Effect.fn("Cli.secretRemove")(function* (flags) {
    yield* checkName(flags.name)
    yield* withBunker(SecretStore.use((store) => store.Remove({ name: flags.name, ...within(flags.sandbox) })))
    yield* say(`removed ${flags.name}; sandboxes that run can not use it any more`)
  })
).pipe(
  Command.withDescription(
    "Forget a value. Sandboxes that run lose it at once, and their connections to its hosts end."
  ),
  Command.withShortDescription("Forget a value")
)

export const secretGroup = Command.make("secret").pipe(
  Command.withDescription("Values that go into requests on this machine, and that no guest sees."),
  Command.withShortDescription("Secrets for sandboxes"),
  Command.withSubcommands([set, list, remove])
)
