/**
 * Writes and reads the log of a sandbox's commands: JSON lines with time, stream and text, kept within a fixed number of files of
 * a fixed size. Interprets nothing that it keeps.
 *
 * Format of a line: `{"t": unix milliseconds, "s": "stdout" | "stderr" | "exit", "d": text}` or, for bytes that are no UTF-8,
 * `"b": base64` in place of `d`.
 */

import fs from "node:fs"
import { Effect, type Scope } from "effect"
import { attemptFile, type FileError } from "./files.ts"

/** Bytes after which a log starts a new file. */
const logBytesMax = 10 * 1024 * 1024
/** Files of one log, the current one included. */
export const logFilesMax = 4

export type LogStream = "stdout" | "stderr" | "exit"

export interface LogEntry {
  /** Unix milliseconds. */
  readonly time: number
  readonly stream: LogStream
  readonly data: Uint8Array
}

export interface LogWriter {
  /** Never fails: what can not be written (a full disk) is dropped, and the sandbox goes on. */
  readonly write: (stream: LogStream, data: Uint8Array) => Effect.Effect<void>
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const encodeLine = (time: number, stream: LogStream, data: Uint8Array): string => {
  try {
    return `${JSON.stringify({ t: time, s: stream, d: strict.decode(data) })}\n`
  } catch {
    return `${JSON.stringify({ t: time, s: stream, b: Buffer.from(data).toString("base64") })}\n`
  }
}

/** One line of a log; undefined for one that is none. */
export const decodeLine = (line: string): LogEntry | undefined => {
  try {
    const { t, s, d, b } = JSON.parse(line) as Record<string, unknown>
    if (typeof t !== "number" || (s !== "stdout" && s !== "stderr" && s !== "exit")) return undefined
    return {
      time: t,
      stream: s,
      data: typeof b === "string" ? Buffer.from(b, "base64") : new TextEncoder().encode(String(d ?? ""))
    }
  } catch {
    // The last line of a process that was killed while it wrote.
    return undefined
  }
}

/** `file`, `file.1` (older), `file.2` … */
export const rotated = (file: string, index: number): string => (index === 0 ? file : `${file}.${index}`)

/** Opens a log for appending; the scope closes it. */
export const openLog = Effect.fnUntraced(function* (file: string): Effect.fn.Return<LogWriter, FileError, Scope.Scope> {
  const open = () => fs.openSync(file, "a", 0o600)
  const state = yield* Effect.acquireRelease(
    attemptFile("open log", file, () => ({ fd: open(), bytes: fs.statSync(file).size })),
    (log) => Effect.sync(() => fs.closeSync(log.fd))
  )
  const rotate = () => {
    fs.closeSync(state.fd)
    for (let index = logFilesMax - 1; index > 0; index -= 1) {
      if (fs.existsSync(rotated(file, index - 1))) fs.renameSync(rotated(file, index - 1), rotated(file, index))
    }
    state.fd = open()
    state.bytes = 0
  }
  return {
    write: (stream, data) =>
      Effect.sync(() => {
        const line = Buffer.from(encodeLine(Date.now(), stream, data))
        try {
          if (state.bytes + line.length > logBytesMax && state.bytes > 0) rotate()
          state.bytes += fs.writeSync(state.fd, line)
        } catch {
          // Dropped: see the promise of `write`.
        }
      })
  }
})
