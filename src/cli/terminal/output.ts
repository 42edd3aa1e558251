/** Writes to people and pipes: data to stdout, words to stderr, one line for an error. Decides nothing. */

import fs from "node:fs"
import { Cause, Data, Effect, Option, type Schema } from "effect"
import { harmless, harmlessLines } from "../../domain/terminalText.ts"
import { toWire } from "../../domain/wire.ts"

/** Ends the program with this code, having said all there is to say. */
export class ExitWith extends Data.TaggedError("ExitWith")<{ readonly code: number }> {}

let stdoutFailure: NodeJS.ErrnoException | undefined
let listening = false

/** A failed write is an event, too; unheard, it would end the process with a stack trace. */
const hearFailures = (): void => {
  if (listening) return
  listening = true
  process.stdout.on("error", (error: NodeJS.ErrnoException) => void (stdoutFailure ??= error))
  process.stderr.on("error", () => {})
}

/** Writes all of it as it is, for bytes of commands and for what we want a terminal to obey, waiting for a slow reader; false when it can not be written, for stdout see `outputFailure`. */
export const writeAll = (fd: 1 | 2, data: Uint8Array | string): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    hearFailures()
    const stream = fd === 1 ? process.stdout : process.stderr
    stream.write(data, (error) => {
      if (error && fd === 1) stdoutFailure ??= error
      resume(Effect.succeed(!error))
    })
  })

/**
 * What kept data from being written to stdout, with the exit code for it: a reader that has gone (`| head`) is no error to speak
 * of, and ends a program as SIGPIPE does.
 */
export const outputFailure = (): { readonly code: number; readonly words: string | undefined } | undefined => {
  if (stdoutFailure === undefined) return undefined
  if (stdoutFailure.code === "EPIPE") return { code: 128 + 13, words: undefined }
  const reason = stdoutFailure.code === "ENOSPC" ? "no space left on its disk" : (stdoutFailure.code ?? "unknown error")
  return { code: 125, words: `the output can not be written: ${reason}` }
}

/** One line of data, or several; what a terminal would obey in them is shown. */
export const print = (line: string): Effect.Effect<void> => Effect.asVoid(writeAll(1, `${harmlessLines(line)}\n`))

/** A value of a schema as JSON, in the names of the wire. */
export const printJson = (schema: Schema.Top, value: unknown): Effect.Effect<void> =>
  print(JSON.stringify(toWire(schema, value), null, 2))

let lineEnd = "\n"

/** Tells whether our terminal turns a line feed into the beginning of the next line; in raw mode it does not, and `say` does. */
export const processedByTerminal = (processed: boolean): void => {
  lineEnd = processed || process.stderr.isTTY !== true ? "\n" : "\r\n"
}

/** One line for a person, on stderr. */
export const say = (line: string): Effect.Effect<void> => Effect.asVoid(writeAll(2, `${harmlessLines(line)}${lineEnd}`))

/** One line for each thing that a sandbox's definition asks for in vain. */
export const sayWarnings = (info: { readonly name: string; readonly warnings?: ReadonlyArray<string> }) =>
  Effect.forEach(info.warnings ?? [], (words) => say(`bunker: ${info.name}: ${harmless(words)}`), { discard: true })

/**
 * Does the same to each of several names. One that fails is one line on stderr and keeps none of the others from its turn; then
 * the program ends with 125.
 */
export const forEachName = <E extends { readonly message: string }, R>(
  names: ReadonlyArray<string>,
  act: (name: string, index: number) => Effect.Effect<unknown, E, R>,
  options: { readonly concurrency: number } = { concurrency: 1 }
): Effect.Effect<void, ExitWith, R> =>
  Effect.gen(function* () {
    const attempt = (name: string, index: number) =>
      act(name, index).pipe(
        Effect.as(true),
        Effect.catch((error) => Effect.as(say(`bunker: ${harmless(shortened(error.message))}`), false))
      )
    const done = yield* Effect.forEach(names, attempt, options)
    if (done.includes(false)) return yield* new ExitWith({ code: 125 })
  })

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

/** Longest line for a failure: what is wrong comes first, what to do last. */
const lineMax = 1500
const shortened = (text: string): string =>
  text.length > lineMax ? `${text.slice(0, lineMax - 500)} … ${text.slice(-400)}` : text

/** The one line for a failure: its message, or for a defect that it is one. */
export const explain = (cause: Cause.Cause<unknown>): string => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error instanceof Error) return harmless(shortened(error.message))
  if (error !== undefined) return harmless(typeof error === "object" ? JSON.stringify(error) : String(error))
  const defect = Cause.squash(cause)
  return `internal error, please report it: ${harmless(defect instanceof Error ? defect.message : String(defect))} (--debug shows more)`
}

/** True when stderr is a terminal: progress may move there. */
export const onTerminal = (): boolean => process.stderr.isTTY === true

/** Writes synchronously, for last words. */
export const lastWords = (line: string): void => {
  try {
    fs.writeSync(2, `${harmlessLines(line)}${lineEnd}`)
  } catch {
    // Nobody listens.
  }
}

/** Writes to stdout synchronously: what a terminal needs to be told before we are gone. */
export const lastBytes = (text: string): void => {
  try {
    fs.writeSync(1, text)
  } catch {
    // Nobody listens.
  }
}
