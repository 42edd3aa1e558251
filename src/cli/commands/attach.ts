/** `attach`, `shell`: joining a sandbox that runs. */
import { Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../actors/sandboxes/VmSupervisor.ts"
import type { ExecFailed } from "../../domain/errors/vm.ts"
import type { TerminalSize } from "../../domain/sandbox/exec.ts"
import { withBunker } from "../context.ts"
import { ExitWith, say } from "../terminal/output.ts"
import { attach as join } from "../terminal/terminal.ts"
import { explainBrokenChannel } from "./brokenChannel.ts"
import { commandFlags } from "./sandboxFlags.ts"

const name = Argument.String("name").pipe(Argument.withDescription("Running sandbox"))

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

/** Best first. */
const shells = ["bash", "ash", "sh"] as const

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
