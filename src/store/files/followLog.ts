/**
 * Reads a log while it is being written: what is there, then what comes, across rotation, until its writer has ended. Looks for
 * new lines ten times a second; writes nothing.
 *
 * Invariant: every line is read once, in order; where the log was rotated away before it was read, an entry `dropped` without a
 * number stands in its place.
 */

import fs from "node:fs"
import { Effect, type Scope } from "effect"
import { logFilesMax, rotated } from "./logFile.ts"
import { decodeLine, type LogEntry } from "./logs.ts"

/** Most bytes read at once. */
const pieceBytes = 256 * 1024
/** Bytes of lines after which `next` answers, though there may be more. */
const answerBytes = 4 * 1024 * 1024
const newline = 0x0a

/** Tries to open files that a rotation moves meanwhile. */
const turnsMax = 10

interface Position {
  readonly fd: number
  readonly inode: number
  /** Bytes of a line whose end is not there yet. */
  rest: Uint8Array
}

/** A reader of one log. */
export interface LogFollower {
  /** What comes next, at most about 4 MiB of lines; none when nothing was written since the last call. */
  readonly next: Effect.Effect<ReadonlyArray<LogEntry>>
}

const openPart = (file: string, index: number): Position | undefined => {
  try {
    const fd = fs.openSync(rotated(file, index), "r")
    return { fd, inode: fs.fstatSync(fd).ino, rest: new Uint8Array() }
  } catch {
    return undefined
  }
}

const inodeOf = (file: string): number | undefined => fs.statSync(file, { throwIfNoEntry: false })?.ino

/** Reads one piece; answers its bytes, 0 at the end of what is there. */
const readPiece = (position: Position, entries: Array<LogEntry>): number => {
  const buffer = Buffer.alloc(pieceBytes)
  const bytes = fs.readSync(position.fd, buffer)
  if (bytes === 0) return 0
  const all = Buffer.concat([position.rest, buffer.subarray(0, bytes)])
  const end = all.lastIndexOf(newline) + 1
  position.rest = all.subarray(end)
  for (const line of all.subarray(0, end).toString("utf8").split("\n")) {
    const entry = line === "" ? undefined : decodeLine(line)
    if (entry !== undefined) entries.push(entry)
  }
  return bytes
}

/** Begins with the oldest line that is kept; the scope closes it. */
export const followLog = (file: string): Effect.Effect<LogFollower, never, Scope.Scope> =>
  Effect.gen(function* () {
    let position: Position | undefined
    /** The files after it, oldest first: open, so that a rotation takes none of them away unread. */
    let ahead: Array<Position> = []
    /** What is to be said before the file after it is read. */
    let owed: Array<LogEntry> = []
    /** Opens the files from a number down to the newest, as they follow each other. */
    const openFrom = (oldest: number): Array<Position> => {
      for (let turn = 0; ; turn += 1) {
        const opened: Array<readonly [number, Position]> = []
        for (let index = oldest; index >= 0; index -= 1) {
          const part = openPart(file, index)
          if (part !== undefined) opened.push([index, part])
        }
        // A rotation moves them meanwhile: then one may be there twice, or not at all.
        const still = opened.every(([index, part]) => inodeOf(rotated(file, index)) === part.inode)
        if (still || turn === turnsMax) return opened.map(([, part]) => part)
        for (const [, part] of opened) fs.closeSync(part.fd)
      }
    }
    /** The file after the one that was read to its end; undefined while that is still the newest. */
    const following = (current: Position, entries: Array<LogEntry>): Position | undefined => {
      const known = ahead.shift()
      if (known !== undefined) return known
      if (inodeOf(file) === current.inode) return undefined
      for (let index = 1; index < logFilesMax; index += 1) {
        if (inodeOf(rotated(file, index)) !== current.inode) continue
        const after = openFrom(index)
        // Where it moved on meanwhile, it is not the first any more.
        const at = after.findIndex((part) => part.inode === current.inode)
        for (const part of after.splice(0, at + 1)) fs.closeSync(part.fd)
        ahead = after
        return ahead.shift()
      }
      ahead = openFrom(logFilesMax - 1)
      if (ahead.length > 0) entries.push({ time: Date.now(), stream: "dropped", exec: 0, data: new Uint8Array() })
      return ahead.shift()
    }
    const close = () => {
      for (const part of position === undefined ? ahead : [position, ...ahead]) fs.closeSync(part.fd)
    }
    yield* Effect.addFinalizer(() => Effect.sync(close))
    const next = Effect.sync(() => {
      const entries: Array<LogEntry> = []
      let left = answerBytes
      /** False when there is more to read than this answer may hold. */
      const readAll = (from: Position): boolean => {
        for (let bytes = readPiece(from, entries); bytes > 0; bytes = readPiece(from, entries)) {
          left -= bytes
          if (left <= 0 && entries.length > 0) return false
        }
        return true
      }
      if (position === undefined) {
        ahead = openFrom(logFilesMax - 1)
        position = ahead.shift()
      }
      while (position !== undefined) {
        if (!readAll(position)) break
        const unread = owed
        owed = []
        const after = following(position, unread)
        if (after === undefined) break
        // What came between the last read and the rotation.
        if (!readAll(position)) {
          ahead.unshift(after)
          owed = unread
          break
        }
        entries.push(...unread)
        fs.closeSync(position.fd)
        position = after
      }
      return entries
    })
    return { next }
  })
