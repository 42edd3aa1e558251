/**
 * Keeps the rows of machines equal to their files: what a person edited, copied or put there shows in the next command, what the
 * records know (state, UUID) stands in the file. Starts and ends nothing.
 *
 * Invariants: the file decides what a machine is made from, the row what it is doing; a file that can not be understood changes
 * no row; a row goes with its directory, unless its VM lives.
 */
import fs from "node:fs"
import { Clock, Effect, Option, Result, Schema } from "effect"
import type { AlreadyExists, MachineConfigInvalid, SandboxNotFound } from "../../domain/errors/vm.ts"
import { canonicalReference, parseReference } from "../../domain/image/reference.ts"
import { SafeName } from "../../domain/name.ts"
import { type Machine, MachineProblem, persistedState } from "../../domain/sandbox/definition.ts"
import { planRestart } from "../../domain/sandbox/restart.ts"
import { isLive, type SandboxConfig } from "../../domain/sandbox/sandbox.ts"
import { sandboxProblem } from "../../domain/sandbox/validation.ts"
import {
  fileStamp,
  type LoadedMachine,
  listMachines,
  loadMachine,
  type MachineError,
  saveLocked,
  updateLocked,
  withMachineLock
} from "../files/definitions.ts"
import type { FileError } from "../files/files.ts"
import type { Paths } from "../files/Paths.ts"
import { livingProcess, savedEnd } from "../files/runFile.ts"
import { signalProcess } from "../processes/processes.ts"
import type { Service as Database, DatabaseError } from "./Database.ts"
import {
  deleteSandbox,
  findSandbox,
  insertRun,
  insertSandbox,
  listSandboxes,
  planned,
  type SandboxRecord,
  setMachine,
  setStamp,
  transition,
  type Unreadable,
  unreadableSandboxes,
  vmIdOwner
} from "./sandboxes.ts"

type Home = Paths["Service"]
const SIGKILL = 9
export type IndexError = DatabaseError | FileError

const problemsOf = (home: Home, name: SafeName, loaded: LoadedMachine): ReadonlyArray<MachineProblem> => {
  const { machineFile: path } = home.sandbox(name)
  const { machine, otherName, unheeded, unknownKeys } = loaded
  const refused = sandboxProblem(machine.config, false)
  const problem = (kind: MachineProblem["kind"], reason: string) =>
    new MachineProblem({ name, path, kind, line: null, reason })
  return [
    ...(otherName === undefined
      ? []
      : [problem("name", `it says the name "${otherName}"; the next start writes "${name}" there`)]),
    ...(refused === undefined ? [] : [problem("refused", `${refused.field}: ${refused.reason}; a start refuses that`)]),
    ...unheeded.map((phrase) => problem("unheeded", phrase)),
    ...(unknownKeys.length === 0 ? [] : [problem("unknown_keys", `Bunker knows nothing of ${unknownKeys.join(", ")}`)])
  ]
}

/** The config with its image in the one form that records use; what is no reference stays, and the start says so. */
const canonical = (config: SandboxConfig): Effect.Effect<SandboxConfig> =>
  parseReference(config.image).pipe(
    Effect.map((reference) => ({ ...config, image: canonicalReference(reference) })),
    Effect.orElseSucceed(() => config)
  )

/** The row of a machine that is known from its file alone. A VM of it that lives is taken into the records. */
const importMachine = Effect.fnUntraced(function* (db: Database, home: Home, name: SafeName, loaded: LoadedMachine) {
  const { machine, status } = loaded
  const taken = yield* vmIdOwner(db, machine.vmId, name)
  const living = livingProcess(home, name)
  const row = {
    name,
    config: yield* canonical(machine.config),
    ephemeral: false,
    nowMs: machine.createdAt,
    vmId: taken === undefined ? machine.vmId : crypto.randomUUID(),
    configStamp: loaded.stamp
  }
  if (living !== undefined) {
    const id = yield* Effect.option(insertSandbox(db, { ...row, id: living.sandboxId, status: "starting" }))
    if (Option.isSome(id)) {
      yield* insertRun(db, id.value, living.engine, living, living.startedAt)
      yield* transition(db, id.value, "running", living.startedAt)
      return
    }
    // Its run directory is another sandbox's by now: nobody can reach it any more.
    signalProcess(living, SIGKILL)
  }
  const id = yield* insertSandbox(db, { ...row, status })
  if (!loaded.needsRecovery) return
  const nowMs = yield* Clock.currentTimeMillis
  const { restart: policy } = machine.config
  const { count, delayMs } = planRestart({
    policy,
    reason: savedEnd(home, name)?.reason ?? "internal_error",
    count: 0,
    upMs: undefined
  })
  if (delayMs !== undefined) yield* planned(db, id, count, Math.round(nowMs + delayMs))
})

