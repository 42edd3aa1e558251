/**
 * Reads and writes the `config.toml` of machines: the definition of a sandbox that is kept, which outlives process and database.
 * Touches no row and no VM (see machineIndex.ts).
 *
 * Invariants: a file is replaced whole or not at all, under the machine's lock, mode 0600; a file that can not be understood is
 * reported and never written; what a person put into a file stays there.
 */
import fs from "node:fs"
import path from "node:path"
import { Clock, Effect, Result, Schema } from "effect"
import { MachineConfigInvalid, SandboxNotFound } from "../../domain/errors/vm.ts"
import type { SafeName } from "../../domain/name.ts"
import { SafeName as SafeNameSchema } from "../../domain/name.ts"
import {
  type Machine,
  type MachineState,
  machineDocument,
  readMachine,
  reloaded
} from "../../domain/sandbox/definition.ts"
import { attemptFile, type FileError, isLeftover, writeAtomic } from "./files.ts"
import { fileLock, unlinkHeldLock } from "./lock.ts"
import { foreign } from "./ownership.ts"
import type { Paths } from "./Paths.ts"
import { withReserve } from "./reserve.ts"
import type { TomlTable } from "./tomlEdit.ts"

type Home = Paths["Service"]

/** Longest definition that is read, in bytes. */
const fileBytesMax = 1024 * 1024
/** Names looked at in the sandboxes directory. */
const entriesMax = 100_000
const lockIntervalMs = 5

/** A definition as it is on disk. */
export interface LoadedMachine {
  /** Under the name of its directory, whatever the file says. */
  readonly machine: Machine
  /** What it is while no record says otherwise. */
  readonly status: "created" | "stopped"
  /** It was running when its records were lost. */
  readonly needsRecovery: boolean
  readonly unknownKeys: ReadonlyArray<string>
  /** What it asks for in vain, a phrase for each key. */
  readonly unheeded: ReadonlyArray<string>
  /** The name in the file, when that is another than the directory's. */
  readonly otherName: string | undefined
  /** Changes with the file: state, inode, time, size. */
  readonly stamp: string
  readonly text: string
  readonly document: TomlTable
}

export type MachineError = MachineConfigInvalid | FileError

const isName = Schema.is(SafeNameSchema)

const head = `A Bunker sandbox. Edit it as you like: the next start uses what is here, comments stay.
See docs/machines.md for the keys.`

/** Changes with every write of the file; undefined when there is none. */
export const fileStamp = (file: string): string | undefined => {
  const stat = fs.statSync(file, { bigint: true, throwIfNoEntry: false })
  return stat === undefined ? undefined : `${stat.ino}:${stat.mtimeNs}:${stat.size}`
}

/** Text, times and stamp of one open file, so that they belong together; undefined when there is none. */
const readFile = (file: string) => {
  let fd: number
  try {
    // A pipe in its place must not hold us up.
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === "ENOENT" || code === "ENOTDIR") return undefined
    throw cause
  }
  try {
    const stat = fs.fstatSync(fd, { bigint: true })
    if (!stat.isFile()) return { problem: "it is no file" }
    const wrong = foreign(file, stat)
    if (wrong !== undefined) return { problem: wrong }
    if (stat.size > fileBytesMax) return { problem: "it is longer than 1 MiB" }
    const bytes = fs.readFileSync(fd)
    const born = Number(stat.birthtimeMs > 0n ? stat.birthtimeMs : stat.mtimeMs)
    return { bytes, born, stamp: `${stat.ino}:${stat.mtimeNs}:${stat.size}` }
  } finally {
    fs.closeSync(fd)
  }
}

/** Loaded with the first definition: most commands read and write none. */
const toml = Effect.promise(() => import("./tomlEdit.ts"))

const utf8 = new TextDecoder("utf-8", { fatal: true })

const decodeText = (bytes: Uint8Array): string | undefined => {
  try {
    return utf8.decode(bytes)
  } catch {
    return undefined
  }
}

