/** `bunker shell`. Decides nothing: sends its messages and prints what comes back. */
import { Effect, Option, Stream } from "effect"
import { Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import type { ExecFailed } from "../../../domain/errors/vm.ts"
import type { TerminalSize } from "../../../domain/sandbox/exec.ts"
import { withBunker } from "../../context.ts"
import { ExitWith } from "../../terminal/output.ts"
import { attach as join } from "../../terminal/terminal.ts"
import { explainBrokenChannel } from "../brokenChannel.ts"
import { commandFlags } from "../sandboxFlags.ts"
import { name, shells } from "./attachCommon.ts"

export const shell = Command.make(
  "shell",
  {
    user: commandFlags.user,
    workdir: commandFlags.workdir,
    name
  },
  Effect.fn("Cli.shell")(function* (flags) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const own = {
        ...(Option.isSome(flags.user) ? { user: flags.user.value } : {}),
        ...(Option.isSome(flags.workdir) ? { cwd: flags.workdir.value } : {})
      }
      const start = (shell: string, tty: TerminalSize | null) =>
        vms.Exec({
          name: flags.name,
          request: { argv: [shell, "-l"], env: [], ...own, tty, stdin: true }
        })
      // A pipe works, too: `bunker shell box < script`.
      const tty = process.stdin.isTTY === true
      const code = yield* join({
        name: flags.name,
        interactive: true,
        tty,
        events: (size) =>
          shells
            .map((shell) => start(shell, size))
            .reduceRight((next, first) =>
              Stream.catchTag(first, "ExecFailed", (error: ExecFailed) =>
                error.reason === "not_found" ? next : Stream.fail(error)
              )
            )
      }).pipe(Effect.catchTag("GuestChannelFailed", (error) => explainBrokenChannel(flags.name, error)))
      if (code !== undefined && code !== 0) return yield* new ExitWith({ code })
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Open a login shell in a running sandbox: bash, ash or sh, the first that its image has."),
  Command.withShortDescription("Open a shell in a sandbox")
)
