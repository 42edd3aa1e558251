/** `bunker touch`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { forEachName } from "../../terminal/output.ts"
import { names } from "./common.ts"

export const touch = Command.make(
  "touch",
  { name: names },
  Effect.fn("Cli.touch")(function* ({ name }) {
    return yield* withBunker(VmSupervisor.use((vms) => forEachName(name, (each) => vms.Touch({ name: each }))))
  })
).pipe(
  Command.withDescription("Say that sandboxes are used: the time after which --idle-timeout ends them begins anew."),
  Command.withShortDescription("Keep a sandbox from idling")
)
