/** `bunker exec`. Decides nothing: sends its messages and prints what comes back. */
import { Effect, Option } from "effect"
import { Argument, Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { ExecRequest } from "../../../domain/sandbox/exec.ts"
import { commandProblem } from "../../../domain/sandbox/validation.ts"
import { readEnvironment } from "../../arguments.ts"
import { withBunker } from "../../context.ts"
import { checkFlags, checkProblem, readLimits, readTimeout } from "../../ioFlags.ts"
import { ExitWith } from "../../terminal/output.ts"
import { attach } from "../../terminal/terminal.ts"
import { explainBrokenChannel } from "../brokenChannel.ts"
import { commandFlags, flagOf, rlimitFlag, terminalFlags, timeoutFlag } from "../sandboxFlags.ts"

export const exec = Command.make(
  "exec",
  {
    ...commandFlags,
    ...terminalFlags,
    rlimit: rlimitFlag,
    timeout: timeoutFlag,
    name: Argument.String("name").pipe(Argument.withDescription("Running sandbox")),
    command: Argument.String("command").pipe(Argument.withDescription("Command and its arguments"), Argument.atLeast(1))
  },
  Effect.fn("Cli.exec")(function* (flags) {
    const body = Effect.gen(function* () {
      const [program, ...rest] = flags.command
      const request = {
        argv: [program!, ...rest],
        env: yield* readEnvironment(flags.env, flags.envFile, process.env),
        ...(Option.isSome(flags.workdir) ? { cwd: flags.workdir.value } : {}),
        ...(Option.isSome(flags.user) ? { user: flags.user.value } : {}),
        stdin: flags.interactive,
        ...(yield* readLimits(flags.rlimit)),
        ...(yield* readTimeout(flags.timeout))
      } as const
      yield* checkFlags(ExecRequest, { ...request, tty: null }, flagOf)
      yield* checkProblem(commandProblem(request), flagOf)
      const vms = yield* VmSupervisor
      const code = yield* attach({
        name: flags.name,
        interactive: flags.interactive,
        tty: flags.tty,
        events: (tty) => vms.Exec({ name: flags.name, request: { ...request, tty } })
      }).pipe(Effect.catchTag("GuestChannelFailed", (error) => explainBrokenChannel(flags.name, error)))
      if (code !== undefined && code !== 0) return yield* new ExitWith({ code })
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Run a command in a running sandbox, and end with its exit code. Flags after the name belong to the command."
  ),
  Command.withShortDescription("Run a command in a running sandbox"),
  Command.withExamples([{ command: "bunker exec -it box sh", description: "Open a shell in the sandbox box" }])
)
