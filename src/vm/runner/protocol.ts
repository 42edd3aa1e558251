/**
 * Describes what a supervisor and its runner say to each other: one configuration document down, report lines up.
 * Checks by hand and imports nothing, so that the runner starts without a schema library. Performs no input or output.
 */

/** Descriptor on which the runner reads its configuration: one JSON document, until end of file. */
export const CONFIG_FD = 3
/** Descriptor on which the runner writes its report: one JSON document a line. */
export const REPORT_FD = 4
/**
 * Descriptor of the sandbox's lock file. The supervisor locks it before it makes sockets and hands its open description
 * down, so the lock never changes hands: it ends with the VM's process.
 */
export const LOCK_FD = 5
/** Descriptor of the network card's end of a stream of frames, for a VM that has one. */
export const CARD_FD = 6
/** Address of the card of every guest; its other end is alone with it. */
export const CARD_MAC = "02:42:4b:00:00:01"
/** Bound of the configuration document, in bytes: it must fit the socket's buffer, for nobody waits while writing it. */
export const CONFIG_BYTES_MAX = 64 * 1024
/** Bound of everything that is read of a report, in bytes. */
export const REPORT_BYTES_MAX = 16 * 1024

/** A disk of the VM in the order of /dev/vda, vdb, …; a VMDK descriptor names the files of its extents. */
export interface RunnerDisk {
  readonly path: string
  readonly format: "raw" | "vmdk"
  readonly readOnly: boolean
}

/** What stays open to the VM's process of the host's files, each with all below it (native/launcher/harden.h). */
export interface RunnerPlaces {
  readonly reads: ReadonlyArray<string>
  readonly writes: ReadonlyArray<string>
}

/** What the runner hands to libkrun. */
export interface KrunStart extends RunnerPlaces {
  readonly kind: "krun"
  /** Absolute paths of the libraries. */
  readonly libkrun: string
  readonly libkrunfw: string
  readonly cpus: number
  /** MiB. */
  readonly memoryMb: number
  readonly disks: ReadonlyArray<RunnerDisk>
  /**
   * What the guest mounts by its tag, as `stage` prepared it: the directory `shares` of a root of its own that holds nothing else
   * than what this document names. libkrun opens what the guest's kernel asks for, be it `../../etc`: hence the root.
   */
  readonly share?: { readonly tag: string; readonly root: string }
  /** True: descriptor CARD_FD is the network card's. */
  readonly card: boolean
  readonly consolePath: string
  /** Unix socket of the host that the guest's vsock port `vsockPort` leads to; somebody listens there already. */
  readonly socketPath: string
  readonly vsockPort: number
  /** Program and words for the kernel command line. */
  readonly exec: string
  readonly words: ReadonlyArray<string>
}

/** The program that takes the runner's place. */
export interface QemuStart extends RunnerPlaces {
  readonly kind: "qemu"
  readonly file: string
  /** Without argv[0]. */
  readonly arguments: ReadonlyArray<string>
}

export interface RunnerConfig {
  /** Version of this document; anything but 1 is refused. */
  readonly version: 1
  /** Process that must still be the parent when `dieWithParent` is asked for. */
  readonly parentPid: number
  readonly dieWithParent: boolean
  /** File that receives `pid start-ticks` of the VM's process once it holds the lock. */
  readonly pidPath: string
  readonly start: KrunStart | QemuStart
}

/** One line of the runner's report. The last line says how it went: `entering` and nothing after it is a VM that started. */
export type RunnerReport =
  /** Everything is configured, the VM is entered now. Milliseconds since the runner's process began. */
  | { readonly event: "entering"; readonly afterMs: number }
  /** Another process holds the lock. */
  | { readonly event: "already_running" }
  /** A call failed with the named errno, or `errno` says in words what is wrong with `argument`. */
  | { readonly event: "error"; readonly call: string; readonly argument: string; readonly errno: string }

type Json = { readonly [key: string]: unknown }

class Malformed extends Error {}

