/**
 * Publishes files of the boot cache so that a reader sees a whole file or none, whoever else builds the same one.
 * Does not clean up after a crash between two renames: names end in `.tmp`, and the cache may be deleted at any time.
 */
import fs from "node:fs"
import path from "node:path"

/** Writes `content` beside `file`, makes it durable, and gives it its name. Mode 0600 by default. Throws what node:fs throws. */
export const publish = (file: string, content: string | Uint8Array | ReadonlyArray<Uint8Array>, mode = 0o600): void => {
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 })
  const temporary = `${file}.${process.pid.toString(36)}-${crypto.randomUUID().slice(0, 8)}.tmp`
  try {
    const fd = fs.openSync(temporary, "wx", mode)
    try {
      for (const part of Array.isArray(content) ? content : [content]) fs.writeFileSync(fd, part)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    fs.renameSync(temporary, file)
  } catch (cause) {
    fs.rmSync(temporary, { force: true })
    throw cause
  }
  const directory = fs.openSync(path.dirname(file), fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
  try {
    fs.fsyncSync(directory)
  } finally {
    fs.closeSync(directory)
  }
}
