/** Shows how a pull or load goes: a live block of lines on a terminal, plain lines elsewhere, JSON lines when asked. */
import { Effect, Stream } from "effect"
import type { ImageEvent, ImageHandle } from "../domain/image.ts"
import { familiarReference, parseReference } from "../domain/reference.ts"
import { formatBytes, onTerminal, print, say, writeAll } from "./output.ts"

export type ProgressStyle = "live" | "plain" | "json" | "quiet"

export const progressStyle = (options: { readonly json: boolean; readonly quiet: boolean }): ProgressStyle =>
  options.json ? "json" : options.quiet ? "quiet" : onTerminal() ? "live" : "plain"

interface Bar {
  bytes: number
  total: number
  state: "moving" | "done" | "cached"
  readonly since: number
}

const barWidth = 28

const drawBar = (digest: string, bar: Bar): string => {
  const name = digest.slice("sha256:".length, "sha256:".length + 12)
  if (bar.state !== "moving") return `  ${name}  ${bar.state === "cached" ? "already here" : "done"}`
  const share = bar.total === 0 ? 1 : bar.bytes / bar.total
  const filled = Math.round(share * barWidth)
  const seconds = (performance.now() - bar.since) / 1000
  const rate = seconds > 0 ? bar.bytes / seconds : 0
  const left = rate > 0 ? `${Math.ceil((bar.total - bar.bytes) / rate)} s left` : ""
  return `  ${name}  ${"#".repeat(filled)}${".".repeat(barWidth - filled)}  ${formatBytes(bar.bytes)} of ${formatBytes(bar.total)}, ${formatBytes(rate)}/s, ${left}`
}

/** Runs a pull or load, showing it in the given style; answers the images it brought. */
export const showProgress = <E>(
  stream: Stream.Stream<ImageEvent, E>,
  style: ProgressStyle
): Effect.Effect<ReadonlyArray<ImageHandle>, E> =>
  Effect.suspend(() => {
    const images: Array<ImageHandle> = []
    const bars = new Map<string, Bar>()
    let drawn = 0
    const clear = () => (drawn === 0 ? "" : `\x1b[${drawn}A\x1b[J`)
    const redraw = () => {
      const columns = process.stderr.columns ?? 80
      const lines = [...bars].map(([digest, bar]) => drawBar(digest, bar).slice(0, columns - 1))
      const text = `${clear()}${lines.join("\n")}${lines.length > 0 ? "\n" : ""}`
      drawn = lines.length
      return Effect.asVoid(writeAll(2, text))
    }
    const track = (event: ImageEvent): void => {
      if (event._tag === "LayerProgress") {
        const bar = bars.get(event.digest)
        if (bar === undefined) {
          bars.set(event.digest, {
            bytes: event.bytes,
            total: event.totalBytes,
            state: "moving",
            since: performance.now()
          })
        } else bar.bytes = event.bytes
      } else if (event._tag === "LayerDone") {
        const bar = bars.get(event.digest) ?? { bytes: 0, total: 0, state: "done", since: 0 }
        bar.state = event.cached ? "cached" : "done"
        bars.set(event.digest, bar)
      }
    }
    const show = (event: ImageEvent): Effect.Effect<void> => {
      if (event._tag === "Done") images.push(event.image)
      if (style === "json") return print(JSON.stringify(event))
      if (style === "quiet") return Effect.void
      if (event._tag === "Resolved") {
        return say(`${familiar(event.reference)}: ${event.layers} layer(s), ${formatBytes(event.totalSizeBytes)}`)
      }
      if (style === "plain") {
        return event._tag === "LayerDone"
          ? say(`  layer ${event.digest.slice(7, 19)}: ${event.cached ? "already here" : "done"}`)
          : Effect.void
      }
      track(event)
      return event._tag === "LayerProgress" || event._tag === "LayerDone" ? redraw() : Effect.void
    }
    return Effect.as(Stream.runForEach(stream, show), images)
  })

/** The short form of a canonical reference, for people. */
export const familiar = (canonical: string): string =>
  Effect.runSync(
    parseReference(canonical).pipe(
      Effect.map(familiarReference),
      Effect.orElseSucceed(() => canonical)
    )
  )
