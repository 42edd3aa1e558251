/** `bunker attach`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { ExitWith, say } from "../../terminal/output.ts"
import { attach as join } from "../../terminal/terminal.ts"
import { explainBrokenChannel } from "../brokenChannel.ts"
import { name } from "./attachCommon.ts"

export const attach = Command.make(
  "attach",
  {
    noStdin: Flag.Boolean("no-stdin").pipe(
      Flag.withDescription("Only watch: pass on nothing that is typed"),
      Flag.withDefault(false)
    ),
    name
  },
  Effect.fn("Cli.attach")(function* (flags) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const { config } = yield* vms.Inspect({ name: flags.name })
      const code = yield* join({
        name: flags.name,
        interactive: config.openStdin === true && !flags.noStdin,
        // Whoever has no terminal may still watch one.
        tty: config.tty === true && process.stdin.isTTY === true && !flags.noStdin,
        shared: true,
        events: () => vms.Attach({ name: flags.name })
      }).pipe(Effect.catchTag("GuestChannelFailed", (error) => explainBrokenChannel(flags.name, error)))
      if (code === undefined) return yield* say(`bunker: left ${flags.name}, which goes on`)
      if (code !== 0) return yield* new ExitWith({ code })
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Join the main command of a running sandbox: see what it says from now on and, where it was made with -i, type to it. Several may be attached at once. Ctrl-P Ctrl-Q leaves it running; its end ends this, with its exit code."
  ),
  Command.withShortDescription("Join a sandbox's main command"),
  Command.withExamples([
    { command: "bunker run -d -it --name box alpine sh", description: "A shell in the background" },
    { command: "bunker attach box", description: "Join it; Ctrl-P Ctrl-Q leaves it" }
  ])
)
