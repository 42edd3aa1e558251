/**
 * Opens what lies below an open directory by descriptors (`/proc/self/fd`, proc(5)), so that a part of a path that is swapped for
 * a symbolic link meanwhile leads nowhere else. Reads and writes no file.
 */
import fs from "node:fs"

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = fs.constants
/** linux/fcntl.h: a descriptor that names a file and opens nothing, devices and pipes included. */
const O_PATH = 0o10_000_000

/** The path of an entry of an open directory: what is before the entry can not be swapped. The empty name is the directory itself. */
export const entryPath = (directory: number, name: string | Uint8Array): Buffer => {
  const before = Buffer.from(`/proc/self/fd/${directory}/`)
  return Buffer.concat([before, name.length === 0 ? Buffer.from(".") : Buffer.from(name as Uint8Array)])
}

/** Opens a path as a place; its last part is followed only when asked. Close it. */
export const openPlace = (place: string | Uint8Array, follow: boolean): number =>
  fs.openSync(place as Buffer, follow ? O_PATH : O_PATH | O_NOFOLLOW)

/** Opens the very file or directory of a place for reading. Close both. */
export const reopen = (place: number, directory: boolean): number =>
  fs.openSync(`/proc/self/fd/${place}`, directory ? O_RDONLY | O_DIRECTORY : O_RDONLY | O_NONBLOCK)

/** Runs `use` with an open descriptor, and closes it. */
export const closing = <A>(fd: number, use: (fd: number) => A): A => {
  try {
    return use(fd)
  } finally {
    fs.closeSync(fd)
  }
}

/** Where the kernel says that a descriptor's file is now, without links. */
export const pathOf = (fd: number): string => fs.readlinkSync(`/proc/self/fd/${fd}`)

/**
 * The path of an open place relative to an open directory that it lies below; undefined when it does not.
 * Holds for this very file, whatever link led to it.
 */
export const pathBelow = (root: number, place: number): string | undefined => {
  const [above, below] = [pathOf(root), pathOf(place)]
  const prefix = above === "/" ? "/" : `${above}/`
  return below.startsWith(prefix) ? below.slice(prefix.length) : undefined
}