/** Reads one definition. */
export const loadMachine = Effect.fn("Machines.load")(function* (
  home: Home,
  name: SafeName
): Effect.fn.Return<LoadedMachine, MachineError | SandboxNotFound> {
  const { machineFile: file } = home.sandbox(name)
  const invalid = (reason: string, lineNumber: number | null = null) =>
    new MachineConfigInvalid({ sandbox: name, path: file, lineNumber, reason })
  // One that can not be read concerns its own sandbox and no other.
  const read = yield* attemptFile("read", file, () => readFile(file)).pipe(
    Effect.mapError((error) =>
      invalid(error._tag === "DiskFull" ? error.message : `it can not be read: ${error.reason}`)
    )
  )
  if (read === undefined) return yield* new SandboxNotFound({ sandbox: name })
  if ("problem" in read) return yield* invalid(read.problem)
  const text = decodeText(read.bytes)
  if (text === undefined) return yield* invalid("it is no UTF-8 text")
  const { isTomlIssue, lineOfKey, parseToml } = yield* toml
  const document = parseToml(text)
  if (isTomlIssue(document)) return yield* invalid(document.reason, document.line)
  const found = readMachine(document, read.born)
  if (Result.isFailure(found)) {
    const [issue = { path: "", message: "not valid" }] = found.failure
    const [key = ""] = issue.path.split(".")
    const missing = issue.message === "Missing key"
    const reason = missing ? `the key ${issue.path} is missing` : `${issue.path}: ${issue.message}`
    return yield* invalid(reason, lineOfKey(text, key) ?? null)
  }
  const { machine, unknownKeys, unheeded } = found.success
  return {
    machine: { ...machine, name },
    ...reloaded(machine.state),
    unknownKeys,
    unheeded,
    otherName: machine.name === name ? undefined : machine.name,
    stamp: `${machine.state}:${read.stamp}`,
    text,
    document
  }
})

/** Names of the directories that hold a definition, sorted. */
export const listMachines = (home: Home): Effect.Effect<ReadonlyArray<SafeName>, FileError> =>
  attemptFile("read", home.sandboxes, () =>
    fs
      .readdirSync(home.sandboxes)
      .slice(0, entriesMax)
      .filter(isName)
      .filter((name) => fs.existsSync(home.sandbox(name).machineFile))
      .toSorted()
  )

/** Every definition, sorted, and every one that can not be used. */
export const loadMachines = Effect.fn("Machines.loadAll")(function* (home: Home) {
  const machines: Array<LoadedMachine> = []
  const broken: Array<MachineConfigInvalid> = []
  for (const name of yield* listMachines(home)) {
    const loaded = yield* Effect.result(loadMachine(home, name))
    if (Result.isSuccess(loaded)) machines.push(loaded.success)
    else if (loaded.failure._tag === "MachineConfigInvalid") broken.push(loaded.failure)
    // It went while we looked.
    else if (loaded.failure._tag !== "SandboxNotFound") return yield* loaded.failure
  }
  return { machines, broken }
})

/** Runs `use` as the only one who changes this machine's definition, in this process and any other. */
export const withMachineLock = <A, E, R>(home: Home, name: SafeName, use: Effect.Effect<A, E, R>) =>
  Effect.scoped(Effect.andThen(fileLock(home.sandbox(name).machineLock, lockIntervalMs), use))

/** The file itself, where somebody put a link to it. */
const target = (file: string): string => {
  try {
    return fs.realpathSync(file)
  } catch {
    return file
  }
}

/** Names that temporaryName (files.ts) gives here: nobody else's files are touched. */
const ours = /^(config\.toml|process)\.[0-9a-z]+-[0-9a-z]+-[0-9a-z]+-[0-9a-f]{8}\.tmp$/

/** Takes away what writers left that were killed before their rename. */
const clearLeftovers = (directory: string, nowMs: number): void => {
  for (const name of fs.readdirSync(directory)) {
    const file = path.join(directory, name)
    if (ours.test(name) && isLeftover(file, nowMs)) fs.rmSync(file, { force: true })
  }
}

