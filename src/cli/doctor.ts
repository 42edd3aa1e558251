/** Finds out what keeps sandboxes from working on this machine and how to mend it. Changes nothing but the cache of probes. */

import fs from "node:fs"
import path from "node:path"
import { Clock, Effect, Layer, Result } from "effect"
import {
  isHeld,
  LeaseManager,
  statements as leaseStatements,
  type MaintenanceRow,
  sweepLeaseMsMax
} from "../actors/leases/LeaseManager.ts"
import { maintenance, Sweeper } from "../actors/sandboxes/Sweeper.ts"
import type { Settings } from "../domain/settings.ts"
import { harmless } from "../domain/terminalText.ts"
import { engineOptions, enginesLayer, type Program, readConfig } from "../plugin/bunker.ts"
import { Database } from "../store/database/Database.ts"
import { builtIn } from "../store/database/migrations.ts"
import { machineProblems, recordProblems } from "../store/database/syncDefinitions.ts"
import { foreignFile } from "../store/files/ownership.ts"
import { Paths } from "../store/files/Paths.ts"
import { Engines } from "../vm/engines/Engine.ts"
import { hardening } from "../vm/engines/hardening.ts"
import { formatAge, formatBytes } from "./terminal/output.ts"

export interface Finding {
  readonly what: string
  readonly state: "ok" | "warning" | "broken"
  readonly detail: string
  /** What to type or change. */
  readonly fix?: string
}

/** Below this much free space a pull of an ordinary image fails, in bytes. */
const freeBytesMin = 1024 ** 3

const home = (settings: Settings): Effect.Effect<ReadonlyArray<Finding>> =>
  Effect.gen(function* () {
    const opened = yield* Effect.result(Effect.scoped(Layer.build(Paths.layer(settings.home))))
    if (Result.isFailure(opened)) {
      return [
        {
          what: "home directory",
          state: "broken",
          detail: opened.failure.message,
          fix: "mend its permissions, or set BUNKER_HOME to a directory of yours"
        }
      ]
    }
    const { bavail, bsize } = fs.statfsSync(settings.home)
    const free = bavail * bsize
    return [
      { what: "home directory", state: "ok", detail: settings.home },
      {
        what: "disk space",
        state: free < freeBytesMin ? "warning" : "ok",
        detail: `${formatBytes(free)} free`,
        ...(free < freeBytesMin
          ? { fix: "free some space, 'bunker image prune', or set BUNKER_HOME to a larger disk" }
          : {})
      }
    ]
  })

/** Files that a command would refuse, since others own them or may write to them: nothing to say when there are none. */
const ownership = (settings: Settings): ReadonlyArray<Finding> =>
  ["bunker.db", "token", "bunker.sock", "reserve"].flatMap((name) => {
    const wrong = foreignFile(path.join(settings.home, name))
    if (wrong === undefined) return []
    const fix = "see who wrote it; make it yours with chown and chmod, or remove it"
    return [{ what: "permissions", state: "broken" as const, detail: wrong, fix }]
  })

/** Who sweeps, and what waits to be swept. */
const maintenanceLine = (settings: Settings): Effect.Effect<ReadonlyArray<Finding>> =>
  Effect.gen(function* () {
    const db = yield* Database
    const row = yield* db.get<MaintenanceRow>(leaseStatements.read, [maintenance.name])
    const now = yield* Clock.currentTimeMillis
    const last = row?.last_completed_at == null ? "never swept" : `last swept ${formatAge(row.last_completed_at, now)}`
    const held = row !== undefined && isHeld(row, sweepLeaseMsMax, now) ? "; a sweep is going on" : ""
    const waiting = yield* Sweeper.use((sweeper) => sweeper.Sweep({ force: true, dryRun: true }))
    const stale = (waiting?.reconciled ?? 0) + (waiting?.removed ?? 0)
    const finding: Finding =
      stale === 0
        ? { what: "maintenance", state: "ok", detail: `${last}${held}, nothing left by crashes` }
        : {
            what: "maintenance",
            state: "warning",
            detail: `${last}${held}, ${stale} left by crashes`,
            fix: "bunker sweep"
          }
    const unread = yield* recordProblems(db, yield* Paths)
    return [
      finding,
      ...unread.map(
        ({ name, path: file, reason }): Finding => ({
          what: `sandbox ${harmless(name)}`,
          state: "broken",
          detail: harmless(`${file}: ${reason}`)
        })
      )
    ]
  }).pipe(
    Effect.provide(
      Sweeper.layer().pipe(
        Layer.provideMerge(LeaseManager.layer),
        Layer.provideMerge(Database.layer(builtIn)),
        Layer.provideMerge(Paths.layer(settings.home))
      )
    ),
    // The database's own line has said why.
    Effect.orElseSucceed(() => [])
  )

