/** `bunker df`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { withBunker } from "../../context.ts"
import { formatBytes, print, table } from "../../terminal/output.ts"
import { jsonFlag } from "./imageCommon.ts"

export const df = Command.make(
  "df",
  { json: jsonFlag },
  Effect.fn("Cli.df")(function* ({ json }) {
    const body = Effect.gen(function* () {
      const usage = yield* ImageStore.use((store) => store.Usage())
      if (json) return yield* print(JSON.stringify(usage, null, 2))
      const row = (name: string, part: { readonly count: number; readonly bytes: number }) => [
        name,
        String(part.count),
        formatBytes(part.bytes)
      ]
      yield* print(
        table(
          ["WHAT", "COUNT", "SIZE"],
          [
            row("images", usage.images),
            row("layers", usage.layers),
            row("sandboxes", usage.sandboxes),
            row("temporary", usage.temporary)
          ]
        )
      )
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Show where the bytes of the home directory are."),
  Command.withShortDescription("Show disk usage")
)
