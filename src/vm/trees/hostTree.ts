/**
 * Reads trees of this machine as records, and makes trees of this machine from records that a hostile guest may have written.
 * Blocks while it works: for programs that copy, not for servers.
 *
 * Invariant: nothing is made outside the destination. Every directory is opened below its parent, never through a link, and
 * what is made in it is named by its descriptor (`/proc/self/fd`, proc(5)), so that no change of the tree leads elsewhere.
 */
import fs from "node:fs"
import path from "node:path"
import { CopyFailed } from "../../domain/errors/guestIo.ts"
import { entryPath, openPlace } from "../../store/files/openBelow.ts"
import { bareRecord, encodeRecord, type TreeRecord, type TreeSink } from "./treeEntries.ts"

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = fs.constants

/** Bytes that are read at a time. */
const chunkBytes = 262_144

const codeOf = (cause: unknown): string => (cause as NodeJS.ErrnoException).code ?? String(cause)

const words: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EPERM: "not permitted",
  ENOENT: "no such file or directory",
  EEXIST: "there is something of this name",
  ENOTDIR: "there is something else than a directory on its path",
  EISDIR: "there is a directory of this name",
  ELOOP: "there is a link on its path, which is not followed",
  ENOSPC: "no space is left",
  EROFS: "the file system is read-only",
  ENAMETOOLONG: "its name is too long"
}

/** What a failed call on a path of this machine means. */
export const copyFailed = (shown: string, cause: unknown): CopyFailed =>
  cause instanceof CopyFailed ? cause : new CopyFailed({ path: shown, reason: words[codeOf(cause)] ?? codeOf(cause) })

const at = (directory: number, name: string): Buffer => entryPath(directory, Buffer.from(name, "latin1"))

/** A name of binary characters as people read it. */
export const shownName = (name: string): string => Buffer.from(name, "latin1").toString("utf8")

interface Opened {
  readonly name: string
  readonly fd: number
  /** It was made here, so that its attributes are ours to set. */
  made: boolean
}

/** Makes a tree below an existing directory. `owners`: as recorded, with setuid and setgid bits; else this process's own. */
export class HostTreeWriter implements TreeSink {
  /** The directories from the destination to where was written last. */
  private readonly opened: Array<Opened> = []
  private file: { readonly fd: number; readonly record: TreeRecord } | undefined
  /** Files that this copy made: a hard link may name no other. */
  private readonly made = new Set<string>()
  /** What was left out, and why. */
  readonly skipped: Array<string> = []

  constructor(
    private readonly destination: string,
    private readonly options: { readonly owners: boolean }
  ) {
    this.attempt("", () =>
      this.opened.push({ name: "", fd: fs.openSync(destination, O_RDONLY | O_DIRECTORY), made: false })
    )
  }

  record(record: TreeRecord): void {
    this.attempt(record.name, () => this.make(record))
  }

  data(bytes: Uint8Array): void {
    const { file } = this
    if (file === undefined) return
    this.attempt(file.record.name, () => {
      for (let done = 0; done < bytes.length; ) done += fs.writeSync(file.fd, bytes, done, bytes.length - done)
    })
  }

  fileEnd(): void {
    const { file } = this
    if (file === undefined) return
    this.file = undefined
    this.attempt(file.record.name, () => {
      try {
        if (this.options.owners) fs.fchownSync(file.fd, file.record.uid, file.record.gid)
        fs.fchmodSync(file.fd, this.modeOf(file.record))
        fs.futimesSync(file.fd, timeOf(file.record), timeOf(file.record))
      } finally {
        fs.closeSync(file.fd)
      }
    })
  }

  close(): void {
    if (this.file !== undefined) fs.closeSync(this.file.fd)
    for (const { fd } of this.opened.splice(0)) fs.closeSync(fd)
  }

  private make(record: TreeRecord): void {
    const { type, name, target } = record
    if (type === "end") return
    if (type === "skipped") {
      if (this.skipped.length < 1000) this.skipped.push(`${shownName(name)}: ${shownName(target)}`)
      return
    }
    const slash = name.lastIndexOf("/")
    const last = name.slice(slash + 1)
    if (type === "directory") this.makeDirectory(name)
    if (type === "done") this.dressDirectory(record)
    if (type === "directory" || type === "done") return
    if (last === "") throw new CopyFailed({ path: this.destination, reason: "it is a directory, the source is not" })
    const parent = this.directory(slash < 0 ? "" : name.slice(0, slash))
    const place = at(parent, last)
    this.clear(place)
    if (type === "file") {
      this.file = { fd: fs.openSync(place, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, 0o600), record }
      this.made.add(identityOf(fs.fstatSync(this.file.fd, { bigint: true })))
    } else if (type === "symlink") {
      fs.symlinkSync(Buffer.from(target, "latin1"), place)
      if (this.options.owners) fs.lchownSync(place, record.uid, record.gid)
      fs.lutimesSync(place, timeOf(record), timeOf(record))
    } else this.makeLink(target, place)
  }

