/** `bunker image`. Decides nothing: sends its messages and prints what comes back. */
import { Effect, Schema } from "effect"
import { Command } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { ImageInspection } from "../../../domain/image/image.ts"
import { withBunker } from "../../context.ts"
import { printJson } from "../../terminal/output.ts"
import { images, prune, remove } from "./imageCommon.ts"

const inspect = Command.make(
  "inspect",
  { image: images },
  Effect.fn("Cli.imageInspect")(function* (flags) {
    const body = ImageStore.use((store) => Effect.forEach(flags.image, (reference) => store.Inspect({ reference })))
    yield* withBunker(Effect.flatMap(body, (found) => printJson(Schema.Array(ImageInspection), found)))
  })
).pipe(Command.withDescription("Print an image's record, configuration and layers as JSON."))

export const imageGroup = Command.make("image").pipe(
  Command.withDescription("Inspect and remove images."),
  Command.withShortDescription("inspect, rm, prune"),
  Command.withSubcommands([inspect, remove, prune])
)
