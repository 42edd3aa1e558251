/** `bunker wait`. Decides nothing: sends its messages and prints what comes back. */
import { Effect, Fiber } from "effect"
import { Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { forEachName, print } from "../../terminal/output.ts"
import { names } from "./common.ts"

export const wait = Command.make(
  "wait",
  { name: names },
  Effect.fn("Cli.wait")(function* ({ name }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      // All at once: one that is gone with its end could not be asked later. Said in the order of the names.
      const waiting = yield* Effect.forEach(name, (each) =>
        Effect.forkChild(Effect.exit(vms.Wait({ name: each })), { startImmediately: true })
      )
      const one = (_name: string, index: number) =>
        Fiber.join(waiting[index]!).pipe(
          Effect.flatten,
          Effect.flatMap((end) => print(String(end.exitCode ?? end.exitSignal ?? end.reason)))
        )
      yield* forEachName(name, one)
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Wait until sandboxes have ended, and print the exit code, signal or reason of each."),
  Command.withShortDescription("Wait for the end of a sandbox")
)
