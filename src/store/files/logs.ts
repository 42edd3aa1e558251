/**
 * Writes the log of a sandbox's commands: JSON lines with time, stream, command and text, kept within a fixed number of files of
 * a fixed size. Interprets nothing that it keeps.
 *
 * Format of a line: `{"t": unix milliseconds, "s": stream, "e": number of the exec, "d": text}` or, for bytes that are no UTF-8,
 * `"b": base64` in place of `d`. The main command's lines have no `e`. `dropped` counts bytes that a slow or full disk did not
 * take, or the guest could not keep while nobody took them, and stands where they are missing. `"o"`: the offset after the line's bytes in
 * all that the main command of a detached sandbox ever said, both streams together; the newest one tells what is kept.
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
/** `start` and `exit` frame what one command says; `console` is the guest's kernel and agent, each boot after a `start`. */
export type LogStream = (typeof streams)[number]

export interface LogEntry {
  /** Unix milliseconds. */
  readonly time: number
  readonly stream: LogStream
  /** Number of the exec that said it, 0 for the main command. */
  readonly exec: number
  readonly data: Uint8Array
  /** Offset after its bytes; see the format. */
  readonly offset?: number
}

/** The place of a line in what is said, and what to do once it is in the file, or counted as missing. */
export interface LogPlace {
  readonly offset: number
  readonly settled?: () => void
}

export interface LogWriter {
  /** Never fails: what can not be written (a full disk) is dropped and counted, and the sandbox goes on. */
  readonly write: (stream: LogStream, data: Uint8Array | string, exec?: number, place?: LogPlace) => Effect.Effect<void>
  /** Waits until what was written is in the file, at most `stallMs`. */
  readonly flush: Effect.Effect<void>
  /** The highest number of an exec near the end of the log. */
  readonly lastExec: number
  /** The newest line with an offset when the log was opened. */
  readonly lastPlace: { readonly offset: number; readonly stream: LogStream } | undefined
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
  const { time: t, stream: s, exec: e, offset: o } = entry
  return Buffer.from(
    `${JSON.stringify({ t, s, ...(e === 0 ? {} : { e }), ...(o === undefined ? {} : { o }), ...said })}\n`
  )
}

/** One line of a log; undefined for one that is none. */
export const decodeLine = (line: string): LogEntry | undefined => {
  try {
    const { t, s, e, o, d, b } = JSON.parse(line) as Record<string, unknown>
    const stream = streams.find((each) => each === s)
    if (typeof t !== "number" || stream === undefined) return undefined
    return {
      time: t,
      stream,
      exec: typeof e === "number" ? e : 0,
      ...(typeof o === "number" && Number.isSafeInteger(o) && o >= 0 ? { offset: o } : {}),
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

/** The newest line with an offset. A line may have some 400 KiB: what is looked at grows until one is found. */
const lastPlaceIn = (file: string): LogWriter["lastPlace"] => {
  const fd = fs.openSync(file, "r")
  try {
    const { size } = fs.fstatSync(fd)
    for (let length = Math.min(size, tailBytes); length > 0; length = Math.min(size, length * 8)) {
      const tail = Buffer.alloc(length)
      fs.readSync(fd, tail, 0, length, size - length)
      for (const line of tail.toString("utf8").split("\n").toReversed()) {
        const entry = decodeLine(line)
        if (entry?.offset !== undefined) return { offset: entry.offset, stream: entry.stream }
      }
      if (length === size) return undefined
    }
    return undefined
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
  const found = yield* attemptFile("open log", file, () => {
    fs.closeSync(fs.openSync(file, "a", 0o600))
    return {
      lastExec: Math.max(lastExecIn(file), older(file, lastExecIn) ?? 0),
      lastPlace: lastPlaceIn(file) ?? older(file, lastPlaceIn)
    }
  })
  const log = yield* Effect.acquireRelease(
    Effect.promise(() => LogFile.open(file, options.bytesMax ?? logBytesMax, droppedLine)),
    // A disk that answers no more must not keep the process.
    (each) => Effect.promise(() => Promise.race([each.close(), Bun.sleep(stallMs)]))
  )
  return {
    ...found,
    flush: Effect.promise(() => log.until(() => log.idle, stallMs)),
    write: (stream, data, exec = 0, place) =>
      Effect.suspend(() => {
        const offset = place === undefined ? {} : { offset: place.offset }
        const line = encodeLine({ time: Date.now(), stream, exec, data, ...offset })
        const size = data.length
        const offer = () => log.offer(line, size, place?.settled)
        const drop = () => {
          log.drop(size)
          place?.settled?.()
        }
        if (offer()) return Effect.void
        if (log.stuck) return Effect.sync(drop)
        return Effect.promise(async () => {
          if (!(await log.until(offer, stallMs))) drop()
        })
      })
  }
})

const older = <A>(file: string, look: (file: string) => A): A | undefined => {
  try {
    return look(rotated(file, 1))
  } catch {
    return undefined
  }
}
