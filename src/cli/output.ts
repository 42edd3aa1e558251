/** Writes to people and pipes: data to stdout, words to stderr, one line for an error. Decides nothing. */

import fs from "node:fs"
import { Cause, Data, Effect, Option } from "effect"

/** Ends the program with this code, having said all there is to say. */
export class ExitWith extends Data.TaggedError("ExitWith")<{ readonly code: number }> {}

/** Writes all of it, waiting for a slow reader; false when the reader is gone. */
export const writeAll = (fd: 1 | 2, data: Uint8Array | string): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    const stream = fd === 1 ? process.stdout : process.stderr
    stream.write(data, (error) => resume(Effect.succeed(error === undefined || error === null)))
  })

/** One line of data. */
export const print = (line: string): Effect.Effect<void> => Effect.asVoid(writeAll(1, `${line}\n`))

/** One line for a person, on stderr. */
export const say = (line: string): Effect.Effect<void> => Effect.asVoid(writeAll(2, `${line}\n`))

/** Columns as wide as their widest cell, two spaces apart. */
export const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const all = [head, ...rows]
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)))
  return all
    .map((row) =>
      row
        .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column]!)))
        .join("  ")
        .trimEnd()
    )
    .join("\n")
}

const units = ["B", "KiB", "MiB", "GiB", "TiB"]

/** 1536 → "1.5 KiB". */
export const formatBytes = (bytes: number): string => {
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

/** 90,000 ms → "2 minutes ago". */
export const formatAge = (thenMs: number, nowMs: number): string => {
  const seconds = Math.max(0, Math.round((nowMs - thenMs) / 1000))
  const [count, unit] =
    seconds < 60
      ? [seconds, "second"]
      : seconds < 3600
        ? [Math.round(seconds / 60), "minute"]
        : seconds < 172_800
          ? [Math.round(seconds / 3600), "hour"]
          : [Math.round(seconds / 86_400), "day"]
  return `${count} ${unit}${count === 1 ? "" : "s"} ago`
}

/** Text from elsewhere (a guest, a registry) made harmless for a terminal: control characters are shown, not obeyed. */
export const harmless = (text: string): string =>
  text.replace(/[\x00-\x1f\x7f-\x9f]/g, (char) =>
    char === "\n" || char === "\t" ? " " : `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`
  )

/** The one line for a failure: its message, or for a defect that it is one. */
export const explain = (cause: Cause.Cause<unknown>): string => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error instanceof Error) return harmless(error.message)
  if (error !== undefined) return harmless(typeof error === "object" ? JSON.stringify(error) : String(error))
  const defect = Cause.squash(cause)
  return `internal error, please report it: ${harmless(defect instanceof Error ? defect.message : String(defect))} (--debug shows more)`
}

/** True when stderr is a terminal: progress may move there. */
export const onTerminal = (): boolean => process.stderr.isTTY === true

/** Writes synchronously, for last words. */
export const lastWords = (line: string): void => {
  try {
    fs.writeSync(2, `${line}\n`)
  } catch {
    // Nobody listens.
  }
}
