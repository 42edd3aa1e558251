/** Mounts EROFS images on the host's kernel and lists trees with all that stat, readlink, xattrs and content say. Needs root. */
import { CString, dlopen, FFIType, ptr } from "bun:ffi"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { spawnSync } from "bun"

const kernelHasErofs = (): boolean => fs.readFileSync("/proc/filesystems", "latin1").includes("\terofs")

/** Why a loop mount is not possible here, undefined when it is. */
export const mountMissing: string | undefined =
  process.getuid?.() !== 0
    ? "a loop mount needs root"
    : !kernelHasErofs()
      ? "this kernel has no EROFS"
      : !fs.existsSync("/dev/loop-control")
        ? "there is no /dev/loop-control"
        : undefined

export const have = (tool: string): boolean => Bun.which(tool) !== null

/** Runs a tool; throws with its output when it fails. */
export const run = (...command: ReadonlyArray<string>): string => {
  const { exitCode, stderr, stdout } = spawnSync([...command], { stdin: "ignore" })
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: exit ${exitCode}\n${stdout}${stderr}`)
  return stdout.toString()
}

/** fsck.erofs of an image; throws with what it says when it is not clean. */
export const fsck = (image: string, devices: ReadonlyArray<string> = []): string =>
  run("fsck.erofs", ...devices.map((device) => `--device=${device}`), image)

/** Mounts an image read-only for the time of `use`; more files become extra devices. */
export const mounted = <A>(image: string, devices: ReadonlyArray<string>, use: (directory: string) => A): A => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-mount-"))
  const loops: Array<string> = []
  try {
    for (const file of [image, ...devices]) loops.push(run("losetup", "--find", "--show", "--read-only", file).trim())
    const options = ["ro", ...loops.slice(1).map((loop) => `device=${loop}`)].join(",")
    run("mount", "-t", "erofs", "-o", options, loops[0]!, directory)
    try {
      return use(directory)
    } finally {
      run("umount", directory)
    }
  } finally {
    for (const loop of loops) run("losetup", "--detach", loop)
    fs.rmdirSync(directory)
  }
}

const open = () =>
  dlopen("libc.so.6", {
    llistxattr: { args: [FFIType.ptr, FFIType.ptr, FFIType.u64], returns: FFIType.i64 },
    lgetxattr: { args: [FFIType.ptr, FFIType.ptr, FFIType.ptr, FFIType.u64], returns: FFIType.i64 },
    lsetxattr: { args: [FFIType.ptr, FFIType.ptr, FFIType.ptr, FFIType.u64, FFIType.i32], returns: FFIType.i32 }
  }).symbols
let library: ReturnType<typeof open> | undefined
const libc = () => (library ??= open())

const zeroEnded = (bytes: Uint8Array): Buffer => Buffer.concat([bytes, Buffer.alloc(1)])

export const setXattr = (file: string, name: string, value: Uint8Array): boolean =>
  libc().lsetxattr(
    ptr(zeroEnded(Buffer.from(file))),
    ptr(zeroEnded(Buffer.from(name))),
    ptr(value),
    value.length,
    0
  ) === 0

const xattrsOf = (file: Buffer): Record<string, string> => {
  const where = zeroEnded(file)
  const names = Buffer.alloc(65_536)
  const length = Number(libc().llistxattr(ptr(where), ptr(names), names.length))
  const result: Record<string, string> = {}
  for (let at = 0; at < length; ) {
    const name = new CString(ptr(names, at)).toString()
    const end = names.indexOf(0, at)
    const value = Buffer.alloc(65_536)
    const key = zeroEnded(names.subarray(at, end))
    const size = Number(libc().lgetxattr(ptr(where), ptr(key), ptr(value), value.length))
    result[name] = size < 0 ? `error ${size}` : value.subarray(0, size).toString("hex")
    at = end + 1
  }
  return Object.fromEntries(Object.entries(result).sort())
}

/** What one name of a tree looks like; compared whole. */
export interface Listed {
  readonly mode: string
  readonly owner: string
  /** Nanoseconds since 1970, decimal. */
  readonly mtime: string
  readonly nlink: number
  readonly size: number
  readonly target: string | undefined
  readonly device: string | undefined
  readonly xattrs: Record<string, string>
  readonly sha256: string | undefined
  /** First name (in byte order) of the same inode. */
  readonly first: string
}

const deviceOf = (rdev: bigint): string => {
  const value = Number(rdev)
  return `${(value >> 8) & 0xfff}:${(value & 0xff) | ((value >>> 12) & 0xfff00)}`
}

/** Every name below (and with) the root, as binary strings, `/` for the root. */
export const listTree = (root: string): Map<string, Listed> => {
  const result = new Map<string, Listed>()
  const firsts = new Map<string, string>()
  const visit = (file: Buffer, name: string): void => {
    const stat = fs.lstatSync(file, { bigint: true })
    const type = Number(stat.mode) & 0o170000
    const directory = type === 0o040000
    const key = String(stat.ino)
    if (!firsts.has(key)) firsts.set(key, name)
    const device = type === 0o020000 || type === 0o060000
    result.set(name, {
      mode: Number(stat.mode).toString(8),
      owner: `${stat.uid}:${stat.gid}`,
      mtime: String(stat.mtimeNs),
      nlink: Number(stat.nlink),
      size: type === 0o100000 ? Number(stat.size) : 0,
      target: type === 0o120000 ? fs.readlinkSync(file, { encoding: "buffer" }).toString("latin1") : undefined,
      device: device ? deviceOf(stat.rdev) : undefined,
      xattrs: xattrsOf(file),
      sha256:
        type === 0o100000 ? new Bun.CryptoHasher("sha256").update(fs.readFileSync(file)).digest("hex") : undefined,
      first: firsts.get(key)!
    })
    if (!directory) return
    const names = fs.readdirSync(file, { encoding: "buffer" }).map((entry) => Buffer.from(entry).toString("latin1"))
    for (const child of names.sort()) {
      visit(
        Buffer.concat([file, Buffer.from("/"), Buffer.from(child, "latin1")]),
        name === "/" ? `/${child}` : `${name}/${child}`
      )
    }
  }
  visit(Buffer.from(root), "/")
  return result
}
