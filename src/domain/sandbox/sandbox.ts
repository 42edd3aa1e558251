/**
 * Says what a sandbox is, which states it may pass through and how its runs end. Pure: touches no clock, row or process.
 *
 * Invariants: a status changes only along `transitions`; `stopped` and `crashed` are the only terminal ones.
 */
import { Effect, Schema } from "effect"
import { SafeName } from "../name.ts"
import { NetworkConfig } from "../network/config.ts"
import { SecretBindings } from "../network/secrets.ts"

export const Status = Schema.Literals(["created", "starting", "running", "draining", "paused", "stopped", "crashed"])
export type Status = typeof Status.Type

export const TerminationReason = Schema.Literals([
  "completed",
  "failed",
  "max_duration_exceeded",
  "idle_timeout",
  "agent_unresponsive",
  "shutdown_requested",
  "drain_requested",
  "signal",
  "boot_failed",
  "internal_error"
])
export type TerminationReason = typeof TerminationReason.Type

/** What a sandbox is after a run that ended for this reason. */
export const statusAfter = (reason: TerminationReason): "stopped" | "crashed" =>
  reason === "internal_error" || reason === "agent_unresponsive" ? "crashed" : "stopped"

/** Every allowed step. A terminal sandbox may start again. */
const transitions: Record<Status, ReadonlyArray<Status>> = {
  created: ["starting", "crashed"],
  starting: ["running", "stopped", "crashed"],
  running: ["paused", "draining", "stopped", "crashed"],
  paused: ["running", "draining", "stopped", "crashed"],
  draining: ["stopped", "crashed"],
  stopped: ["starting"],
  crashed: ["starting"]
}

export const canTransition = (from: Status, to: Status): boolean => transitions[from].includes(to)

export const isTerminal = (status: Status): boolean => status === "stopped" || status === "crashed"

/** States in which a VM may exist. */
export const isLive = (status: Status): boolean => !isTerminal(status) && status !== "created"

/** States in which a guest answers. */
export const answering: ReadonlyArray<Status> = ["running", "draining"]

/** States in which there is a guest, with numbers and an end of its own. */
export const up: ReadonlyArray<Status> = [...answering, "paused"]

/** States from which `to` may be reached, for conditional updates. */
export const predecessors = (to: Status): ReadonlyArray<Status> =>
  (Object.keys(transitions) as Array<Status>).filter((from) => canTransition(from, to))

export const EngineKind = Schema.Literals(["auto", "krun", "qemu"])
export type EngineKind = typeof EngineKind.Type

/** Bounds of a sandbox's size; libkrun kills the process below 64 MiB, and the kernel has no room below 56 (measured). */
export const limits = {
  cpusMax: 64,
  memoryMbMin: 64,
  memoryMbMax: 1_048_576,
  diskMbMin: 64,
  diskMbMax: 16_777_216,
  argvMax: 4096,
  argumentBytesMax: 131_072,
  envMax: 4096,
  mountsMax: 32,
  portsMax: 256,
  /** A year. */
  durationMsMax: 31_622_400_000
} as const

const few = (most: number, what: string) => Schema.isMaxLength(most, { expected: `at most ${most} ${what}` })
/** Bounds of lists that people fill, for sandboxes and for single commands. */
export const wordsMax = few(limits.argvMax, "words; a file in the guest can hold more")
export const variablesMax = few(limits.envMax, "variables; a file in the guest can hold more")

const Argument = Schema.String.check(Schema.isMaxLength(limits.argumentBytesMax)).check(
  Schema.isPattern(/^[^\0]*$/, { expected: "a string without NUL" })
)

/** An absolute path in the guest without `.` and `..` steps. */
const GuestPath = Argument.check(
  Schema.isPattern(/^(?!.*\/\.{1,2}(\/|$))\//, { expected: 'an absolute path without the steps "." and ".."' })
).check(Schema.isMaxLength(4096))

/** A directory or file of the host that the guest sees (`-v`). */
const Mount = Schema.Struct({
  /** Absolute path on the host; it must exist when the sandbox starts. */
  source: Argument.check(Schema.isPattern(/^\//, { expected: "an absolute path" })),
  target: GuestPath,
  readOnly: Schema.Boolean
})
export type Mount = typeof Mount.Type

/** A file system in the guest's memory (`--tmpfs`). */
const TmpfsMount = Schema.Struct({
  target: GuestPath,
  /** MiB, absent for half of the guest's memory. */
  sizeMb: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: limits.memoryMbMax })))
})
export type TmpfsMount = typeof TmpfsMount.Type

