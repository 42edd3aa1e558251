/**
 * Says what stands in the `config.toml` of a machine (a sandbox that is kept) and how it maps onto what a sandbox is made from.
 * Pure: reads no file. Names and tables are those of the HTTP body; what has a short form on the command line may be typed so.
 */
import { Effect, Result, Schema } from "effect"
import { formatDuration, parseDuration } from "../duration.ts"
import type { MachineConfigInvalid } from "../errors/vm.ts"
import { SafeName } from "../name.ts"
import { fromWire, snakeCase, toWire, type WireIssue, wireIssues } from "../wire.ts"
import { readTexts, writeTexts } from "./definitionTexts.ts"
import { formatRestart, parseRestart } from "./restart.ts"
import { limits, SandboxConfig, type Status } from "./sandbox.ts"

const MachineState = Schema.Literals(["created", "running", "stopped"])
/** State on disk. */
export type MachineState = typeof MachineState.Type

const states: Readonly<Record<Status, MachineState>> = {
  created: "created",
  starting: "running",
  running: "running",
  paused: "running",
  // Until it is over: a crash while stopping still needs to be put right.
  draining: "running",
  stopped: "stopped",
  crashed: "stopped"
}

/** What the file of a sandbox in this status says. */
export const persistedState = (status: Status): MachineState => states[status]

/** What a sandbox is that is known from its file alone: a `running` one has lost its records and has to be put right. */
export const reloaded = (
  state: MachineState
): { readonly status: "created" | "stopped"; readonly needsRecovery: boolean } => ({
  status: state === "created" ? "created" : "stopped",
  needsRecovery: state === "running"
})

/** A machine as its file defines it. */
export interface Machine {
  readonly name: SafeName
  /** UUID, the same for the life of the machine. */
  readonly vmId: string
  readonly state: MachineState
  /** Unix milliseconds. */
  readonly createdAt: number
  readonly config: SandboxConfig
  /** Digest of the manifest that its disk lies over, absent until its image was looked up. */
  readonly imageDigest?: string
  readonly ipAddress?: string
}

const {
  image,
  diskMb: _diskMb,
  restart: _restart,
  maxDurationMs: _max,
  idleTimeoutMs: _idle,
  ...shared
} = SandboxConfig.fields
const { env, engine, endsWithCommand, labels, ...rest } = shared
const optional = Schema.optionalKey
const Text = Schema.String.check(Schema.isMaxLength(4096))

/** The keys of the file. Those from `kernel` on are kept for other programs; Bunker uses none of them, see `askingKeys`. */
const MachineFile = Schema.Struct({
  name: SafeName,
  vmId: Schema.String.check(Schema.isUUID()),
  state: MachineState,
  createdAt: optional(Text),
  image: optional(image),
  imageDigest: optional(Schema.String.check(Schema.isPattern(/^sha256:[0-9a-f]{64}$/))),
  ...rest,
  /** GiB, with fractions. */
  diskGb: Schema.Finite.check(Schema.isBetween({ minimum: limits.diskMbMin / 1024, maximum: limits.diskMbMax / 1024 })),
  env: optional(env),
  engine: optional(engine),
  endsWithCommand: optional(endsWithCommand),
  labels: optional(labels),
  /** `no`, `always`, `on-failure`, `on-failure:N`. */
  restart: optional(Text),
  /** Like `2h`. */
  maxDuration: optional(Text),
  idleTimeout: optional(Text),
  ipAddress: optional(Text),
  kernel: optional(Text),
  cmdline: optional(Text),
  distro: optional(Text),
  distroVersion: optional(Text),
  diskPath: optional(Text),
  sshKeyPath: optional(Text),
  blockDevices: optional(Schema.Array(Schema.Struct({ path: Text, readOnly: Schema.Boolean }))),
  permissions: optional(Schema.Array(Text))
})
type MachineFile = typeof MachineFile.Type

const knownKeys: ReadonlySet<string> = new Set(Object.keys(MachineFile.fields).map(snakeCase))

type Document = Readonly<Record<string, unknown>>

/** What was found in a document. */
interface ReadMachine {
  readonly machine: Machine
  /** Keys that mean nothing to Bunker. */
  readonly unknownKeys: ReadonlyArray<string>
  /** What it asks for in vain, a phrase for each key. */
  readonly unheeded: ReadonlyArray<string>
}

/** Keys that are kept and ask for something that there is not, with what a reader should know. */
const askingKeys = {
  permissions: "sandboxes have no permissions that could be given, and their guests have no network",
  blockDevices: "a guest has the disks that Bunker makes, and directories of the host by mounts",
  kernel: "every guest boots Bunker's own kernel",
  cmdline: "the words for the guests' kernel are Bunker's own"
} as const

const isAsked = (value: string | ReadonlyArray<unknown> | undefined): boolean => value !== undefined && value.length > 0

const unheededOf = (file: MachineFile): ReadonlyArray<string> =>
  Object.entries(askingKeys)
    .filter(([key]) => isAsked(file[key as keyof typeof askingKeys]))
    .map(([key, why]) => `${snakeCase(key)} has no effect: ${why}`)

/** Of the fields that have no schema of their own: what is wrong with a text. */
const issue = (path: string, message: string): ReadonlyArray<WireIssue> => [{ path, message }]

