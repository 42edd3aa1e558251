/**
 * Shows how a pull or load goes: a live block of lines on a terminal, plain lines elsewhere, JSON lines when asked.
 * The block never has more lines than the screen: what scrolled away could not be drawn over.
 */
import { Effect, Stream } from "effect"
import { ImageEvent, type ImageHandle } from "../../domain/image/image.ts"
import { familiarReference, parseReference } from "../../domain/image/reference.ts"
import { harmless } from "../../domain/terminalText.ts"
import { toWire } from "../../domain/wire.ts"
import { formatBytes, onTerminal, print, say, writeAll } from "./output.ts"

export type ProgressStyle = "live" | "plain" | "json" | "quiet"

export const progressStyle = (options: { readonly json: boolean; readonly quiet: boolean }): ProgressStyle =>
  options.json ? "json" : options.quiet ? "quiet" : onTerminal() && process.env["TERM"] !== "dumb" ? "live" : "plain"

interface Bar {
  bytes: number
  total: number
  state: "moving" | "done" | "cached"
  /** `performance.now()` at its first byte. */
  readonly since: number
}

/** Size of a terminal in characters. */
export interface Screen {
  readonly columns: number
  readonly rows: number
}

const barWidth = 28

const shortDigest = (digest: string): string => digest.slice("sha256:".length, "sha256:".length + 12)

const drawBar = (digest: string, bar: Bar, now: number): string => {
  const name = shortDigest(digest)
  if (bar.state !== "moving") return `  ${name}  ${bar.state === "cached" ? "already here" : "done"}`
  const share = bar.total === 0 ? 1 : Math.min(1, bar.bytes / bar.total)
  const filled = Math.round(share * barWidth)
  const seconds = (now - bar.since) / 1000
  const rate = seconds > 0.5 ? bar.bytes / seconds : 0
  const left = rate > 0 ? `, ${formatBytes(rate)}/s, ${Math.ceil((bar.total - bar.bytes) / rate)} s left` : ""
  return `  ${name}  ${"#".repeat(filled)}${".".repeat(barWidth - filled)}  ${formatBytes(bar.bytes)} of ${formatBytes(bar.total)}${left}`
}

/** The block of one image: what to write for each event, cursor movements included. Holds the state of its lines only. */
export class ProgressBlock {
  readonly #bars = new Map<string, Bar>()
  #drawn = 0
  #columns = 0

  /** The text that draws the block anew after an event; empty when it stays as it is. */
  next(event: ImageEvent, screen: Screen, now: number): string {
    switch (event._tag) {
      case "Resolved": {
        // The block of the image before stays as it is.
        this.#bars.clear()
        this.#drawn = 0
        return `${harmless(familiar(event.reference))}: ${event.layers} layer(s), ${formatBytes(event.totalSizeBytes)}\n`
      }
      case "LayerProgress": {
        const bar = this.#bars.get(event.digest)
        if (bar !== undefined) bar.bytes = event.bytes
        else {
          const fresh = { bytes: event.bytes, total: event.totalBytes, state: "moving", since: now } as const
          this.#bars.set(event.digest, { ...fresh })
        }
        return this.#redraw(screen, now)
      }
      case "LayerDone": {
        const bar = this.#bars.get(event.digest) ?? { bytes: 0, total: 0, state: "done", since: now }
        bar.state = event.cached ? "cached" : "done"
        this.#bars.set(event.digest, bar)
        return this.#redraw(screen, now)
      }
      default:
        return ""
    }
  }

  #redraw(screen: Screen, now: number): string {
    const clear = this.#drawn === 0 ? "" : `\x1b[${this.#linesAbove(screen)}A\r\x1b[J`
    const lines = this.#lines(Math.max(1, screen.rows - 2), now).map((line) => line.slice(0, screen.columns - 1))
    this.#drawn = lines.length
    this.#columns = screen.columns
    return `${clear}${lines.map((line) => `${line}\n`).join("")}`
  }

  /** Lines to go up: a terminal that became narrower since may have broken each of ours into several. */
  #linesAbove(screen: Screen): number {
    const parts = this.#columns > screen.columns ? Math.ceil((this.#columns - 1) / screen.columns) : 1
    return Math.min(this.#drawn * parts, screen.rows - 1)
  }

  /** At most `most` lines: layers that move come first when not all have room, the rest is counted. */
  #lines(most: number, now: number): ReadonlyArray<string> {
    const bars = [...this.#bars]
    if (bars.length <= most) return bars.map(([digest, bar]) => drawBar(digest, bar, now))
    const moving = bars.filter(([, bar]) => bar.state === "moving").slice(0, most - 1)
    const done = bars.filter(([, bar]) => bar.state !== "moving").length
    return [`  ${done} layer(s) done`, ...moving.map(([digest, bar]) => drawBar(digest, bar, now))]
  }
}

const screenOf = (): Screen => ({ columns: process.stderr.columns || 80, rows: process.stderr.rows || 24 })

/** What an event says where nothing can be drawn over; undefined for nothing. */
const plainLine = (event: ImageEvent): string | undefined => {
  if (event._tag === "Resolved")
    return `${harmless(familiar(event.reference))}: ${event.layers} layer(s), ${formatBytes(event.totalSizeBytes)}`
  return event._tag === "LayerDone"
    ? `  layer ${shortDigest(event.digest)}: ${event.cached ? "already here" : "done"}`
    : undefined
}

/** Runs a pull or load, showing it in the given style; answers the images it brought. */
export const showProgress = <E>(
  stream: Stream.Stream<ImageEvent, E>,
  style: ProgressStyle
): Effect.Effect<ReadonlyArray<ImageHandle>, E> =>
  Effect.suspend(() => {
    const images: Array<ImageHandle> = []
    const block = new ProgressBlock()
    const show = (event: ImageEvent): Effect.Effect<void> => {
      if (event._tag === "Done") images.push(event.image)
      switch (style) {
        case "json":
          return print(JSON.stringify(toWire(ImageEvent, event)))
        case "quiet":
          return Effect.void
        case "plain": {
          const line = plainLine(event)
          return line === undefined ? Effect.void : say(line)
        }
        case "live": {
          const text = block.next(event, screenOf(), performance.now())
          return text === "" ? Effect.void : Effect.asVoid(writeAll(2, text))
        }
      }
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