/** The definition of a record that has none yet: of a sandbox that an older build made, or one that lost its file. */
const machineOf = (record: SandboxRecord): Machine => {
  const { name, vmId, createdAt, config, status } = record.info
  return { name, vmId: vmId ?? crypto.randomUUID(), state: persistedState(status), createdAt, config }
}

/** Makes row and file of one machine agree; for the holder of its lock. */
const agree: (
  db: Database,
  home: Home,
  name: SafeName
) => Effect.Effect<ReadonlyArray<MachineProblem>, MachineError | DatabaseError | SandboxNotFound | AlreadyExists> =
  Effect.fnUntraced(function* (db, home, name) {
    const record = yield* findSandbox(db, name)
    if (record?.info.ephemeral === true) return [] as ReadonlyArray<MachineProblem>
    const { directory, machineFile } = home.sandbox(name)
    if (!fs.existsSync(machineFile)) {
      if (record === undefined) return []
      const { info } = record
      if (record.configStamp !== null && !isLive(info.status) && !fs.existsSync(directory)) {
        yield* deleteSandbox(db, info.id)
        return []
      }
      const machine = machineOf(record)
      yield* setStamp(db, info.id, machine.vmId, yield* saveLocked(home, machine))
      return []
    }
    const loaded = yield* loadMachine(home, name)
    if (record === undefined) {
      yield* importMachine(db, home, name, loaded)
      if (loaded.needsRecovery) yield* agree(db, home, name)
      return problemsOf(home, name, loaded)
    }
    const { info } = record
    const vmId = info.vmId ?? loaded.machine.vmId
    const state = persistedState(info.status)
    const { machine } = loaded
    // A copy is another machine: it says so once it was started. What a row says of the state is newer than what a file says.
    const settle = machine.state !== state || (isLive(info.status) && loaded.otherName !== undefined)
    const configStamp = settle
      ? yield* updateLocked(home, name, ({ ipAddress: _gone, ...old }) => ({ ...old, state, vmId }))
      : loaded.stamp
    if (configStamp !== record.configStamp) {
      const config = yield* canonical(machine.config)
      const imageChanged = config.image !== info.config.image
      yield* setMachine(db, info.id, { config, vmId, configStamp, imageChanged })
    }
    return problemsOf(home, name, loaded)
  })

/** The stamp of a definition that can not even be looked at is no stamp of any. */
const stampNow = (file: string): string | undefined => {
  try {
    return fileStamp(file)
  } catch {
    return "out of reach"
  }
}

/** True when neither file nor row changed since they were compared. */
const isFresh = (home: Home, name: SafeName, record: SandboxRecord | undefined): boolean => {
  const stamp = stampNow(home.sandbox(name).machineFile)
  if (record === undefined) return stamp === undefined
  if (record.info.ephemeral) return true
  return stamp !== undefined && record.configStamp === `${persistedState(record.info.status)}:${stamp}`
}

/**
 * The record of a machine, or of an ephemeral sandbox, after its file was looked at; undefined when there is none. A broken file
 * fails only where there is no record: what was recorded before can still be stopped.
 */
export const findMachine = Effect.fn("Machines.find")(function* (
  db: Database,
  home: Home,
  name: SafeName
): Effect.fn.Return<SandboxRecord | undefined, MachineConfigInvalid | IndexError> {
  const record = yield* findSandbox(db, name).pipe(
    Effect.catchIf(
      (error) => error._tag === "DatabaseFailed" && error.operation.startsWith("read sandbox "),
      () => Effect.andThen(mendRows(db, home), findSandbox(db, name))
    )
  )
  if (isFresh(home, name, record)) return record
  const settled = yield* Effect.result(settleMachine(db, home, name))
  if (Result.isFailure(settled) && !(record !== undefined && settled.failure._tag === "MachineConfigInvalid")) {
    return yield* settled.failure
  }
  return yield* findSandbox(db, name)
})

