/** `bunker save`. Decides nothing: sends its messages and prints what comes back. */

import path from "node:path"
import { Effect, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { toFile, toStdout } from "../../byteStreams.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { ExitWith, formatBytes, say } from "../../terminal/output.ts"
import { images } from "./imageCommon.ts"

export const save = Command.make(
  "save",
  {
    output: Flag.String("output").pipe(
      Flag.withAlias("o"),
      Flag.withDescription("File to write; - is stdout, the default unless that is a terminal"),
      Flag.optional
    ),
    quiet: flag("quiet", "q", "Say nothing"),
    image: images
  },
  Effect.fn("Cli.save")(function* (flags) {
    const output = Option.getOrElse(flags.output, () => "-")
    if (output === "-" && process.stdout.isTTY) {
      yield* say("bunker: an archive is nothing for a terminal; give a file with -o, or pipe it on")
      return yield* new ExitWith({ code: 125 })
    }
    const [first, ...rest] = flags.image
    const body = Effect.gen(function* () {
      const pieces = (yield* ImageStore).Save({ references: [first!, ...rest] })
      if (output === "-") return yield* toStdout(pieces)
      const bytes = yield* toFile(pieces, path.resolve(output))
      if (!flags.quiet) yield* say(`${output}: ${flags.image.length} image(s), ${formatBytes(bytes)}`)
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Write images as an OCI archive that bunker, skopeo, podman and docker load; configs and layers keep their digests."
  ),
  Command.withShortDescription("Write images to a file")
)
