/** `bunker stop`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { readEndTime } from "../../ioFlags.ts"
import { say } from "../../terminal/output.ts"
import { names, toEach } from "./common.ts"

/** What a stop has nothing to do for: it is as it was to be. */
const standsStill: ReadonlySet<string> = new Set(["created", "stopped", "crashed"])

export const stop = Command.make(
  "stop",
  {
    time: Flag.Int("time").pipe(
      Flag.withAlias("t"),
      Flag.withDescription("Seconds until it is killed; default 10"),
      Flag.withDefault(10)
    ),
    drain: flag("drain", undefined, "Let the commands that run end first, and take no new ones"),
    name: names
  },
  Effect.fn("Cli.stop")(function* ({ drain, name, time }) {
    const timeoutMs = yield* readEndTime(time)
    const ask = (vms: VmSupervisor["Service"], each: string) =>
      drain ? vms.Drain({ name: each, timeoutMs }) : vms.Stop({ name: each, timeoutMs })
    const end = (vms: VmSupervisor["Service"], each: string) =>
      Effect.catchTag(Effect.asVoid(ask(vms, each)), "WrongState", (error) =>
        standsStill.has(error.status)
          ? say(`bunker: ${each} is ${error.status === "created" ? "not started yet" : error.status}; nothing to stop`)
          : Effect.fail(error)
      )
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => end(vms, each))))
  })
).pipe(
  Command.withDescription(
    "End sandboxes in order: the image's stop signal, then everything written out; SIGKILL when time is up."
  ),
  Command.withShortDescription("End a sandbox in order")
)