/** Writes what differs from what is there; only for the holder of the lock. */
const replace = Effect.fnUntraced(function* (home: Home, before: LoadedMachine, machine: Machine) {
  const known = machineDocument(before.machine)
  const wanted = machineDocument(machine)
  const document: Record<string, unknown> = { ...before.document }
  for (const key of new Set([...Object.keys(known), ...Object.keys(wanted)])) {
    if (Bun.deepEquals(known[key], wanted[key])) continue
    if (wanted[key] === undefined) delete document[key]
    else document[key] = wanted[key]
  }
  if (before.otherName !== undefined) document["name"] = machine.name
  if (Bun.deepEquals(document, before.document, true)) return before.stamp
  // A rewrite gives the file another time.
  document["created_at"] ??= new Date(machine.createdAt)
  const file = target(home.sandbox(machine.name).machineFile)
  const nowMs = yield* Clock.currentTimeMillis
  yield* attemptFile("clear", path.dirname(file), () => clearLeftovers(path.dirname(file), nowMs))
  const { editToml } = yield* toml
  yield* writeAtomic(file, editToml(before.text, before.document, document as TomlTable))
  return `${machine.state}:${fileStamp(file)}`
})

const write = Effect.fnUntraced(function* (home: Home, machine: Machine) {
  const { machineFile } = home.sandbox(machine.name)
  const document = machineDocument(machine) as TomlTable
  const { writeToml } = yield* toml
  yield* writeAtomic(machineFile, writeToml(head, { ...document, created_at: new Date(machine.createdAt) }))
  return `${machine.state}:${fileStamp(machineFile)}`
})

/** Writes a definition whole, into the one that is there if there is one; answers its stamp. Only for the holder of the lock. */
export const saveLocked = Effect.fn("Machines.save")(function* (
  home: Home,
  machine: Machine
): Effect.fn.Return<string, MachineError> {
  yield* attemptFile("make directory", home.sandbox(machine.name).directory, () =>
    fs.mkdirSync(home.sandbox(machine.name).directory, { recursive: true, mode: 0o700 })
  )
  return yield* loadMachine(home, machine.name).pipe(
    Effect.flatMap((before) => replace(home, before, machine)),
    Effect.catchTag("SandboxNotFound", () => write(home, machine))
  )
})

/** The same, waiting for the lock. */
export const saveMachine = (home: Home, machine: Machine): Effect.Effect<string, MachineError> =>
  withMachineLock(home, machine.name, saveLocked(home, machine))

/** One read-modify-write; only for the holder of the lock. */
export const updateLocked = Effect.fn("Machines.update")(function* (
  home: Home,
  name: SafeName,
  change: (machine: Machine) => Machine
): Effect.fn.Return<string, MachineError | SandboxNotFound> {
  const before = yield* loadMachine(home, name)
  return yield* withReserve(home.reserve, replace(home, before, { ...change(before.machine), name }))
})

/** The same, waiting for the lock: concurrent updates of several processes lose nothing. */
export const updateMachine = (home: Home, name: SafeName, change: (machine: Machine) => Machine) =>
  withMachineLock(home, name, updateLocked(home, name, change))

/** State and address in one write; no address clears it. */
export const updateMachineState = (home: Home, name: SafeName, state: MachineState, ipAddress?: string) =>
  updateMachine(home, name, ({ ipAddress: _old, ...machine }) => ({
    ...machine,
    state,
    ...(ipAddress === undefined ? {} : { ipAddress })
  }))

export const updateMachineIp = (home: Home, name: SafeName, ipAddress: string) =>
  updateMachine(home, name, (machine) => ({ ...machine, ipAddress }))

/** Takes a definition away, and its lock's file with it; `alongside` goes first, under the lock. */
export const removeMachine = <A, E, R>(home: Home, name: SafeName, alongside: Effect.Effect<A, E, R>) => {
  const { machineFile, machineLock } = home.sandbox(name)
  return withMachineLock(
    home,
    name,
    alongside.pipe(
      Effect.tap(() => attemptFile("remove", machineFile, () => fs.rmSync(machineFile, { force: true }))),
      Effect.ensuring(Effect.ignore(unlinkHeldLock(machineLock)))
    )
  )
}