const field = <A>(of: Json, key: string, is: (value: unknown) => value is A): A => {
  const value = of[key]
  if (is(value)) return value
  throw new Malformed(key)
}
const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)
const isText = (value: unknown): value is string =>
  typeof value === "string" && value.length <= 8192 && !value.includes("\0")
const isPath = (value: unknown): value is string => isText(value) && value.startsWith("/")
const isBoolean = (value: unknown): value is boolean => typeof value === "boolean"
const isFormat = (value: unknown): value is "raw" | "vmdk" => value === "raw" || value === "vmdk"
const isInteger =
  (minimum: number, maximum: number) =>
  (value: unknown): value is number =>
    typeof value === "number" && Number.isInteger(value) && value >= minimum && value <= maximum
const isList =
  <A>(is: (value: unknown) => value is A, countMax: number) =>
  (value: unknown): value is ReadonlyArray<A> =>
    Array.isArray(value) && value.length <= countMax && value.every(is)

const shareOf = (of: Json): Pick<KrunStart, "share"> => {
  if (of["share"] === undefined) return {}
  const share = field(of, "share", isObject)
  return { share: { tag: field(share, "tag", isText), root: field(share, "root", isPath) } }
}

const placesMax = 64

const placesOf = (of: Json): RunnerPlaces => ({
  reads: field(of, "reads", isList(isPath, placesMax)),
  writes: field(of, "writes", isList(isPath, placesMax))
})

const krunStart = (of: Json): KrunStart => ({
  kind: "krun",
  ...placesOf(of),
  libkrun: field(of, "libkrun", isPath),
  libkrunfw: field(of, "libkrunfw", isPath),
  cpus: field(of, "cpus", isInteger(1, 64)),
  memoryMb: field(of, "memoryMb", isInteger(64, 0xffff_ffff)),
  disks: field(of, "disks", isList(isObject, 32)).map((disk) => ({
    path: field(disk, "path", isPath),
    format: field(disk, "format", isFormat),
    readOnly: field(disk, "readOnly", isBoolean)
  })),
  ...shareOf(of),
  card: field(of, "card", isBoolean),
  consolePath: field(of, "consolePath", isPath),
  socketPath: field(of, "socketPath", isPath),
  vsockPort: field(of, "vsockPort", isInteger(1, 0xffff_fffe)),
  exec: field(of, "exec", isPath),
  words: field(of, "words", isList(isText, 31))
})

const qemuStart = (of: Json): QemuStart => ({
  kind: "qemu",
  ...placesOf(of),
  file: field(of, "file", isPath),
  arguments: field(of, "arguments", isList(isText, 512))
})

/** Reads a configuration document; answers the name of the first field that is wrong instead of throwing. */
export const parseRunnerConfig = (text: string): RunnerConfig | string => {
  try {
    const of: unknown = JSON.parse(text)
    if (!isObject(of)) return "document"
    const start = field(of, "start", isObject)
    if (start["kind"] !== "krun" && start["kind"] !== "qemu") return "start.kind"
    return {
      version: field(of, "version", (value): value is 1 => value === 1),
      parentPid: field(of, "parentPid", isInteger(0, 0x7fff_ffff)),
      dieWithParent: field(of, "dieWithParent", isBoolean),
      pidPath: field(of, "pidPath", isPath),
      start: start["kind"] === "krun" ? krunStart(start) : qemuStart(start)
    }
  } catch (cause) {
    return cause instanceof Malformed ? cause.message : "document"
  }
}

const short = (value: unknown): string => String(value).slice(0, 1024)

/** Reads one report line; undefined for anything that is none. */
export const parseReportLine = (line: string): RunnerReport | undefined => {
  let of: unknown
  try {
    of = JSON.parse(line)
  } catch {
    return undefined
  }
  if (!isObject(of)) return undefined
  if (of["event"] === "entering") return { event: "entering", afterMs: Number(of["afterMs"]) || 0 }
  if (of["event"] === "already_running") return { event: "already_running" }
  if (of["event"] !== "error") return undefined
  return { event: "error", call: short(of["call"]), argument: short(of["argument"]), errno: short(of["errno"]) }
}
