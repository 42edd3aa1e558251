/**
 * Copies and hashes files on a thread of its own: what it is told in one message, it answers in one. Runs as text in a Bun Worker
 * (see store/files/fileWorkers.ts), so it imports nothing but built-in modules. Opens what it is named and decides nothing.
 *
 * syncfs(2) is here since node:fs lacks it and it may block for seconds: it works on one descriptor of ours, borrows no memory,
 * and blocks this thread only.
 */
import { dlopen, FFIType } from "bun:ffi"
import fs from "node:fs"

const {
  O_RDONLY,
  O_WRONLY,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_DIRECTORY,
  COPYFILE_EXCL,
  COPYFILE_FICLONE_FORCE
} = fs.constants

/** Bytes read at once. */
const chunk = Buffer.allocUnsafeSlow(1 << 20)
/** False once this thread saw a file system that shares no blocks. */
let clones = true

/** Reads a descriptor to its end into a hash and, when given, another descriptor. Answers the bytes read. */
const pump = (from, to, hash, report) => {
  let total = 0
  for (;;) {
    const got = fs.readSync(from, chunk, 0, chunk.length, null)
    if (got === 0) return total
    const part = got === chunk.length ? chunk : chunk.subarray(0, got)
    hash.update(part)
    if (to !== undefined) for (let at = 0; at < got; ) at += fs.writeSync(to, part, at, got - at)
    total += got
    report(got)
  }
}

const tryClone = (source, target) => {
  if (!clones) return false
  try {
    fs.copyFileSync(source, target, COPYFILE_EXCL | COPYFILE_FICLONE_FORCE)
    return true
  } catch (cause) {
    if (cause.code === "ENOSPC" || cause.code === "EEXIST" || cause.code === "EACCES") throw cause
    clones = false
    fs.rmSync(target, { force: true })
    return false
  }
}

/** Opens a file; one below an open directory through each directory on its way, never through a link. */
const openSource = (source, below) => {
  const flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK
  if (below === undefined) return fs.openSync(source, flags)
  const parts = source.split("/")
  let directory = below
  try {
    for (const part of parts.slice(0, -1)) {
      const next = fs.openSync(`/proc/self/fd/${directory}/${part}`, O_RDONLY | O_NOFOLLOW | O_DIRECTORY)
      if (directory !== below) fs.closeSync(directory)
      directory = next
    }
    return fs.openSync(`/proc/self/fd/${directory}/${parts.at(-1)}`, flags)
  } catch (cause) {
    if (cause.code !== "ELOOP" && cause.code !== "ENOTDIR") throw cause
    throw Object.assign(new Error("a link or a file has taken the place of a part of its path"), { code: "CHANGED" })
  } finally {
    if (directory !== below) fs.closeSync(directory)
  }
}

/** One file: hashed, and copied when it has a target. */
const process = ([source, target, size, below], report) => {
  let from = openSource(source, below)
  let to
  try {
    const cloned = target !== undefined && size > 0 && tryClone(`/proc/self/fd/${from}`, target)
    if (cloned) {
      fs.closeSync(from)
      from = undefined
      from = fs.openSync(target, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    }
    if (!fs.fstatSync(from).isFile()) throw Object.assign(new Error("it is no regular file"), { code: "CHANGED" })
    if (target !== undefined && !cloned) to = fs.openSync(target, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o444)
    const hash = new Bun.CryptoHasher("sha256")
    const total = pump(from, to, hash, report)
    if (total !== size) throw Object.assign(new Error(`it has ${total} bytes in place of ${size}`), { code: "CHANGED" })
    if (cloned) fs.fchmodSync(from, 0o444)
    return hash.digest("hex")
  } finally {
    if (from !== undefined) fs.closeSync(from)
    if (to !== undefined) fs.closeSync(to)
  }
}

const syncFileSystem = (directory) => {
  const fd = fs.openSync(directory, O_RDONLY | O_DIRECTORY)
  const libc = dlopen("libc.so.6", { syncfs: { args: [FFIType.i32], returns: FFIType.i32 } })
  try {
    if (libc.symbols.syncfs(fd) !== 0) throw Object.assign(new Error("syncfs failed"), { code: "EIO" })
  } finally {
    libc.close()
    fs.closeSync(fd)
  }
}

self.onmessage = ({ data }) => {
  let bytes = 0
  let last = performance.now()
  const report = (got) => {
    bytes += got
    if (performance.now() - last < 50) return
    last = performance.now()
    self.postMessage({ bytes })
    bytes = 0
  }
  let current = data.sync ?? ""
  try {
    if (data.sync !== undefined) syncFileSystem(data.sync)
    const hashes = []
    for (const file of data.files ?? []) {
      current = file[0]
      hashes.push(process(file, report))
    }
    self.postMessage({ bytes, hashes })
  } catch (cause) {
    self.postMessage({
      bytes,
      failed: { path: current, code: cause.code ?? "", reason: cause.message ?? String(cause) }
    })
  }
}
