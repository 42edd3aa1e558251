/** `bunker rm`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { names, toEach } from "./common.ts"

export const remove = Command.make(
  "rm",
  {
    force: flag("force", "f", "Kill it first when it runs"),
    volumes: flag("volumes", "v", "Taken for habit's sake: what a sandbox wrote goes with it, other directories stay"),
    name: names
  },
  Effect.fn("Cli.rm")(function* ({ name, force }) {
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => vms.Remove({ name: each, force }))))
  })
).pipe(
  Command.withDescription("Remove sandboxes with everything that they wrote."),
  Command.withShortDescription("Remove a sandbox")
)
