/**
 * Keeps a file in the home that is there to be given up: what needs a little room on a full disk (records, definitions) takes it from
 * there, a piece at a time, and it is made whole again once there is plenty. Whoever fills disks in earnest gets none of it.
 */
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import type { DiskFull } from "../../domain/errors/store.ts"

/** Bytes that are kept back. */
const reserveBytes = 1024 * 1024
/** Bytes that are given up at a time: SQLite's shared memory and some pages. */
const pieceBytes = 256 * 1024
/** Free bytes below which nothing is taken for it: a disk of this size has better uses for them. */
const plentyBytes = 16 * reserveBytes

/** Bytes that no file system can leave out or make smaller (xorshift); the same each time. */
const filling = (): Uint8Array => {
  const words = new Uint32Array(reserveBytes / 4)
  let word = 1
  for (let index = 0; index < words.length; index += 1) {
    word ^= word << 13
    word ^= word >>> 17
    word ^= word << 5
    words[index] = word
  }
  return new Uint8Array(words.buffer)
}

/** Gives up a piece; false when there is none left. */
export const releaseReserve = (file: string): boolean => {
  try {
    const { size } = fs.statSync(file)
    if (size > pieceBytes) fs.truncateSync(file, size - pieceBytes)
    else fs.rmSync(file)
    return true
  } catch {
    return false
  }
}

/** Makes it whole where it is not, and there is plenty of room. Says nothing of what hinders it. */
export const restoreReserve = (file: string): void => {
  try {
    const size = fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0
    if (size >= reserveBytes) return
    const { bavail, bsize } = fs.statfsSync(path.dirname(file))
    if (bavail * bsize < plentyBytes) return
    const fd = fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_CREAT, 0o600)
    try {
      fs.writeSync(fd, filling(), size, reserveBytes - size, size)
    } finally {
      fs.closeSync(fd)
    }
  } catch {
    // A home that can not be written to says so elsewhere.
  }
}

/** Tries again with a piece more for as long as the disk is full and there is one. */
export const withReserve = <A, E extends { readonly _tag: string }, R>(
  file: string,
  use: Effect.Effect<A, E | DiskFull, R>
): Effect.Effect<A, E | DiskFull, R> =>
  Effect.retry(use, { while: (error) => error._tag === "DiskFull" && releaseReserve(file) })
