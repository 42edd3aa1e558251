/**
 * Gives a directory on this machine as a tar, the same bytes for the same tree: names sorted, numeric owners, hard links once.
 * Follows no symbolic link; leaves sockets out. Extended attributes are read by what its caller gives it.
 */
import { Buffer } from "node:buffer"
import fs from "node:fs"
import { RootfsInvalid } from "../../domain/errors/image.ts"
import { entryPath, openPlace, reopen } from "../../store/files/openBelow.ts"
import { readable } from "../tar/rejected.ts"
import { type HeaderEntry, paddingOf, tarEnd, tarHeader } from "../tar/writer.ts"
import { reasonOf } from "./bundle.ts"

const PIECE = 512 * 1024
/** As deep as a layer may be. */
const DEPTH_MAX = 128

/** linux/kdev_t.h, `new_decode_dev`. */
const major = (device: number): number => (device >> 8) & 0xfff
const minor = (device: number): number => (device & 0xff) | ((device >> 12) & 0xfff00)

const typeOf = (stat: fs.BigIntStats): HeaderEntry["type"] | undefined => {
  if (stat.isFile()) return "file"
  if (stat.isDirectory()) return "directory"
  if (stat.isSymbolicLink()) return "symlink"
  if (stat.isCharacterDevice()) return "char"
  if (stat.isBlockDevice()) return "block"
  return stat.isFIFO() ? "fifo" : undefined
}

/** An entry that is open as a place. */
interface Opened {
  /** Its name below its open directory: no part before it can be swapped. */
  readonly place: Buffer
  readonly fd: number
  /** Path below the root, a binary string. */
  readonly path: string
  readonly stat: fs.BigIntStats
  readonly type: HeaderEntry["type"]
}

/** Reads the extended attributes of a file that belong into a tar. */
export type ReadXattrs = (path: Uint8Array) => ReadonlyArray<readonly [name: string, value: Uint8Array]>

/** The tar in pieces. Throws `RootfsInvalid` naming what can not be read. */
export function* directoryTar(root: string, readXattrs: ReadXattrs = () => []): Generator<Uint8Array, void> {
  const linked = new Map<string, string>()
  const attempt = <A>(path: string, run: () => A): A => {
    try {
      return run()
    } catch (cause) {
      throw new RootfsInvalid({ path: root, reason: `${readable(path) || "it"}: ${reasonOf(cause)}` })
    }
  }

  function* content(place: number, path: string, size: number): Generator<Uint8Array, void> {
    const fd = attempt(path, () => reopen(place, false))
    try {
      for (let left = size; left > 0; ) {
        const piece = Buffer.allocUnsafeSlow(Math.min(left, PIECE))
        const got = attempt(path, () => fs.readSync(fd, piece, 0, piece.length, null))
        if (got === 0) throw new RootfsInvalid({ path: root, reason: `${readable(path)} changes while it is read` })
        yield piece.subarray(0, got)
        left -= got
      }
      yield paddingOf(size)
    } finally {
      fs.closeSync(fd)
    }
  }

  /** Opens the entry once: all that is said of it is about what was opened. */
  function* entry(place: Buffer, path: string, depth: number): Generator<Uint8Array, void> {
    const fd = attempt(path, () => openPlace(place, depth === 0))
    try {
      const stat = attempt(path, () => fs.fstatSync(fd, { bigint: true }))
      const type = typeOf(stat)
      if (type === undefined) return
      if (depth === 0 && type !== "directory") throw new RootfsInvalid({ path: root, reason: "it is no directory" })
      yield* described({ place, fd, path, stat, type })
      if (type !== "directory") return
      if (depth >= DEPTH_MAX) throw new RootfsInvalid({ path: root, reason: `it is deeper than ${DEPTH_MAX}` })
      const names = attempt(path, () => fs.readdirSync(`/proc/self/fd/${fd}`, { encoding: "latin1" })).sort()
      for (const name of names) {
        const inner = entryPath(fd, Buffer.from(name, "latin1"))
        yield* entry(inner, path === "" ? name : `${path}/${name}`, depth + 1)
      }
    } finally {
      fs.closeSync(fd)
    }
  }

  function* described({ place, fd, path, stat, type }: Opened): Generator<Uint8Array, void> {
    const nanos = Number(((stat.mtimeNs % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n)
    const header = {
      type,
      path: path === "" ? "./" : type === "directory" ? `${path}/` : path,
      mode: Number(stat.mode) & 0o7777,
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      size: type === "file" ? Number(stat.size) : 0,
      mtimeSeconds: Number((stat.mtimeNs - BigInt(nanos)) / 1_000_000_000n),
      mtimeNanos: nanos
    }
    const identity = `${stat.dev}:${stat.ino}`
    const several = type !== "directory" && stat.nlink > 1n
    const other = several ? linked.get(identity) : undefined
    if (other !== undefined) return yield tarHeader({ ...header, type: "hardlink", linkName: other, size: 0 })
    if (several) linked.set(identity, path)
    const target = type === "symlink" ? attempt(path, () => fs.readlinkSync(place, { encoding: "latin1" })) : ""
    const device = type === "char" || type === "block" ? Number(stat.rdev) : 0
    const xattrs = readXattrs(path === "" ? entryPath(fd, "") : place)
    yield tarHeader({ ...header, linkName: target, devMajor: major(device), devMinor: minor(device), xattrs })
    if (header.size > 0) yield* content(fd, path, header.size)
  }

  yield* entry(Buffer.from(root), "", 0)
  yield tarEnd
}