/** Writes down in the file what the records say now, and takes over what the file says. */
export const settleMachine = (db: Database, home: Home, name: SafeName) =>
  withMachineLock(
    home,
    name,
    agree(db, home, name).pipe(
      // The file, or the row, went while we looked.
      Effect.catchTag(["SandboxNotFound", "AlreadyExists"], () => Effect.succeed([] as ReadonlyArray<MachineProblem>))
    )
  )

const unreadProblem = (home: Home, { id, name, reason }: Unreadable): MachineProblem =>
  new MachineProblem({
    name,
    path: home.database,
    kind: "record",
    line: null,
    reason: `the record of "${name}", number ${id}, can not be read (${reason}); 'bunker rm -f ${isName(name) ? name : id}' removes it`
  })

const isName = Schema.is(SafeName)

/** Writes rows that can not be read anew from their definitions; says which stay so. */
const mendRows = Effect.fn("Machines.mend")(function* (db: Database, home: Home) {
  const left: Array<MachineProblem> = []
  for (const row of yield* unreadableSandboxes(db)) {
    const loaded = isName(row.name) ? yield* Effect.option(loadMachine(home, row.name)) : Option.none<LoadedMachine>()
    if (Option.isSome(loaded)) {
      const { machine, stamp: configStamp } = loaded.value
      const config = yield* canonical(machine.config)
      yield* setMachine(db, row.id, { config, vmId: machine.vmId, configStamp, imageChanged: false })
    }
    const still = yield* unreadableSandboxes(db)
    if (still.some(({ id }) => id === row.id)) left.push(unreadProblem(home, row))
  }
  return left
})

/** The rows that can not be read and have no definition to be mended from. */
export const recordProblems = (db: Database, home: Home) =>
  Effect.map(unreadableSandboxes(db), (rows) => rows.map((row) => unreadProblem(home, row)))

export interface Indexed {
  readonly records: ReadonlyArray<SandboxRecord>
  readonly problems: ReadonlyArray<MachineProblem>
}

/** Every record after every file was looked at, and what a person should look at. */
export const indexMachines = Effect.fn("Machines.index")(function* (
  db: Database,
  home: Home
): Effect.fn.Return<Indexed, IndexError> {
  const lost = yield* mendRows(db, home)
  const before = yield* listSandboxes(db)
  const byName = new Map(before.map((record) => [record.info.name, record]))
  const unread = new Set(lost.map(({ name }) => name))
  const names = new Set([...(yield* listMachines(home)).filter((name) => !unread.has(name)), ...byName.keys()])
  const stale = [...names].filter((name) => !isFresh(home, name, byName.get(name)))
  if (stale.length === 0) return { records: before, problems: lost }
  // Those whose VM lives first: they have ids to keep.
  const ordered = stale.toSorted(
    (a, b) => Number(livingProcess(home, a) === undefined) - Number(livingProcess(home, b) === undefined)
  )
  const problems = yield* Effect.forEach(ordered, (name) =>
    settleMachine(db, home, name).pipe(
      Effect.catchTag("MachineConfigInvalid", (error) => Effect.succeed([MachineProblem.broken(error)]))
    )
  )
  return { records: yield* listSandboxes(db), problems: [...lost, ...problems.flat()] }
})

/** What a person should look at in any definition, read anew. */
export const machineProblems = Effect.fn("Machines.problems")(function* (
  home: Home
): Effect.fn.Return<ReadonlyArray<MachineProblem>, FileError> {
  const found: Array<MachineProblem> = []
  for (const name of yield* listMachines(home)) {
    const loaded = yield* Effect.result(loadMachine(home, name))
    if (Result.isSuccess(loaded)) found.push(...problemsOf(home, name, loaded.success))
    else if (loaded.failure._tag === "MachineConfigInvalid") found.push(MachineProblem.broken(loaded.failure))
    else if (loaded.failure._tag !== "SandboxNotFound") return yield* loaded.failure
  }
  return found
})
