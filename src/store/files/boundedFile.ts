/**
 * Keeps files that other programs append to, such as the stderr of an emulator that a hostile guest drives, within a size, and reads
 * their ends without reading the rest. Interprets nothing in them.
 *
 * Invariant: a file that is bounded takes at most its bound, what was written since the last look, and half of the bound beside it
 * (`FILE.1`); its writers have it open for appending, so that they go on at the start of what was emptied.
 */
import fs from "node:fs"
import { Effect } from "effect"
import { rotated } from "./logFile.ts"

/** Bytes of a file at its end. */
const tailOf = (file: string, bytesMax: number): Buffer => {
  const fd = fs.openSync(file, "r")
  try {
    const { size } = fs.fstatSync(fd)
    const tail = Buffer.alloc(Math.min(size, bytesMax))
    return tail.subarray(0, fs.readSync(fd, tail, 0, tail.length, size - tail.length))
  } finally {
    fs.closeSync(fd)
  }
}

/** The end of a text file, at most so many bytes; empty when it can not be read. */
export const readTail = (file: string, bytesMax: number): string => {
  try {
    return tailOf(file, bytesMax).toString("utf8")
  } catch {
    return ""
  }
}

/** Empties a file that has grown beyond its bound, once its end is kept in `FILE.1`. Answers whether it had. */
export const boundFile = (file: string, bytesMax: number): boolean => {
  try {
    if (fs.statSync(file).size <= bytesMax) return false
    fs.writeFileSync(rotated(file, 1), tailOf(file, Math.floor(bytesMax / 2)), { mode: 0o600 })
    fs.truncateSync(file, 0)
    return true
  } catch (cause) {
    // A full disk keeps no end, and needs the room the more.
    if ((cause as NodeJS.ErrnoException).code === "ENOSPC") fs.truncateSync(file, 0)
    return false
  }
}

/** Bytes of each file that `keepBounded` looks after. */
const bytesMax = 1024 * 1024

/** Looks after files for ever: once a second, and without a pause while one of them grows fast. */
export const keepBounded = (files: ReadonlyArray<string>): Effect.Effect<never> =>
  Effect.forever(
    Effect.suspend(() =>
      Effect.sleep(files.filter((file) => boundFile(file, bytesMax)).length > 0 ? "10 millis" : "1 second")
    )
  )
