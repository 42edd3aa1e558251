/**
 * Writes down beside a machine's definition which process runs it and, when the records that knew of it are lost, how that ended.
 * Not made durable, since no process outlives the machine's power.
 *
 * Invariant: an end belongs to the process that the file names.
 */
import fs from "node:fs"
import { Effect, Result, Schema } from "effect"
import { RunDefaults } from "../../domain/image/image.ts"
import type { SafeName } from "../../domain/name.ts"
import { TerminationFields } from "../../domain/sandbox/termination.ts"
import { isAlive, type ProcessIdentity } from "../processes/processes.ts"
import { attemptFile, readText, temporaryName } from "./files.ts"
import type { Paths } from "./Paths.ts"

type Home = Paths["Service"]

/** The process of a machine's newest run. */
const SavedRun = Schema.Struct({
  /** Row id of the sandbox: names its run directory. */
  sandboxId: Schema.Int,
  engine: Schema.String,
  pid: Schema.Int,
  startTicks: Schema.Int,
  bootId: Schema.String,
  startedAt: Schema.Int,
  /** What its image says of how it is run; absent in files of older builds. */
  image: Schema.optionalKey(RunDefaults),
  /** How it ended, where its keeper had no records to write that into. */
  end: Schema.optionalKey(TerminationFields),
  /** Why it is about to end in order: the next keeper finishes what this one began. */
  ending: Schema.optionalKey(TerminationFields)
})
type SavedRun = typeof SavedRun.Type
const decode = Schema.decodeUnknownResult(Schema.fromJsonString(SavedRun))
const encode = Schema.encodeSync(Schema.fromJsonString(SavedRun))

const write = (home: Home, name: SafeName, run: SavedRun) => {
  const { directory, processFile } = home.sandbox(name)
  return attemptFile("write", processFile, () => {
    const temporary = temporaryName(directory, "process")
    fs.writeFileSync(temporary, encode(run), { mode: 0o600 })
    fs.renameSync(temporary, processFile)
  })
}

const read = (home: Home, name: SafeName): SavedRun | undefined => {
  const text = readText(home.sandbox(name).processFile)
  return text === undefined ? undefined : Result.getOrUndefined(decode(text))
}

const isOf = (run: SavedRun, { pid, startTicks, bootId }: ProcessIdentity): boolean =>
  run.pid === pid && run.startTicks === startTicks && run.bootId === bootId

/** Writes down which process runs a machine, before its guest does: a database that is lost loses no VM. */
export const saveProcess = (
  home: Home,
  name: SafeName,
  run: {
    readonly sandboxId: number
    readonly engine: string
    readonly startedAt: number
    readonly image?: RunDefaults
  },
  process: ProcessIdentity
) => write(home, name, { ...run, ...process })

const add = Effect.fnUntraced(function* (
  home: Home,
  name: SafeName,
  process: ProcessIdentity,
  what: "end" | "ending",
  { exitCode, exitSignal, reason, detail }: TerminationFields
) {
  const run = read(home, name)
  if (run !== undefined && isOf(run, process)) {
    yield* write(home, name, { ...run, [what]: { exitCode, exitSignal, reason, detail } })
  }
})

/** Adds how the process ended; nothing when the file is another run's by now. */
export const saveEnd = (home: Home, name: SafeName, process: ProcessIdentity, end: TerminationFields) =>
  add(home, name, process, "end", end)

/** Adds why the process is about to end; the same. */
export const saveEnding = (home: Home, name: SafeName, process: ProcessIdentity, end: TerminationFields) =>
  add(home, name, process, "ending", end)

/** Why a process was about to end when its keeper was last heard of; undefined when nobody asked it to. */
export const savedEnding = (home: Home, name: SafeName, process: ProcessIdentity): TerminationFields | undefined => {
  const run = read(home, name)
  return run !== undefined && isOf(run, process) ? run.ending : undefined
}

/** How a machine's newest run ended, where that was written down here; undefined also when that is not the run of `process`. */
export const savedEnd = (home: Home, name: SafeName, process?: ProcessIdentity): TerminationFields | undefined => {
  const run = read(home, name)
  return run !== undefined && (process === undefined || isOf(run, process)) ? run.end : undefined
}

/** The process of a machine whose VM lives. */
export const livingProcess = (home: Home, name: SafeName): SavedRun | undefined => {
  const run = read(home, name)
  return run !== undefined && isAlive(run) ? run : undefined
}

/** What the image of a machine's living VM says of how it is run; known also where the database was lost and the image with it. */
export const savedImage = (home: Home, name: SafeName): RunDefaults | undefined => livingProcess(home, name)?.image
