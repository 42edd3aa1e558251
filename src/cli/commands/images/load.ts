/** `bunker load`. Decides nothing: sends its messages and prints what comes back. */

import { Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { inputFile } from "../../byteStreams.ts"
import { withBunker } from "../../context.ts"
import { print } from "../../terminal/output.ts"
import { familiar, progressStyle, showProgress } from "../../terminal/progress.ts"
import { jsonFlag, namingStdin } from "./archiveCommon.ts"
import { platformFlag, platformOf, quietFlag } from "./imageCommon.ts"

export const load = Command.make(
  "load",
  {
    tag: Flag.String("tag").pipe(
      Flag.withAlias("t"),
      Flag.withDescription("Name for an image that has none"),
      Flag.optional
    ),
    input: Flag.String("input").pipe(
      Flag.withAlias("i"),
      Flag.withDescription("The same as PATH; - is stdin"),
      Flag.optional
    ),
    platform: platformFlag,
    json: jsonFlag,
    quiet: quietFlag,
    path: Argument.String("path").pipe(
      Argument.withDescription("OCI layout directory, OCI archive or docker save archive; default: stdin"),
      Argument.optional
    )
  },
  Effect.fn("Cli.load")(function* (flags) {
    const given = Option.getOrElse(
      Option.orElse(flags.input, () => flags.path),
      () => "-"
    )
    const body = Effect.gen(function* () {
      const store = yield* ImageStore
      const tag = Option.isSome(flags.tag) ? { tag: flags.tag.value } : {}
      const stream = store.Load({ path: yield* inputFile(given), ...tag, ...(yield* platformOf(flags.platform)) })
      const loaded = yield* showProgress(Stream.mapError(stream, namingStdin(given)), progressStyle(flags))
      if (!flags.json) yield* Effect.forEach(loaded, (each) => print(familiar(each.reference)), { discard: true })
    })
    return yield* withBunker(Effect.scoped(body))
  })
).pipe(
  Command.withDescription("Load images from an OCI layout directory, an OCI archive or a docker save archive."),
  Command.withShortDescription("Load an image from a file")
)
