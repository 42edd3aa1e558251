/**
 * Clears away what crashes leave outside the sandbox table: content leases that ran out or whose holder died, image files without
 * a record, directories of machines that were never written down, run directories of sandboxes that are gone, temporary files that
 * nobody writes any more, models that were left half-way. Part of Sweeper; each kind has a lease and a bound of its own.
 */

import fs from "node:fs"
import path from "node:path"
import { Clock, Effect, Schema } from "effect"
import { hasPassed } from "../../domain/elapsed.ts"
import { SafeName } from "../../domain/name.ts"
import type { Service as Database } from "../../store/database/Database.ts"
import { freeDeadLeases } from "../../store/database/imageCollection.ts"
import { findSandbox, sandboxExists } from "../../store/database/sandboxes.ts"
import { attemptFile, isLeftover, isTemporaryName, removeBelow } from "../../store/files/files.ts"
import { isLocked, tryFileLock, unlinkHeldLock } from "../../store/files/lock.ts"
import type { Paths } from "../../store/files/Paths.ts"
import type { ImageFiles } from "../images/cacheFiles.ts"
import { type LeaseManager, withLease } from "../leases/LeaseManager.ts"
import { sweepModels } from "../models/recovery.ts"

/** Shortest time between two sweeps of one kind, in milliseconds. */
const intervalMs = 10 * 60_000
/** Things of one kind looked at in one sweep. */
const entriesMax = 1000
/** A run directory this young may belong to a sandbox that is just being started, in milliseconds. */
const runAgeMs = 60_000
/** A temporary file that was not written for this long belongs to nobody, in milliseconds. */
const temporaryAgeMs = 24 * 3_600_000

type Kind = (nowMs: number) => Effect.Effect<void, unknown>

/** Entries of a directory that were last changed more than `ageMs` ago. */
const olderThan = (directory: string, ageMs: number, nowMs: number): ReadonlyArray<string> =>
  fs
    .readdirSync(directory)
    .slice(0, entriesMax)
    .map((name) => path.join(directory, name))
    .filter((file) => hasPassed(fs.lstatSync(file, { throwIfNoEntry: false })?.mtimeMs ?? nowMs, ageMs, nowMs))

const isEmptyDirectory = (place: string): boolean =>
  fs.lstatSync(place).isDirectory() && fs.readdirSync(place).length === 0

/** True for a directory in which nothing is, or only empty directories and temporary files that nobody will finish. */
const holdsNothing = (directory: string, nowMs: number): boolean => {
  try {
    return (
      fs
        .readdirSync(directory)
        .map((name) => path.join(directory, name))
        // By its name, too: a disk or a log is content, however old.
        .every((place) => isEmptyDirectory(place) || (isTemporaryName(place) && isLeftover(place, nowMs)))
    )
  } catch {
    // It went while we looked.
    return false
  }
}

/** Names of sandboxes with a directory and nothing in it: whoever was to create them as machines died before the definition. */
const unbornMachines = (paths: Paths["Service"], nowMs: number): ReadonlyArray<SafeName> =>
  fs
    .readdirSync(paths.sandboxes, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .filter(Schema.is(SafeName))
    .filter((name) => holdsNothing(paths.sandbox(name).directory, nowMs))
    .slice(0, entriesMax)

/** Removes such a directory, unless somebody creates that machine just now. What came into it meanwhile stays. */
const removeUnborn = (db: Database, paths: Paths["Service"], name: SafeName) => {
  const { directory, machineLock } = paths.sandbox(name)
  return Effect.gen(function* () {
    if (!(yield* tryFileLock(machineLock)) || (yield* findSandbox(db, name)) !== undefined) return
    const now = yield* Clock.currentTimeMillis
    yield* attemptFile("remove", directory, () => {
      if (!holdsNothing(directory, now)) return
      for (const name of fs.readdirSync(directory)) {
        const place = path.join(directory, name)
        // Not recursively: what came into it meanwhile stays.
        if (fs.lstatSync(place).isDirectory()) fs.rmdirSync(place)
        else fs.rmSync(place)
      }
      fs.rmdirSync(directory)
    })
    yield* unlinkHeldLock(machineLock)
  }).pipe(
    Effect.scoped,
    Effect.catch((failure) => Effect.logWarning(`sweep: the directory of ${name} was left as it is`, failure))
  )
}

/** Sweeps every kind whose lease is to be had; the failure of one is logged and stops no other. */
export const sweepLeftovers = Effect.fn("Sweeper.leftovers")(function* (
  db: Database,
  paths: Paths["Service"],
  leases: LeaseManager["Service"],
  images: ImageFiles,
  force: boolean
) {
  const kinds: Readonly<Record<string, Kind>> = {
    content_leases: (now) => freeDeadLeases(db, now),
    image_files: () => images.sweepStrays(entriesMax),
    run_directories: (now) =>
      Effect.forEach(
        olderThan(paths.runs, runAgeMs, now),
        (directory) =>
          Effect.gen(function* () {
            const id = Number(path.basename(directory))
            const known = Number.isInteger(id) && (yield* sandboxExists(db, id))
            if (!known && !isLocked(path.join(directory, "keeper.lock"))) yield* removeBelow(paths.runs, directory)
          }),
        { discard: true }
      ),
    // Before their locks, which then go, too.
    unborn_machines: (now) =>
      Effect.forEach(unbornMachines(paths, now), (name) => removeUnborn(db, paths, name), { discard: true }),
    machine_locks: (now) =>
      Effect.forEach(
        olderThan(paths.locks, runAgeMs, now),
        (file) => {
          const [, name] = /^machine-(.+)\.lock$/.exec(path.basename(file)) ?? []
          if (name === undefined || fs.existsSync(path.join(paths.sandboxes, name))) return Effect.void
          const unlink = Effect.flatMap(tryFileLock(file), (won) => (won ? unlinkHeldLock(file) : Effect.void))
          return Effect.scoped(unlink)
        },
        { discard: true }
      ),
    temporary_files: (now) =>
      Effect.forEach(olderThan(paths.temporary, temporaryAgeMs, now), (file) => removeBelow(paths.temporary, file), {
        discard: true
      }),
    models: () => sweepModels(db, paths)
  }
  for (const [name, sweep] of Object.entries(kinds)) {
    const claim = { name: `sweep_${name}`, durationMs: 30_000, minIntervalMs: force ? 0 : intervalMs }
    const work = Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.suspend(() => sweep(now)))
    yield* withLease(leases, claim, work).pipe(
      Effect.catchCause((cause) => Effect.logWarning(`sweep of ${name} was put off`, cause))
    )
  }
})
