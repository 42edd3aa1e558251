/**
 * Reads a sandbox's logs for the doors: chosen by command, time and number, followed until the sandbox has ended. Reads the files
 * that its keeper writes and asks the keeper nothing, so that the logs of crashed sandboxes are there, too.
 */
import fs from "node:fs"
import { Effect, Stream } from "effect"
import type { LogLine, LogRequest } from "../../domain/sandbox/logs.ts"
import { followLog, type LogFollower } from "../../store/files/followLog.ts"
import { type LogEntry, textOf } from "../../store/files/logs.ts"
import type { SandboxPaths } from "../../store/files/Paths.ts"
import { LastLines } from "../keeper/lastLines.ts"

/** Turns of 100 ms after which the sandbox's record, dearer to read than its log, is looked at. */
const liveTurns = 5

/** Most bytes of a console whose keeper did not live to collect them. */
const consoleBytesMax = 1024 * 1024

const toLine = ({ time, stream, exec, data }: LogEntry): LogLine => {
  const text = textOf(data)
  return { time, stream, exec, ...(text === undefined ? { data } : { text }) }
}

/** A question to one of the logs; that of the network has a door of its own. */
type Query = Omit<LogRequest, "source"> & { readonly source: LogRequest["source"] | "network" }

/** Lines oldest first; `live` tells whether there may be more. */
export const readLogs = (
  paths: Pick<SandboxPaths, "mainLog" | "execLog" | "consoleLog" | "consoleLines" | "networkLog">,
  query: Query,
  live: Effect.Effect<boolean>
): Stream.Stream<LogLine> => {
  const { sinceMs = 0, untilMs = Number.POSITIVE_INFINITY, exec, tail } = query
  const wanted = (entry: LogEntry) =>
    entry.time >= sinceMs && entry.time < untilMs && (exec === undefined || entry.exec === exec)
  const { mainLog: main, execLog, consoleLines, networkLog: network } = paths
  const file = { main, exec: execLog, console: consoleLines, network }[query.source]

  const lines = Effect.gen(function* () {
    const log = yield* followLog(file)
    // Asked before the log is read: what was said until the end is there when it says no.
    let alive = query.follow && (yield* live)
    let turn = 0
    let rest = query.source === "console"
    const following: Effect.Effect<ReadonlyArray<LogEntry> | undefined> = Effect.gen(function* () {
      while (true) {
        const entries = yield* log.next
        if (entries.length > 0) return entries
        if (!alive) {
          const left = rest ? uncollected(paths.consoleLog) : []
          rest = false
          return left.length > 0 ? left : undefined
        }
        yield* Effect.sleep("100 millis")
        turn += 1
        if (turn % liveTurns === 0) alive = yield* live
        if (Date.now() >= untilMs) alive = false
      }
    })
    let before: ReadonlyArray<LogEntry> = []
    if (tail !== undefined) {
      const last = yield* lastOf(log, tail, wanted)
      if (rest && !alive) {
        for (const entry of uncollected(paths.consoleLog).filter(wanted)) last.push(entry)
        rest = false
      }
      before = last.entries
    }
    const after = Stream.fromEffectRepeat(following).pipe(
      Stream.takeWhile((entries) => entries !== undefined),
      Stream.flatMap((entries) => Stream.fromIterable(entries.filter(wanted)))
    )
    return Stream.map(Stream.concat(Stream.fromIterable(before), after), toLine)
  })
  return Stream.unwrap(lines)
}

/** The last so many lines of what is there. */
const lastOf = Effect.fnUntraced(function* (log: LogFollower, count: number, wanted: (entry: LogEntry) => boolean) {
  const last = new LastLines(count)
  for (let entries = yield* log.next; entries.length > 0; entries = yield* log.next) {
    for (const entry of entries) if (wanted(entry)) last.push(entry)
  }
  return last
})

/** The end of a console that nobody collects any more; a collected start of it reads as zeros. */
const uncollected = (file: string): ReadonlyArray<LogEntry> => {
  try {
    const fd = fs.openSync(file, "r")
    try {
      const { size, mtimeMs } = fs.fstatSync(fd)
      const bytes = Buffer.alloc(Math.min(size, consoleBytesMax))
      fs.readSync(fd, bytes, 0, bytes.length, size - bytes.length)
      const start = bytes.findIndex((byte) => byte !== 0)
      if (start < 0) return []
      return [{ time: Math.round(mtimeMs), stream: "console", exec: 0, data: new Uint8Array(bytes.subarray(start)) }]
    } finally {
      fs.closeSync(fd)
    }
  } catch {
    return []
  }
}
