/**
 * Keeps the console file of a guest small: the guest writes to it what it wants, and must not be able to fill the host's disk.
 * Reads nothing of what it says.
 */
import fs from "node:fs"
import { Effect, Schedule } from "effect"

/** Bytes on disk after which the console file starts anew. */
const consoleBytesMax = 10 * 1024 * 1024
/** What is kept of it beside the new one, as `console.log.1`. */
const tailBytes = 1024 * 1024

/** Looks once; answers whether the file had to start anew. The writer has it open and goes on where it was: the file gets sparse. */
export const trimConsole = (file: string, bytesMax: number = consoleBytesMax): boolean => {
  try {
    const { blocks, size } = fs.statSync(file)
    if (blocks * 512 <= bytesMax) return false
    const fd = fs.openSync(file, "r")
    try {
      const tail = Buffer.alloc(Math.min(tailBytes, size))
      const read = fs.readSync(fd, tail, 0, tail.length, size - tail.length)
      fs.writeFileSync(`${file}.1`, tail.subarray(0, read), { mode: 0o600 })
    } finally {
      fs.closeSync(fd)
    }
    fs.truncateSync(file, 0)
    return true
  } catch {
    // The sandbox is being removed, or the disk is full: the next look is a second away.
    return false
  }
}

/** Looks every second for as long as it runs. */
export const boundConsole = (file: string): Effect.Effect<void> =>
  Effect.asVoid(
    Effect.repeat(
      Effect.sync(() => trimConsole(file)),
      Schedule.spaced("1 second")
    )
  )
