/** `bunker restart`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { readEndTime } from "../../ioFlags.ts"
import { sayWarnings } from "../../terminal/output.ts"
import { names, toEach } from "./common.ts"

export const restart = Command.make(
  "restart",
  {
    time: Flag.Int("time").pipe(
      Flag.withAlias("t"),
      Flag.withDescription("Seconds until it is killed; default 10"),
      Flag.withDefault(10)
    ),
    name: names
  },
  Effect.fn("Cli.restart")(function* ({ name, time }) {
    const timeoutMs = yield* readEndTime(time)
    const again = (vms: VmSupervisor["Service"], each: string) =>
      Effect.tap(vms.Restart({ name: each, timeoutMs }), sayWarnings)
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => again(vms, each))))
  })
).pipe(
  Command.withDescription("Stop sandboxes in order where they run, and boot them in the background."),
  Command.withShortDescription("Stop and boot a sandbox")
)
