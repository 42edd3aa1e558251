/** `bunker pause`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { names, toEach } from "./common.ts"

export const pause = Command.make(
  "pause",
  { name: names },
  Effect.fn("Cli.pause")(function* ({ name }) {
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => vms.Pause({ name: each }))))
  })
).pipe(
  Command.withDescription(
    "Make sandboxes stand still, with their memory and their connections, until 'bunker unpause'. Idle time does not count meanwhile; the longest life does. Stop, kill and rm -f end a paused sandbox, too."
  ),
  Command.withShortDescription("Make a sandbox stand still")
)
