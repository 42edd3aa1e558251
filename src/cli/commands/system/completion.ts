/** `bunker completion`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Argument, Command } from "effect/cli"
import { shells } from "../../arguments.ts"

export const completion = Command.make(
  "completion",
  { shell: Argument.Literals("shell", shells).pipe(Argument.withDescription("bash, zsh or fish")) },
  // The library writes it for the whole program: see app.ts, which asks it to.
  Effect.fn("Cli.completion")(() => Effect.void)
).pipe(
  Command.withDescription("Print a script that completes commands and flags in a shell."),
  Command.withShortDescription("Complete commands in a shell"),
  Command.withExamples([
    { command: "source <(bunker completion bash)", description: "In ~/.bashrc" },
    { command: "bunker completion fish > ~/.config/fish/completions/bunker.fish", description: "For fish" }
  ])
)
