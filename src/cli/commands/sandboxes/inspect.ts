/** `bunker inspect`. Decides nothing: sends its messages and prints what comes back. */
import { Effect, Schema } from "effect"
import { Command } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { ImageInspection } from "../../../domain/image/image.ts"
import { SandboxInfo } from "../../../domain/sandbox/sandbox.ts"
import { withBunker } from "../../context.ts"
import { forEachName, printJson } from "../../terminal/output.ts"
import { names } from "./common.ts"

const Inspected = Schema.Array(Schema.Union([SandboxInfo, ImageInspection]))

export const inspect = Command.make(
  "inspect",
  { name: names },
  Effect.fn("Cli.inspect")(function* ({ name }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const found: Array<SandboxInfo | ImageInspection> = []
      const image = (reference: string) => ImageStore.use((images) => images.Inspect({ reference }))
      const one = (each: string) =>
        vms.Inspect({ name: each }).pipe(
          // What names no sandbox may name an image; when it does not, a sandbox was meant.
          Effect.catchTag(["SandboxNotFound", "InvalidName"], (error) => Effect.mapError(image(each), () => error)),
          Effect.map((info) => found.push(info))
        )
      yield* forEachName(name, one).pipe(Effect.ensuring(Effect.suspend(() => printJson(Inspected, found))))
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Print all that is recorded of sandboxes, or of images, as JSON."),
  Command.withShortDescription("Print a sandbox as JSON")
)
