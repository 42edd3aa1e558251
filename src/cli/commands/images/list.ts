/** `bunker images`. Decides nothing: sends its messages and prints what comes back. */
import { Clock, Effect, Schema } from "effect"
import { Command } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { ImageHandle } from "../../../domain/image/image.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { formatAge, formatBytes, print, printJson, table } from "../../terminal/output.ts"
import { familiar } from "../../terminal/progress.ts"
import { jsonFlag } from "./imageCommon.ts"

export const list = Command.make(
  "images",
  { json: jsonFlag, quiet: flag("quiet", "q", "References only") },
  Effect.fn("Cli.images")(function* ({ json, quiet }) {
    const body = Effect.gen(function* () {
      const found = yield* ImageStore.use((store) => store.List())
      if (json) return yield* printJson(Schema.Array(ImageHandle), found)
      if (quiet) return yield* Effect.forEach(found, (each) => print(familiar(each.reference)), { discard: true })
      const now = yield* Clock.currentTimeMillis
      const rows = found.map((each) => [
        familiar(each.reference),
        each.manifestDigest.slice(7, 19),
        `${each.os}/${each.architecture}`,
        String(each.layerCount),
        formatBytes(each.totalSizeBytes),
        formatAge(each.createdAt, now)
      ])
      yield* print(table(["IMAGE", "DIGEST", "PLATFORM", "LAYERS", "SIZE", "PULLED"], rows))
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("List the images that are here."), Command.withShortDescription("List images"))