const database = (settings: Settings): Effect.Effect<Finding> =>
  Effect.gen(function* () {
    const db = yield* Database
    const rows = yield* db.all<{ readonly integrity_check: string }>("PRAGMA integrity_check(1)")
    const answer = rows[0]?.integrity_check ?? "no answer"
    return answer === "ok"
      ? ({ what: "database", state: "ok", detail: `schema ${db.schemaVersion}, intact` } as const)
      : ({
          what: "database",
          state: "broken",
          detail: answer,
          fix: `move ${settings.home}/bunker.db away; images are fetched again`
        } as const)
  }).pipe(
    Effect.provide(Layer.provide(Database.layer(builtIn), Paths.layer(settings.home))),
    Effect.catch((error) =>
      Effect.succeed({
        what: "database",
        state: "broken",
        detail: error.message.replace("; 'bunker doctor' checks it", ""),
        ...(error._tag === "DatabaseFailed"
          ? { fix: `move ${settings.home}/bunker.db away; images are fetched again` }
          : {})
      } as const)
    )
  )

const engines = (settings: Settings, program: Program): Effect.Effect<ReadonlyArray<Finding>> =>
  Effect.gen(function* () {
    const service = yield* Engines
    const found: Array<Finding & { readonly works: boolean }> = []
    for (const kind of ["krun", "qemu"] as const) {
      const result = yield* service.probe(kind)
      const seconds = (result.milliseconds / 1000).toFixed(1)
      found.push(
        result.ok
          ? {
              works: true,
              what: `engine ${kind}`,
              state: "ok",
              detail: `boots a guest (${seconds} s${result.cached ? ", remembered" : ""})`
            }
          : {
              works: false,
              what: `engine ${kind}`,
              state: "warning",
              detail: result.reason,
              ...fixFor(kind, result.reason)
            }
      )
    }
    // One engine is enough; without any, nothing works.
    const none = found.every((finding) => !finding.works)
    return found.map(({ works: _works, ...finding }) => (none ? { ...finding, state: "broken" as const } : finding))
  }).pipe(Effect.provide(enginesLayer(settings, program)))

/** What the processes of VMs can not do, should a guest break out of its emulator. */
const isolation = (settings: Settings, program: Program): Effect.Effect<Finding> =>
  Effect.map(hardening(engineOptions(settings, program)), (found): Finding => {
    const what = "isolation"
    if (found === undefined) {
      const detail = "the launcher is missing: processes of VMs keep this user's rights, behind the VM's own boundary"
      return { what, state: "warning", detail, fix: "install a C compiler and build again" }
    }
    const { taken, left } = found
    if (left.length === 0) return { what, state: "ok", detail: `processes of VMs go without ${taken.join(", ")}` }
    const detail = `this machine does not take from processes of VMs ${left.join("; ")}`
    return {
      what,
      state: "warning",
      detail,
      fix: "allow user namespaces, and use a kernel with Landlock (5.13 or newer)"
    }
  })

const fixes = {
  krun: "use a machine with KVM (bare metal, or nested virtualization), and see that you may open /dev/kvm: sudo usermod -aG kvm $USER",
  qemu: "install it: sudo apt-get install qemu-system-x86"
} as const

/** A reason that says what to install is its own fix. */
const fixFor = (kind: keyof typeof fixes, reason: string) => (reason.includes("install") ? {} : { fix: fixes[kind] })

/** Definitions of machines: nothing to say when all are in order. */
const machines = (settings: Settings): Effect.Effect<ReadonlyArray<Finding>> =>
  Paths.use(machineProblems).pipe(
    Effect.provide(Paths.layer(settings.home)),
    Effect.map((problems) =>
      problems.map(({ name, path, line, kind, reason }): Finding => {
        const detail = harmless(`${path}${line === null ? "" : `:${line}`}: ${reason}`)
        if (kind !== "broken" && kind !== "refused")
          return { what: `sandbox ${name}`, state: "warning", detail, fix: `mend ${path}` }
        return { what: `sandbox ${name}`, state: "broken", detail, fix: `mend it, or 'bunker rm -f ${name}'` }
      })
    ),
    // The home's own line has said why.
    Effect.orElseSucceed(() => [])
  )

/** The owner's config file: nothing to say when there is none. */
const config = (settings: Settings, program: Program): Effect.Effect<ReadonlyArray<Finding>> => {
  const file = path.join(settings.home, "bunker.config.ts")
  if (!fs.existsSync(file)) return Effect.succeed([])
  const found = (state: Finding["state"], detail: string): Finding => ({ what: "config file", state, detail })
  return readConfig(file, program).pipe(
    Effect.map(({ plugins }) => [
      found("ok", `${file}, plugins: ${plugins.map(({ name }) => name).join(", ") || "none"}`)
    ]),
    Effect.catch((error) =>
      Effect.succeed([{ ...found("broken", error.message), fix: `mend ${file} or move it away` }])
    )
  )
}

/** Every check, in the order of what depends on what. */
export const diagnose = Effect.fn("Doctor.diagnose")(function* (settings: Settings, program: Program) {
  return [
    ...(yield* home(settings)),
    ...ownership(settings),
    yield* database(settings),
    ...(yield* maintenanceLine(settings)),
    ...(yield* machines(settings)),
    ...(yield* config(settings, program)),
    ...(yield* engines(settings, program)),
    yield* isolation(settings, program)
  ]
})
