/**
 * Keeps the last lines of what a log's entries say, whichever stream said them. A line belongs to the stream and the command that
 * said it, begins where the one before it ended, and may come in many entries. Reads no file.
 */
import type { LogEntry } from "../../store/files/logs.ts"

const newline = 0x0a

interface Kept {
  readonly entry: LogEntry
  /** Numbers of the lines in it, and where each begins. */
  readonly lines: ReadonlyArray<{ readonly number: number; readonly at: number }>
}

const streams = ["stdout", "stderr", "console"] as const
/** What frames output has no lines; it belongs to the line before it. */
const isOutput = ({ stream }: LogEntry): boolean => stream === "stdout" || stream === "stderr" || stream === "console"

export class LastLines {
  private readonly kept: Array<Kept> = []
  private first = 0
  private number = 0
  /** Numbers of the lines that have begun and not ended. */
  private readonly begun = new Map<string, number>()

  constructor(private readonly count: number) {}

  push(entry: LogEntry): void {
    if (this.count === 0) return
    // Another run, or another boot: what was said before goes on no further.
    if (entry.stream === "start") for (const stream of streams) this.begun.delete(`${entry.exec} ${stream}`)
    this.kept.push({ entry, lines: isOutput(entry) ? this.linesOf(entry) : [{ number: this.number, at: 0 }] })
    while (!this.kept[this.first]!.lines.some((line) => this.isLast(line.number))) this.first += 1
    // What is passed over is given up now and then, not each time.
    if (this.first > 1000 && this.first > this.kept.length / 2) {
      this.kept.splice(0, this.first)
      this.first = 0
    }
  }

  /** The last lines, the first entry cut to where they begin. */
  get entries(): ReadonlyArray<LogEntry> {
    return this.kept.slice(this.first).flatMap(({ entry, lines }) => {
      const from = lines.find((line) => this.isLast(line.number))?.at
      if (from === undefined) return []
      return [from === 0 ? entry : { ...entry, data: entry.data.subarray(from) }]
    })
  }

  private isLast(number: number): boolean {
    return number > this.number - this.count
  }

  private linesOf({ stream, exec, data }: LogEntry): Kept["lines"] {
    const key = `${exec} ${stream}`
    const lines: Array<{ readonly number: number; readonly at: number }> = []
    let at = 0
    // An entry that says nothing has no line of its own.
    if (data.length === 0) return [{ number: this.number, at }]
    while (at < data.length) {
      const number = this.begun.get(key) ?? this.begin(key)
      lines.push({ number, at })
      const end = data.indexOf(newline, at)
      if (end < 0) return lines
      this.begun.delete(key)
      at = end + 1
    }
    return lines
  }

  private begin(key: string): number {
    this.number += 1
    this.begun.set(key, this.number)
    return this.number
  }
}
