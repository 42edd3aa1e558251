/** `bunker create`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { print } from "../../terminal/output.ts"
import { readSecrets } from "../network/secretFlags.ts"
import { commandArgument, imageArgument, sandboxFlags, terminalFlags, toConfig } from "../sandboxFlags.ts"
import { named, pullFor, valuesOf } from "./runCommon.ts"

export const create = Command.make(
  "create",
  { ...sandboxFlags, ...terminalFlags, image: imageArgument, command: commandArgument },
  Effect.fn("Cli.create")(function* (flags) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const given = yield* readSecrets(flags, process.env)
      const config = yield* toConfig(flags, given, false)
      const request = { ...named(flags.name), ephemeral: false, config, ...valuesOf(given), replace: flags.replace }
      yield* pullFor(request, flags)
      const info = yield* vms.Create(request)
      yield* print(info.name)
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Define a sandbox that is kept until 'bunker rm', and print its name. 'bunker start' boots it."
  ),
  Command.withShortDescription("Define a sandbox without booting it")
)
