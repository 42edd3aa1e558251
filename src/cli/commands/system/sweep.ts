/** `bunker sweep`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command, Flag } from "effect/cli"
import { Sweeper } from "../../../actors/sandboxes/Sweeper.ts"
import { withBunker } from "../../context.ts"
import { print, say } from "../../terminal/output.ts"
import { jsonFlag } from "./common.ts"

export const sweep = Command.make(
  "sweep",
  {
    json: jsonFlag,
    dryRun: Flag.Boolean("dry-run").pipe(Flag.withDescription("Count, and change nothing"), Flag.withDefault(false))
  },
  Effect.fn("Cli.sweep")(function* ({ json, dryRun }) {
    const report = yield* withBunker(
      Sweeper.use((sweeper) => sweeper.Sweep({ force: true, dryRun })),
      { sweep: false }
    )
    if (report === null) return yield* say("another process is sweeping")
    yield* print(
      json
        ? JSON.stringify(report)
        : `${report.reconciled} put right, ${report.removed} removed, ${report.errors} left with errors${report.timed_out ? "; time was up, sweep again" : ""}`
    )
  })
).pipe(
  Command.withDescription("Put records of dead sandboxes right and remove what they left."),
  Command.withShortDescription("Clean up after crashes")
)