const PortNumber = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

/** Address that is listened on unless another is asked for: this machine alone. */
export const defaultHostIp = "127.0.0.1"

/** A port of the guest that the host listens for (`-p`), TCP. */
export const PublishedPort = Schema.Struct({
  /** IP address that the host listens on; default: this machine alone. */
  hostIp: Schema.String.check(Schema.isMaxLength(45)).pipe(
    Schema.withDecodingDefaultKey(Effect.succeed(defaultHostIp))
  ),
  /** 0: a free one is picked at each start. */
  hostPort: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65_535 })),
  guestPort: PortNumber
})
export type PublishedPort = typeof PublishedPort.Type

/** A model of the cache, mounted read-only (`--model`). */
const ModelMount = Schema.Struct({ name: Schema.String.check(Schema.isMaxLength(128)), target: GuestPath })
export type ModelMount = typeof ModelMount.Type

/** What happens when a sandbox ends without being asked to (`--restart`). */
const RestartPolicy = Schema.Struct({
  policy: Schema.Literals(["no", "on-failure", "always"]),
  /** Restarts in a row before giving up, absent for no end. */
  attemptsMax: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000 })))
})
export type RestartPolicy = typeof RestartPolicy.Type

/** A limit of setrlimit(2) for the processes of commands (`--rlimit`). */
export const ResourceLimit = Schema.Struct({
  resource: Schema.Literals([
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "sigpending",
    "stack"
  ]),
  /** -1: unlimited. */
  soft: Schema.Int.check(Schema.isGreaterThanOrEqualTo(-1)),
  hard: Schema.Int.check(Schema.isGreaterThanOrEqualTo(-1))
})
export type ResourceLimit = typeof ResourceLimit.Type

const Milliseconds = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: limits.durationMsMax }))

/** Timers can wait no longer. */
export const endTimeoutMsMax = 2 ** 31 - 1

/** How long a sandbox may take to end in order, in milliseconds. */
export const EndTimeoutMs = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: endTimeoutMsMax }))

