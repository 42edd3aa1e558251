/** `bunker unpause`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { names, toEach } from "./common.ts"

export const unpause = Command.make(
  "unpause",
  { name: names },
  Effect.fn("Cli.unpause")(function* ({ name }) {
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => vms.Unpause({ name: each }))))
  })
).pipe(
  Command.withDescription("Let paused sandboxes run on, with the right time."),
  Command.withShortDescription("Let a paused sandbox run on")
)
