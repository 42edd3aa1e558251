/** `bunker kill`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { parseSignal } from "../../../domain/sandbox/signals.ts"
import { withBunker } from "../../context.ts"
import { mainExec, names, SIGKILL, toEach } from "./common.ts"

export const kill = Command.make(
  "kill",
  {
    signal: Flag.String("signal").pipe(
      Flag.withAlias("s"),
      Flag.withDescription("Send this signal to the main command, and leave the sandbox; KILL, the default, ends it"),
      Flag.withDefault("KILL")
    ),
    name: names
  },
  Effect.fn("Cli.kill")(function* ({ name, signal }) {
    const number = parseSignal(signal)
    if (number === undefined) {
      return yield* new InvalidSpec({ field: "--signal", reason: `"${signal}" is no signal; write TERM, HUP or 15` })
    }
    const act = (vms: VmSupervisor["Service"], each: string) =>
      number === SIGKILL
        ? Effect.asVoid(vms.Kill({ name: each }))
        : vms.Signal({ name: each, exec: mainExec, signal: number })
    return yield* withBunker(VmSupervisor.use((vms) => toEach(name, (each) => act(vms, each))))
  })
).pipe(
  Command.withDescription("End sandboxes at once; what was not written out is lost."),
  Command.withShortDescription("End a sandbox at once")
)