/** What a sandbox is made from: the JSON in the `config` column. */
export const SandboxConfig = Schema.Struct({
  /** Canonical image reference. */
  image: Schema.String,
  /** Command in place of the image's, absent to use the image's. */
  command: Schema.optionalKey(Schema.Array(Argument).check(wordsMax)),
  /** Entrypoint in place of the image's; an empty list clears it. */
  entrypoint: Schema.optionalKey(Schema.Array(Argument).check(wordsMax)),
  /** `KEY=value`, over the image's. */
  env: Schema.Array(Argument).check(variablesMax),
  /** Working directory in the guest, absent for the image's. */
  workdir: Schema.optionalKey(Argument),
  /** `name`, `uid`, `name:group` or `uid:gid`, absent for the image's. */
  user: Schema.optionalKey(Argument),
  /** Host name in the guest, absent for the sandbox's name. */
  hostname: Schema.optionalKey(Argument),
  cpus: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: limits.cpusMax })),
  /** MiB. */
  memoryMb: Schema.Int.check(Schema.isBetween({ minimum: limits.memoryMbMin, maximum: limits.memoryMbMax })),
  /** MiB of the writable disk of a persistent sandbox. */
  diskMb: Schema.Int.check(Schema.isBetween({ minimum: limits.diskMbMin, maximum: limits.diskMbMax })),
  engine: EngineKind,
  /** True when the sandbox ends with its main command, as `run` ones do; machines stay up until stopped. */
  endsWithCommand: Schema.Boolean,
  labels: Schema.Record(Schema.String, Schema.String),
  mounts: Schema.optionalKey(Schema.Array(Mount).check(Schema.isMaxLength(limits.mountsMax))),
  tmpfs: Schema.optionalKey(Schema.Array(TmpfsMount).check(Schema.isMaxLength(limits.mountsMax))),
  ports: Schema.optionalKey(Schema.Array(PublishedPort).check(Schema.isMaxLength(limits.portsMax))),
  models: Schema.optionalKey(Schema.Array(ModelMount).check(Schema.isMaxLength(limits.mountsMax))),
  restart: Schema.optionalKey(RestartPolicy),
  rlimits: Schema.optionalKey(Schema.Array(ResourceLimit).check(Schema.isMaxLength(16))),
  /** Longest life from its start, in milliseconds, absent for no end. */
  maxDurationMs: Schema.optionalKey(Milliseconds),
  /** Longest time without an exec and without traffic on a published port, in milliseconds, absent for no end. */
  idleTimeoutMs: Schema.optionalKey(Milliseconds),
  /** True when its main command has a terminal. */
  tty: Schema.optionalKey(Schema.Boolean),
  /** True when its main command's stdin stays open for `attach`. */
  openStdin: Schema.optionalKey(Schema.Boolean),
  /** What its guest may reach, absent for no network at all. */
  network: Schema.optionalKey(NetworkConfig),
  /** Secrets that requests get on their way; values are not part of the definition. */
  secrets: Schema.optionalKey(SecretBindings),
  /** Agent session that it works for. */
  session: Schema.optionalKey(Schema.String.check(Schema.isMaxLength(256)))
})
export type SandboxConfig = typeof SandboxConfig.Type

/** The definition of a sandbox that is to be made; absent engine: that of its maker's environment, else `auto`. */
export const NewSandboxConfig = Schema.Struct({ ...SandboxConfig.fields, engine: Schema.optionalKey(EngineKind) })
export type NewSandboxConfig = typeof NewSandboxConfig.Type

/** How long a boot took, by phase, in milliseconds. */
export const BootPhases = Schema.Struct({
  /** Ports, disks and mounts, up to the start of the VM's process. */
  prepareMs: Schema.Int,
  /** The process: its lock, its sockets, the engine. */
  spawnMs: Schema.Int,
  /** The guest's kernel, up to the first word of its agent. */
  helloMs: Schema.Int,
  /** Root file system and mounts in the guest, up to its being ready for commands. */
  mountMs: Schema.Int
})
export type BootPhases = typeof BootPhases.Type

/** One sandbox with its newest run, as `ps` and `inspect` show it. Times are unix milliseconds. */
export class SandboxInfo extends Schema.Class<SandboxInfo>("SandboxInfo")({
  id: Schema.Int,
  name: SafeName,
  status: Status,
  ephemeral: Schema.Boolean,
  config: SandboxConfig,
  createdAt: Schema.Int,
  updatedAt: Schema.Int,
  /** UUID, the same for the life of a sandbox that is kept; null for one that is not. */
  vmId: Schema.NullOr(Schema.String),
  /** Restarts by its policy in a row. */
  restartCount: Schema.Int,
  /** When its policy starts it again, null when it does not. */
  restartAt: Schema.NullOr(Schema.Int),
  /** Host ports that are listened on now, free ones with the number that was picked; absent where none is. */
  ports: Schema.optionalKey(Schema.Array(PublishedPort)),
  pid: Schema.NullOr(Schema.Int),
  engine: Schema.NullOr(Schema.String),
  startedAt: Schema.NullOr(Schema.Int),
  /** Null until its guest is ready. */
  boot: Schema.NullOr(BootPhases),
  terminatedAt: Schema.NullOr(Schema.Int),
  exitCode: Schema.NullOr(Schema.Int),
  exitSignal: Schema.NullOr(Schema.String),
  terminationReason: Schema.NullOr(TerminationReason),
  terminationDetail: Schema.NullOr(Schema.String),
  /** What its definition asks for in vain, a phrase for each key; absent where that was not looked at, or is nothing. */
  warnings: Schema.optionalKey(Schema.Array(Schema.String))
}) {}
