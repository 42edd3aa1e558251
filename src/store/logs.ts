/**
 * Writes the log of a sandbox's commands: JSON lines with time, stream, command and text, kept within a fixed number of files of
 * a fixed size. Interprets nothing that it keeps.
 *
 * Format of a line: `{"t": unix milliseconds, "s": stream, "e": number of the exec, "d": text}` or, for bytes that are no UTF-8,
 * `"b": base64` in place of `d`. The main command's lines have no `e`. `dropped` counts bytes that a slow or full disk did not
 * take, and stands where they are missing.
 *
 * Invariant: a writer waits for the disk at most `stallMs`; then what it says is dropped and counted, until the disk has taken
 * something (logFile.ts).
 */

import fs from "node:fs"
import { Effect, type Scope } from "effect"
import { attemptFile, type FileError } from "./files.ts"
import { LogFile, rotated } from "./logFile.ts"

/** Bytes after which a log starts a new file. */
const logBytesMax = 10 * 1024 * 1024
/** Longest wait of a writer for a slow disk, in milliseconds. */
const stallMs = 1000

const streams = ["stdout", "stderr", "exit", "start", "dropped", "console"] as const
/** `start` and `exit` frame what one command says; `console` is the guest's kernel and agent. */
export type LogStream = (typeof streams)[number]

export interface LogEntry {
  /** Unix milliseconds. */
  readonly time: number
  readonly stream: LogStream
  /** Number of the exec that said it, 0 for the main command. */
  readonly exec: number
  readonly data: Uint8Array
}

export interface LogWriter {
  /** Never fails: what can not be written (a full disk) is dropped and counted, and the sandbox goes on. */
  readonly write: (stream: LogStream, data: Uint8Array | string, exec?: number) => Effect.Effect<void>
  /** Waits until what was written is in the file, at most `stallMs`. */
  readonly flush: Effect.Effect<void>
  /** The highest number of an exec near the end of the log. */
  readonly lastExec: number
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** The text that bytes are, undefined when they are no UTF-8. */
export const textOf = (data: Uint8Array): string | undefined => {
  try {
    return strict.decode(data)
  } catch {
    return undefined
  }
}

const encodeLine = (entry: Omit<LogEntry, "data"> & { readonly data: Uint8Array | string }): Buffer => {
  const text = typeof entry.data === "string" ? entry.data : textOf(entry.data)
  const said = text === undefined ? { b: Buffer.from(entry.data as Uint8Array).toString("base64") } : { d: text }
  const { time: t, stream: s, exec: e } = entry
  return Buffer.from(`${JSON.stringify({ t, s, ...(e === 0 ? {} : { e }), ...said })}\n`)
}

/** One line of a log; undefined for one that is none. */
export const decodeLine = (line: string): LogEntry | undefined => {
  try {
    const { t, s, e, d, b } = JSON.parse(line) as Record<string, unknown>
    const stream = streams.find((each) => each === s)
    if (typeof t !== "number" || stream === undefined) return undefined
    return {
      time: t,
      stream,
      exec: typeof e === "number" ? e : 0,
      data: typeof b === "string" ? new Uint8Array(Buffer.from(b, "base64")) : new TextEncoder().encode(String(d ?? ""))
    }
  } catch {
    // The last line of a process that was killed while it wrote.
    return undefined
  }
}

/** Bytes at the end of a log in which the last exec is looked for. */
const tailBytes = 128 * 1024

const lastExecIn = (file: string): number => {
  const fd = fs.openSync(file, "r")
  try {
    const { size } = fs.fstatSync(fd)
    if (size === 0) return 0
    const tail = Buffer.alloc(Math.min(size, tailBytes))
    fs.readSync(fd, tail, 0, tail.length, size - tail.length)
    const lines = tail.toString("utf8").split("\n")
    return lines.reduce((most, line) => Math.max(most, decodeLine(line)?.exec ?? 0), 0)
  } finally {
    fs.closeSync(fd)
  }
}

const droppedLine = (bytes: number): Buffer =>
  encodeLine({ time: Date.now(), stream: "dropped", exec: 0, data: String(bytes) })

/** Opens a log for appending; the scope closes it. */
export const openLog = Effect.fnUntraced(function* (
  file: string,
  options: { readonly bytesMax?: number } = {}
): Effect.fn.Return<LogWriter, FileError, Scope.Scope> {
  const lastExec = yield* attemptFile("open log", file, () => {
    fs.closeSync(fs.openSync(file, "a", 0o600))
    return Math.max(lastExecIn(file), olderExec(file))
  })
  const log = yield* Effect.acquireRelease(
    Effect.promise(() => LogFile.open(file, options.bytesMax ?? logBytesMax, droppedLine)),
    // A disk that answers no more must not keep the process.
    (each) => Effect.promise(() => Promise.race([each.close(), Bun.sleep(stallMs)]))
  )
  return {
    lastExec,
    flush: Effect.promise(() => log.until(() => log.idle, stallMs)),
    write: (stream, data, exec = 0) =>
      Effect.suspend(() => {
        const line = encodeLine({ time: Date.now(), stream, exec, data })
        const size = data.length
        if (log.offer(line, size)) return Effect.void
        if (log.stuck) return Effect.sync(() => log.drop(size))
        return Effect.promise(async () => {
          if (!(await log.until(() => log.offer(line, size), stallMs))) log.drop(size)
        })
      })
  }
})

const olderExec = (file: string): number => {
  try {
    return lastExecIn(rotated(file, 1))
  } catch {
    return 0
  }
}