const durationOf = (key: string, text: string | undefined) => {
  if (text === undefined) return Result.succeed(undefined)
  const ms = parseDuration(text)
  return ms === undefined || ms < 1 || ms > limits.durationMsMax
    ? Result.fail(issue(key, `"${text}" is no duration; write 30s, 5m or 2h`))
    : Result.succeed(ms)
}

/** Reads a parsed document; what is wrong is answered field by field. `createdAt` stands in for one that names no time. */
export const readMachine = (
  document: Document,
  createdAt: number
): Result.Result<ReadMachine, ReadonlyArray<WireIssue>> => {
  const read = readTexts(document)
  if ("issue" in read) return Result.fail([read.issue])
  const known = Object.fromEntries(
    Object.entries(read.document)
      .filter(([key]) => knownKeys.has(key))
      .map(([key, value]) => [key, value instanceof Date ? value.toISOString() : value])
  )
  const decoded = Effect.runSync(Effect.result(fromWire(MachineFile, known)))
  if (Result.isFailure(decoded)) return Result.fail(wireIssues(decoded.failure))
  return Result.map(toMachine(decoded.success, createdAt), (machine) => ({
    machine,
    unknownKeys: Object.keys(document).filter((key) => !knownKeys.has(key)),
    unheeded: unheededOf(decoded.success)
  }))
}

const toMachine = (file: MachineFile, fallback: number): Result.Result<Machine, ReadonlyArray<WireIssue>> =>
  Result.gen(function* () {
    const { name, vmId, state, createdAt, imageDigest, ipAddress, restart, maxDuration, idleTimeout, diskGb, ...own } =
      file
    const {
      kernel: _1,
      cmdline: _2,
      distro: _3,
      distroVersion: _4,
      diskPath: _5,
      sshKeyPath: _6,
      blockDevices: _7,
      permissions: _8,
      ...config
    } = own
    const time = createdAt === undefined ? fallback : Date.parse(createdAt)
    if (Number.isNaN(time)) return yield* Result.fail(issue("created_at", `"${createdAt}" is no time (RFC 3339)`))
    const policy = restart === undefined ? undefined : parseRestart(restart)
    if (restart !== undefined && policy === undefined) {
      return yield* Result.fail(
        issue("restart", `"${restart}" is no restart policy; write no, always, on-failure or on-failure:3`)
      )
    }
    const maxDurationMs = yield* durationOf("max_duration", maxDuration)
    const idleTimeoutMs = yield* durationOf("idle_timeout", idleTimeout)
    return {
      name,
      vmId,
      state,
      createdAt: Math.round(time),
      ...(imageDigest === undefined ? {} : { imageDigest }),
      ...(ipAddress === undefined ? {} : { ipAddress }),
      config: {
        ...config,
        image: config.image ?? "",
        env: config.env ?? [],
        engine: config.engine ?? "auto",
        endsWithCommand: config.endsWithCommand ?? false,
        labels: config.labels ?? {},
        diskMb: Math.round(diskGb * 1024),
        ...(policy === undefined ? {} : { restart: policy }),
        ...(maxDurationMs === undefined ? {} : { maxDurationMs }),
        ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs })
      }
    }
  })

/** The document of a machine: what is at its default and says nothing to a reader is left away. */
export const machineDocument = (machine: Machine): Document => {
  const { config, createdAt, name, vmId, state, imageDigest, ipAddress } = machine
  const {
    diskMb,
    restart,
    maxDurationMs,
    idleTimeoutMs,
    image,
    cpus,
    memoryMb,
    env,
    labels,
    engine,
    endsWithCommand,
    ...own
  } = config
  const file: MachineFile = {
    name,
    vmId,
    state,
    createdAt: new Date(createdAt).toISOString(),
    ...(image === "" ? {} : { image }),
    ...(imageDigest === undefined ? {} : { imageDigest }),
    ...(ipAddress === undefined ? {} : { ipAddress }),
    cpus,
    memoryMb,
    diskGb: diskMb / 1024,
    ...(engine === "auto" ? {} : { engine }),
    ...(endsWithCommand ? { endsWithCommand } : {}),
    ...own,
    ...(env.length === 0 ? {} : { env }),
    ...(restart === undefined ? {} : { restart: formatRestart(restart) }),
    ...(maxDurationMs === undefined ? {} : { maxDuration: formatDuration(maxDurationMs) }),
    ...(idleTimeoutMs === undefined ? {} : { idleTimeout: formatDuration(idleTimeoutMs) }),
    ...(Object.keys(labels).length === 0 ? {} : { labels })
  }
  return { ...(toWire(MachineFile, file) as Document), ...writeTexts(config) }
}

/** Something about a machine's file that a person should look at. */
export class MachineProblem extends Schema.Class<MachineProblem>("MachineProblem")({
  /** Name of the directory. */
  name: Schema.String,
  path: Schema.String,
  /**
   * `broken`: it can not be used. `name`: it says another name. `unknown_keys`: it has keys that mean nothing to Bunker.
   * `unheeded`: it asks for what there is not. `refused`: a start refuses what it says. `record`: its row of the database can not be
   * read.
   */
  kind: Schema.Literals(["broken", "name", "unknown_keys", "unheeded", "refused", "record"]),
  /** Where, 1 for the first line. */
  line: Schema.NullOr(Schema.Int),
  reason: Schema.String
}) {
  static readonly broken = ({ sandbox: name, path, lineNumber, reason }: MachineConfigInvalid) =>
    new MachineProblem({ name, path, kind: "broken", line: lineNumber, reason })
}
