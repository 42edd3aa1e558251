/** What the commands about images share. */
import { Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import type { CollectReport } from "../../../domain/image/image.ts"
import { parsePlatform } from "../../../domain/image/platform.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { formatBytes, print } from "../../terminal/output.ts"

export const jsonFlag = flag("json", undefined, "Print JSON")

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

/** One line for what a collection removed. */
export const describeReport = (report: CollectReport, dryRun: boolean): string => {
  const count = (number: number, what: string) => `${number} ${what}${number === 1 ? "" : "s"}`
  const what = `${count(report.image_refs_removed, "image")} and ${count(report.layers_removed, "layer")}`
  const bytes = formatBytes(report.bytes_reclaimed ?? 0)
  return dryRun ? `would remove ${what} and free ${bytes}` : `${what} removed, ${bytes} freed`
}

export const remove = Command.make(
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

export const prune = Command.make(
  "prune",
  { dryRun: flag("dry-run", undefined, "Say what would go, and remove nothing"), json: jsonFlag },
  Effect.fn("Cli.imagePrune")(function* ({ dryRun, json }) {
    const report = yield* withBunker(ImageStore.use((store) => store.Prune({ dryRun })))
    yield* print(json ? JSON.stringify(report) : describeReport(report, dryRun))
  })
).pipe(Command.withDescription("Remove every image that no sandbox is made from, and what crashes left in the cache."))
