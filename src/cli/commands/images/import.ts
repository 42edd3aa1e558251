/** `bunker import`. Decides nothing: sends its messages and prints what comes back. */

import { Effect, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { inputFile } from "../../byteStreams.ts"
import { withBunker } from "../../context.ts"
import { print } from "../../terminal/output.ts"
import { familiar, progressStyle, showProgress } from "../../terminal/progress.ts"
import { jsonFlag, namingStdin } from "./archiveCommon.ts"
import { platformFlag, platformOf, quietFlag } from "./imageCommon.ts"

export const importRootfs = Command.make(
  "import",
  {
    change: Flag.String("change").pipe(
      Flag.withAlias("c"),
      Flag.withDescription(
        "How the image wants to be run: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR and its value"
      ),
      Flag.atLeast(0)
    ),
    platform: platformFlag,
    json: jsonFlag,
    quiet: quietFlag,
    path: Argument.String("path").pipe(
      Argument.withDescription(
        "Directory that holds a root file system, or a tar of one, plain, gzip or zstd; - is stdin"
      )
    ),
    name: Argument.String("name").pipe(Argument.withDescription("Name of the image, like mine:1"))
  },
  Effect.fn("Cli.import")(function* (flags) {
    const body = Effect.gen(function* () {
      const store = yield* ImageStore
      const stream = store.Import({
        path: yield* inputFile(flags.path),
        reference: flags.name,
        changes: flags.change,
        ...(yield* platformOf(flags.platform))
      })
      const made = yield* showProgress(Stream.mapError(stream, namingStdin(flags.path)), progressStyle(flags))
      if (!flags.json) yield* Effect.forEach(made, (each) => print(familiar(each.reference)), { discard: true })
    })
    return yield* withBunker(Effect.scoped(body))
  })
).pipe(
  Command.withDescription(
    "Make an image of one layer from a root file system. Owners, modes, times and extended attributes stay. The same tree makes the same image."
  ),
  Command.withShortDescription("Make an image from a root file system")
)
