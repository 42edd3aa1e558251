/** `pull`, `images`, `image inspect|rm|prune`, `df`: everything about images and the space they take. */
import { Clock, Effect, Option, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ImageStore } from "../../actors/images/ImageStore.ts"
import { Sweeper } from "../../actors/sandboxes/Sweeper.ts"
import { type CollectReport, ImageHandle, ImageInspection } from "../../domain/image/image.ts"
import { parsePlatform } from "../../domain/image/platform.ts"
import { withBunker } from "../context.ts"
import { flag } from "../flags.ts"
import { formatAge, formatBytes, print, printJson, say, table } from "../terminal/output.ts"
import { familiar, progressStyle, showProgress } from "../terminal/progress.ts"
import { askSecret, NoAnswer, readSecret } from "../terminal/prompt.ts"

const jsonFlag = flag("json", undefined, "Print JSON")
export const quietFlag = flag("quiet", "q", "No progress")
export const platformFlag = Flag.String("platform").pipe(
  Flag.withDescription("os/architecture[/variant]; default: this machine's"),
  Flag.optional
)
const image = Argument.String("image").pipe(Argument.withDescription("Image reference, like alpine:3.20"))
export const images = image.pipe(Argument.atLeast(1))

export const platformOf = Effect.fnUntraced(function* (platform: Option.Option<string>) {
  return Option.isSome(platform) ? { platform: yield* parsePlatform(platform.value) } : {}
})

const usernameFlag = Flag.String("username").pipe(
  Flag.withAlias("u"),
  Flag.withDescription("User name at the registry, for this pull only; asks for the password"),
  Flag.optional
)
const passwordFlag = flag("password-stdin", undefined, "Read the password or access token from stdin")

const loginOf = Effect.fnUntraced(function* (flags: {
  readonly username: Option.Option<string>
  readonly passwordStdin: boolean
}) {
  if (Option.isNone(flags.username)) {
    return flags.passwordStdin ? yield* new NoAnswer({ message: "--password-stdin needs --username, too" }) : {}
  }
  const password = flags.passwordStdin ? yield* readSecret : yield* askSecret("Password: ")
  return { login: { username: flags.username.value, password } }
})

export const pull = Command.make(
  "pull",
  {
    policy: Flag.Literals("pull", ["if-missing", "always"]).pipe(
      Flag.withDescription("if-missing asks the registry only for what is not here"),
      Flag.withDefault("always" as const)
    ),
    platform: platformFlag,
    insecure: flag("insecure", undefined, "Allow plain HTTP to the registry"),
    username: usernameFlag,
    passwordStdin: passwordFlag,
    json: flag("json", undefined, "Print events as JSON lines"),
    quiet: quietFlag,
    image: images
  },
  Effect.fn("Cli.pull")(function* (flags) {
    const login = yield* loginOf(flags)
    const body = Effect.gen(function* () {
      const store = yield* ImageStore
      const platform = { ...(yield* platformOf(flags.platform)), ...login }
      for (const reference of flags.image) {
        const stream = store.Pull({ reference, policy: flags.policy, insecure: flags.insecure, ...platform })
        const pulled = yield* showProgress(stream, progressStyle(flags))
        if (!flags.json) yield* Effect.forEach(pulled, (each) => print(familiar(each.reference)), { discard: true })
      }
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Fetch images from registries. Layers that are here already are not fetched again."),
  Command.withShortDescription("Fetch an image from a registry")
)

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

const inspect = Command.make(
  "inspect",
  { image: images },
  Effect.fn("Cli.imageInspect")(function* (flags) {
    const body = ImageStore.use((store) => Effect.forEach(flags.image, (reference) => store.Inspect({ reference })))
    yield* withBunker(Effect.flatMap(body, (found) => printJson(Schema.Array(ImageInspection), found)))
  })
).pipe(Command.withDescription("Print an image's record, configuration and layers as JSON."))

/** One line for what a collection removed. */
const describeReport = (report: CollectReport, dryRun: boolean): string => {
  const count = (number: number, what: string) => `${number} ${what}${number === 1 ? "" : "s"}`
  const what = `${count(report.image_refs_removed, "image")} and ${count(report.layers_removed, "layer")}`
  const bytes = formatBytes(report.bytes_reclaimed ?? 0)
  return dryRun ? `would remove ${what} and free ${bytes}` : `${what} removed, ${bytes} freed`
}

const remove = Command.make(
  "rm",
  {
    force: flag("force", "f", "Even when a sandbox is made from it: that keeps its files, the name goes"),
    json: flag("json", undefined, "Print a report for each as JSON lines"),
    image: images
  },
  Effect.fn("Cli.imageRemove")(function* (flags) {
    const body = Effect.gen(function* () {
      const store = yield* ImageStore
      for (const reference of flags.image) {
        const report = yield* store.Remove({ reference, force: flags.force })
        if (flags.json) yield* print(JSON.stringify(report))
      }
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Remove images; layers that no other image needs go with them."))

const prune = Command.make(
  "prune",
  { dryRun: flag("dry-run", undefined, "Say what would go, and remove nothing"), json: jsonFlag },
  Effect.fn("Cli.imagePrune")(function* ({ dryRun, json }) {
    const report = yield* withBunker(ImageStore.use((store) => store.Prune({ dryRun })))
    yield* print(json ? JSON.stringify(report) : describeReport(report, dryRun))
  })
).pipe(Command.withDescription("Remove every image that no sandbox is made from, and what crashes left in the cache."))

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

export const imageGroup = Command.make("image").pipe(
  Command.withDescription("Inspect and remove images."),
  Command.withShortDescription("inspect, rm, prune"),
  Command.withSubcommands([inspect, remove, prune])
)

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
