/** `bunker prune`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { Sweeper } from "../../../actors/sandboxes/Sweeper.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { print, say } from "../../terminal/output.ts"
import { describeReport, jsonFlag } from "./imageCommon.ts"

export const pruneAll = Command.make(
  "prune",
  { dryRun: flag("dry-run", undefined, "Say what would go, and remove nothing"), json: jsonFlag },
  Effect.fn("Cli.prune")(function* ({ dryRun, json }) {
    const body = Effect.gen(function* () {
      // First: what a dead sandbox held is free afterwards.
      const swept = yield* (yield* Sweeper).Sweep({ force: true, dryRun })
      const images = yield* (yield* ImageStore).Prune({ dryRun })
      if (json) return yield* print(JSON.stringify({ sandboxes: swept, images }))
      if (swept === null) yield* say("another process is sweeping sandboxes; only images were looked at")
      else if (swept.removed > 0) {
        const leftovers = `leftovers of ${swept.removed} dead sandbox${swept.removed === 1 ? "" : "es"}`
        yield* print(dryRun ? `would remove ${leftovers}` : `${leftovers} removed`)
      }
      yield* print(describeReport(images, dryRun))
    })
    return yield* withBunker(body, { sweep: false })
  })
).pipe(
  Command.withDescription(
    "Give back all space that nothing needs: leftovers of dead sandboxes, then every image that no sandbox is made from. Stopped sandboxes are kept, see 'bunker rm'."
  ),
  Command.withShortDescription("Give back space")
)
