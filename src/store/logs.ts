/**
 * Writes the log of a sandbox's commands: JSON lines with time, stream, command and text, kept within a fixed number of files of
 * a fixed size. Interprets nothing that it keeps.
 *
 * Format of a line: `{"t": unix milliseconds, "s": stream, "e": number of the exec, "d": text}` or, for bytes that are no UTF-8,
 * `"b": base64` in place of `d`. The main command's lines have no `e`. `dropped` counts bytes that a slow disk did not take.
 *
 * Invariants: at most `queuedBytesMax` wait for the disk, and a writer waits for it at most `stallMs`; then lines are dropped
 * and counted, until the disk has taken something.
 */

import fs from "node:fs"
import { Effect, Option, type Scope } from "effect"
import { attemptFile, type FileError } from "./files.ts"

/** Bytes after which a log starts a new file. */
const logBytesMax = 10 * 1024 * 1024
/** Files of one log, the current one included. */
export const logFilesMax = 4
/** Bytes of lines that wait for the disk. */
const queuedBytesMax = 1024 * 1024
/** Bytes of one write, when more than one line waits. */
const batchBytes = 256 * 1024
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
  /** Never fails: what can not be written (a full disk) is dropped, and the sandbox goes on. */
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

/** `file`, `file.1` (older), `file.2` … */
export const rotated = (file: string, index: number): string => (index === 0 ? file : `${file}.${index}`)

/** A file that lines are appended to in the background. */
class LogFile {
  private queued: Array<Buffer> = []
  private queuedBytes = 0
  private dropped = 0
  private busy = false
  private stuck = false
  private readonly waiting: Array<() => void> = []

  constructor(
    private readonly file: string,
    private readonly bytesMax: number,
    private handle: fs.promises.FileHandle,
    private bytes: number
  ) {}

  /** False when there is no room. */
  offer(line: Buffer): boolean {
    if (this.queuedBytes + line.length > queuedBytesMax && this.queuedBytes > 0) return false
    this.queued.push(line)
    this.queuedBytes += line.length
    if (!this.busy) void this.drain()
    return true
  }

  drop(bytes: number): void {
    this.stuck = true
    this.dropped += bytes
  }

  /** True once a writer waited in vain: the next ones do not wait until the disk has taken something. */
  get hopeless(): boolean {
    return this.stuck
  }

  get idle(): boolean {
    return !this.busy
  }

  /** Calls back after each batch; the result takes the call back. */
  onProgress(run: () => void): () => void {
    this.waiting.push(run)
    return () => {
      const at = this.waiting.indexOf(run)
      if (at >= 0) this.waiting.splice(at, 1)
    }
  }

  async close(): Promise<void> {
    await this.handle.close().catch(() => {})
  }

  private async drain(): Promise<void> {
    this.busy = true
    while (this.queued.length > 0) {
      let count = 0
      let bytes = 0
      while (count < this.queued.length && (count === 0 || bytes + this.queued[count]!.length <= batchBytes)) {
        bytes += this.queued[count]!.length
        count += 1
      }
      const batch = Buffer.concat(this.queued.splice(0, count))
      try {
        if (this.bytes + batch.length > this.bytesMax && this.bytes > 0) await this.rotate()
        await this.handle.appendFile(batch)
        this.bytes += batch.length
      } catch {
        // Dropped: see the promise of `write`.
      }
      this.queuedBytes -= batch.length
      this.sayDropped()
      const last = this.queued.length === 0
      // A callback that offers a line starts the next turn: this one must be over by then.
      if (last) this.busy = false
      for (const run of this.waiting.splice(0)) run()
      if (last) return
    }
  }

  private sayDropped(): void {
    this.stuck = false
    if (this.dropped === 0) return
    const line = encodeLine({ time: Date.now(), stream: "dropped", exec: 0, data: String(this.dropped) })
    this.dropped = 0
    this.queued.push(line)
    this.queuedBytes += line.length
  }

  private async rotate(): Promise<void> {
    for (let index = logFilesMax - 1; index > 0; index -= 1) {
      await fs.promises.rename(rotated(this.file, index - 1), rotated(this.file, index)).catch(() => {})
    }
    const next = await fs.promises.open(this.file, "a", 0o600)
    await this.handle.close().catch(() => {})
    this.handle = next
    this.bytes = 0
  }
}

/** Bytes at the end of a log in which the last exec is looked for. */
const tailBytes = 128 * 1024

const lastExecIn = (file: string): number => {
  const fd = fs.openSync(file, "r")
  try {
    const { size } = fs.fstatSync(fd)
    const tail = Buffer.alloc(Math.min(size, tailBytes))
    fs.readSync(fd, tail, 0, tail.length, size - tail.length)
    const lines = tail.toString("utf8").split("\n")
    return lines.reduce((most, line) => Math.max(most, decodeLine(line)?.exec ?? 0), 0)
  } finally {
    fs.closeSync(fd)
  }
}

/** Opens a log for appending; the scope closes it. */
export const openLog = Effect.fnUntraced(function* (
  file: string,
  options: { readonly bytesMax?: number } = {}
): Effect.fn.Return<LogWriter, FileError, Scope.Scope> {
  const opened = yield* attemptFile("open log", file, () => {
    fs.closeSync(fs.openSync(file, "a", 0o600))
    return { bytes: fs.statSync(file).size, lastExec: Math.max(lastExecIn(file), olderExec(file)) }
  })
  const log = yield* Effect.acquireRelease(
    Effect.promise(
      async () =>
        new LogFile(file, options.bytesMax ?? logBytesMax, await fs.promises.open(file, "a", 0o600), opened.bytes)
    ),
    (each) =>
      Effect.andThen(
        settled(each),
        Effect.promise(() => each.close())
      )
  )
  return {
    lastExec: opened.lastExec,
    flush: settled(log),
    write: (stream, data, exec = 0) =>
      Effect.suspend(() => {
        const line = encodeLine({ time: Date.now(), stream, exec, data })
        if (log.offer(line)) return Effect.void
        const drop = Effect.sync(() => log.drop(data.length))
        if (log.hopeless) return drop
        return Effect.flatMap(
          soon(log, () => log.offer(line)),
          (taken) => (taken ? Effect.void : drop)
        )
      })
  }
})

/** Looks after each batch whether something has become true; false when it has not within `stallMs`. */
const soon = (log: LogFile, look: () => boolean): Effect.Effect<boolean> =>
  Effect.callback<void>((resume) => {
    let forget = () => {}
    const again = () => {
      if (look()) resume(Effect.void)
      else forget = log.onProgress(again)
    }
    again()
    return Effect.sync(() => forget())
  }).pipe(Effect.timeoutOption(stallMs), Effect.map(Option.isSome))

/** Waits until nothing is queued. */
const settled = (log: LogFile): Effect.Effect<void> => Effect.asVoid(soon(log, () => log.idle))

const olderExec = (file: string): number => {
  try {
    return lastExecIn(rotated(file, 1))
  } catch {
    return 0
  }
}