  private makeLink(target: string, place: Buffer): void {
    const slash = target.lastIndexOf("/")
    let from = fs.openSync(at(this.opened[0]!.fd, ""), O_RDONLY | O_DIRECTORY)
    try {
      for (const part of slash < 0 ? [] : target.slice(0, slash).split("/")) {
        const next = fs.openSync(at(from, part), O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
        fs.closeSync(from)
        from = next
      }
      const name = at(from, target.slice(slash + 1))
      const identity = identityOf(fs.lstatSync(name, { bigint: true }))
      const foreign = new CopyFailed({
        path: this.shown(target),
        reason: "a hard link leads to it, and this copy did not make it"
      })
      if (!this.made.has(identity)) throw foreign
      fs.linkSync(name, place)
      // What has the name may have been swapped since it was looked at.
      if (identityOf(fs.lstatSync(place, { bigint: true })) === identity) return
      fs.unlinkSync(place)
      throw foreign
    } finally {
      fs.closeSync(from)
    }
  }

  /** Removes what is in the way of something new: anything but a directory. */
  private clear(place: Buffer): void {
    const stat = fs.lstatSync(place, { bigint: true, throwIfNoEntry: false })
    if (stat === undefined) return
    if (stat.isDirectory()) throw Object.assign(new Error("EISDIR"), { code: "EISDIR" })
    fs.unlinkSync(place)
    // Its number may soon be another's.
    if (stat.nlink === 1n) this.made.delete(identityOf(stat))
  }

  private makeDirectory(name: string): void {
    const slash = name.lastIndexOf("/")
    let made = false
    if (name !== "") {
      const place = at(this.directory(slash < 0 ? "" : name.slice(0, slash)), name.slice(slash + 1))
      try {
        fs.mkdirSync(place, 0o700)
        made = true
      } catch (cause) {
        if (codeOf(cause) !== "EEXIST") throw cause
        if (!fs.lstatSync(place).isDirectory())
          throw new CopyFailed({ path: this.shown(name), reason: words["ENOTDIR"]! })
      }
    }
    this.directory(name)
    this.opened.at(-1)!.made = made
  }

  /** Attributes of a directory that was made here; others keep theirs. */
  private dressDirectory(record: TreeRecord): void {
    const fd = this.directory(record.name)
    if (!this.opened.at(-1)!.made) return
    if (this.options.owners) fs.fchownSync(fd, record.uid, record.gid)
    fs.futimesSync(fd, timeOf(record), timeOf(record))
    fs.fchmodSync(fd, this.modeOf(record))
  }

  /** Descriptor of a directory in the tree; those on the way to it are open, all others are closed. */
  private directory(name: string): number {
    const parts = name === "" ? [] : name.split("/")
    let depth = 1
    while (depth < this.opened.length && this.opened[depth]!.name === parts[depth - 1]) depth++
    for (const { fd } of this.opened.splice(depth)) fs.closeSync(fd)
    for (const part of parts.slice(depth - 1)) {
      const fd = fs.openSync(at(this.opened.at(-1)!.fd, part), O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
      this.opened.push({ name: part, fd, made: false })
    }
    return this.opened.at(-1)!.fd
  }

  private modeOf(record: TreeRecord): number {
    return this.options.owners ? record.mode : record.mode & (record.type === "done" ? 0o1777 : 0o777)
  }

  private shown(name: string): string {
    return path.join(this.destination, shownName(name))
  }

  private attempt(name: string, act: () => void): void {
    try {
      act()
    } catch (cause) {
      throw copyFailed(this.shown(name), cause)
    }
  }
}

/** A negative number would mean now; a date before 1970 does not. */
const timeOf = (record: TreeRecord): number | Date => {
  const seconds = record.mtimeSeconds + record.mtimeNanos / 1e9
  return seconds < 0 ? new Date(Math.floor(seconds * 1000)) : seconds
}

const identityOf = (stat: fs.BigIntStats): string => `${stat.dev}:${stat.ino}`

/** An entry that is open as a place. */
interface Entry {
  readonly name: string
  readonly fd: number
  /** Path for people. */
  readonly shown: string
}

/** Names under which a file with several names was said before; more are said as files of their own. */
const linksMax = 1_000_000

/** The records of what is at a path of this machine, its root named `root`. Follows links at the path itself only when asked. */
export async function* readHostTree(
  source: string,
  root: string,
  options: { readonly follow: boolean; readonly skipped: (what: string) => void }
): AsyncGenerator<Uint8Array, void, void> {
  const links = new Map<string, string>()

  const recordOf = (type: TreeRecord["type"], name: string, stat: fs.BigIntStats, target = ""): TreeRecord => ({
    ...{ type, name, target, mode: Number(stat.mode) & 0o7777, uid: Number(stat.uid), gid: Number(stat.gid) },
    mtimeSeconds: Number(stat.mtimeNs / 1_000_000_000n) - (stat.mtimeNs % 1_000_000_000n < 0n ? 1 : 0),
    mtimeNanos: Number(((stat.mtimeNs % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n),
    size: type === "file" ? Number(stat.size) : 0
  })

  const contents = async function* (file: fs.promises.FileHandle, size: number, shown: string) {
    for (let done = 0; done < size; ) {
      const buffer = Buffer.allocUnsafe(Math.min(chunkBytes, size - done))
      const { bytesRead } = await file.read(buffer, 0, buffer.length, done)
      if (bytesRead === 0) throw new CopyFailed({ path: shown, reason: "it shrank while it was read" })
      done += bytesRead
      yield buffer.subarray(0, bytesRead)
    }
  }

  const file = async function* (entry: Entry, stat: fs.BigIntStats): AsyncGenerator<Uint8Array, void, void> {
    const { name, fd, shown } = entry
    const identity = identityOf(stat)
    const first = stat.nlink > 1n ? links.get(identity) : undefined
    if (first !== undefined) return yield encodeRecord(recordOf("link", name, stat, first))
    if (stat.nlink > 1n && links.size < linksMax) links.set(identity, name)
    const opened = await fs.promises.open(`/proc/self/fd/${fd}`, O_RDONLY)
    try {
      yield encodeRecord(recordOf("file", name, stat))
      yield* contents(opened, Number(stat.size), shown)
    } finally {
      await opened.close()
    }
  }

  const directory = async function* (entry: Entry, stat: fs.BigIntStats): AsyncGenerator<Uint8Array, void, void> {
    const { name, fd, shown } = entry
    yield encodeRecord(recordOf("directory", name, stat))
    const entries = await fs.promises.readdir(`/proc/self/fd/${fd}`, { encoding: "buffer" as BufferEncoding })
    for (const each of entries as unknown as ReadonlyArray<Buffer>) {
      const own = each.toString("latin1")
      const inner = name === "" ? own : `${name}/${own}`
      yield* walk(entryPath(fd, each), inner, path.join(shown, each.toString()), false)
    }
    yield encodeRecord(recordOf("done", name, stat))
  }

  /** Opens the entry once: all that is said of it is about what was opened. */
  const walk = async function* (
    place: Buffer,
    name: string,
    shown: string,
    follow: boolean
  ): AsyncGenerator<Uint8Array, void, void> {
    let fd: number | undefined
    try {
      fd = openPlace(place, follow)
      const stat = fs.fstatSync(fd, { bigint: true })
      if (stat.isDirectory()) yield* directory({ name, fd, shown }, stat)
      else if (stat.isFile()) yield* file({ name, fd, shown }, stat)
      else if (stat.isSymbolicLink()) {
        const target = fs.readlinkSync(place, { encoding: "buffer" as BufferEncoding }) as unknown as Buffer
        yield encodeRecord(recordOf("symlink", name, stat, target.toString("latin1")))
      } else options.skipped(`${shown}: it is a device, pipe or socket`)
    } catch (cause) {
      throw cause instanceof Error && "code" in cause ? copyFailed(shown, cause) : cause
    } finally {
      if (fd !== undefined) fs.closeSync(fd)
    }
  }

  yield* walk(Buffer.from(source), root, source, options.follow)
  yield encodeRecord(bareRecord("end", ""))
}
