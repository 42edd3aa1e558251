/** `load`, `save`, `import`: images from files and into files, stdin and stdout among them. */
import path from "node:path"
import { Effect, Option, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ImageStore } from "../../actors/images/ImageStore.ts"
import { ArchiveInvalid, RootfsInvalid } from "../../domain/errors/image.ts"
import { inputFile, toFile, toStdout } from "../byteStreams.ts"
import { withBunker } from "../context.ts"
import { flag } from "../flags.ts"
import { ExitWith, formatBytes, print, say } from "../terminal/output.ts"
import { familiar, progressStyle, showProgress } from "../terminal/progress.ts"
import { images, platformFlag, platformOf, quietFlag } from "./images.ts"

const jsonFlag = flag("json", undefined, "Print events as JSON lines")

/** Speaks of stdin by its name. */
const namingStdin =
  (given: string) =>
  <E extends { readonly _tag: string }>(error: E): E | ArchiveInvalid | RootfsInvalid => {
    if (given !== "-") return error
    const path = "what stdin gave"
    if (error instanceof ArchiveInvalid) return new ArchiveInvalid({ path, reason: error.reason })
    return error instanceof RootfsInvalid ? new RootfsInvalid({ path, reason: error.reason }) : error
  }

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
