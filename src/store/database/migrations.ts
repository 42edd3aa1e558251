/**
 * Applies `migrations/NNNN_name.sql` once each, in order, in a transaction each, and refuses a database that is newer or was
 * migrated by other text. Opens nothing.
 */
import { Result } from "effect"
import init from "../../../migrations/0001_init.sql" with { type: "text" }
import models from "../../../migrations/0002_models.sql" with { type: "text" }
import machines from "../../../migrations/0003_machines.sql" with { type: "text" }
import boot from "../../../migrations/0004_boot.sql" with { type: "text" }
import { isAhead } from "../../domain/elapsed.ts"
import { SandboxesActive, SchemaMismatch } from "../../domain/errors/store.ts"
import { isAbandoned, leaseMsMax } from "../processes/processToken.ts"

export interface Migration {
  /** 1, 2, 3 … without gaps. */
  readonly version: number
  readonly name: string
  /** The whole file: a `-- up` part and a `-- down` part. */
  readonly text: string
}

/** The migrations of this build, oldest first. */
export const builtIn: ReadonlyArray<Migration> = [
  { version: 1, name: "init", text: init },
  { version: 2, name: "models", text: models },
  { version: 3, name: "machines", text: machines },
  { version: 4, name: "boot", text: boot }
]

/** What applying needs from the database; everything throws on failure. */
export interface MigrationTarget {
  readonly all: <Row>(sql: string) => ReadonlyArray<Row>
  readonly run: (sql: string, parameters?: ReadonlyArray<string | number>) => number
  readonly script: (sql: string) => void
  readonly immediate: <A, E>(body: () => Result.Result<A, E>) => Result.Result<A, E>
}

/** Splits a migration at its `-- up` and `-- down` lines. */
export const parts = (text: string): { readonly up: string; readonly down: string } => {
  const up = text.search(/^-- up\s*$/m)
  const down = text.search(/^-- down\s*$/m)
  if (up < 0 || down < up) throw new Error("a migration needs a line '-- up' and, after it, a line '-- down'")
  return { up: text.slice(up + "-- up".length, down), down: text.slice(down + "-- down".length) }
}

/** sha256 of the text, as recorded with each applied migration. */
export const checksum = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("hex")

/**
 * Deadline of the install-exclusive lease that is held now, unix milliseconds. A database from before the table exists counts
 * as free.
 */
export const installDeadline = (target: Pick<MigrationTarget, "all">, nowMs: number): number | undefined => {
  const table = target.all("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'maintenance_lease'")
  if (table.length === 0) return undefined
  const [row] = target.all<{ readonly lease_expires_at: number; readonly holder_token: string | null }>(
    "SELECT lease_expires_at, holder_token FROM maintenance_lease WHERE name = 'install_exclusive'"
  )
  if (row === undefined || !isAhead(row.lease_expires_at, leaseMsMax, nowMs)) return undefined
  return row.holder_token !== null && isAbandoned(row.holder_token) ? undefined : row.lease_expires_at
}

interface Applied {
  readonly version: number
  readonly name: string
  readonly checksum: string
}

const applied = (target: MigrationTarget): ReadonlyArray<Applied> => {
  const known = target.all<{ readonly name: string }>("SELECT name FROM sqlite_schema WHERE name = 'schema_migration'")
  if (known.length === 0) return []
  return target.all<Applied>("SELECT version, name, checksum FROM schema_migration ORDER BY version")
}

const mismatch = (before: ReadonlyArray<Applied>, migrations: ReadonlyArray<Migration>): SchemaMismatch | undefined => {
  const known = migrations.at(-1)?.version ?? 0
  const found = before.at(-1)?.version ?? 0
  if (found > known) return new SchemaMismatch({ found, known, reason: "a newer build wrote it" })
  for (const [index, row] of before.entries()) {
    const mine = migrations[index]
    if (mine === undefined || mine.version !== row.version || checksum(mine.text) !== row.checksum) {
      return new SchemaMismatch({
        found,
        known,
        reason: `migration ${row.version} (${row.name}) is not the one that was applied`
      })
    }
  }
  return undefined
}

/**
 * Applies what is missing and answers the schema version. The common case (nothing missing) is two reads and no write; two
 * processes that open a fresh database at once end with one schema, because each step re-reads under the write lock.
 */
export const migrate = (
  target: MigrationTarget,
  migrations: ReadonlyArray<Migration>,
  nowMs: number
): Result.Result<number, SchemaMismatch> => {
  const before = applied(target)
  const wrong = mismatch(before, migrations)
  if (wrong !== undefined) return Result.fail(wrong)
  if (before.length === migrations.length) return Result.succeed(before.at(-1)?.version ?? 0)
  for (const migration of migrations.slice(before.length)) {
    const step = target.immediate((): Result.Result<void, SchemaMismatch> => {
      target.script(
        "CREATE TABLE IF NOT EXISTS schema_migration (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
      )
      const now = applied(target)
      const conflict = mismatch(now, migrations)
      if (conflict !== undefined) return Result.fail(conflict)
      if (now.some((row) => row.version === migration.version)) return Result.void
      target.script(parts(migration.text).up)
      target.run("INSERT INTO schema_migration (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)", [
        migration.version,
        migration.name,
        checksum(migration.text),
        nowMs
      ])
      return Result.void
    })
    if (Result.isFailure(step)) return Result.fail(step.failure)
  }
  return Result.succeed(migrations.at(-1)?.version ?? 0)
}

/** A sandbox that keeps a schema from being taken back. */
export interface ActiveSandbox {
  readonly name: string
  readonly status: string
  readonly pid: number | null
}

/** What is asked of sandboxes before a migration is undone: by status, not by liveness, for a row without a pid is a transition. */
export const activeSandboxesSql = `SELECT s.name, s.status,
    (SELECT pid FROM run r WHERE r.sandbox_id = s.id AND r.status = 'running' ORDER BY r.id DESC LIMIT 1) AS pid
  FROM sandbox s WHERE s.status IN ('created', 'starting', 'running', 'draining', 'paused') ORDER BY s.name`

const hasTable = (target: MigrationTarget, name: string): boolean =>
  target
    .all<{ readonly name: string }>("SELECT name FROM sqlite_schema WHERE type = 'table'")
    .some((row) => row.name === name)

/**
 * Undoes applied migrations, newest first, until `version` is the newest that is left; a transaction each. Refused while a sandbox
 * is active, unless `force`.
 */
export const migrateDown = (
  target: MigrationTarget,
  migrations: ReadonlyArray<Migration>,
  version: number,
  force: boolean
): Result.Result<number, SchemaMismatch | SandboxesActive> => {
  const before = applied(target)
  const wrong = mismatch(before, migrations)
  if (wrong !== undefined) return Result.fail(wrong)
  for (const row of before.toReversed()) {
    if (row.version <= version) break
    const step = target.immediate((): Result.Result<void, SandboxesActive> => {
      const active = !force && hasTable(target, "sandbox") ? target.all<ActiveSandbox>(activeSandboxesSql) : []
      if (active.length > 0) return Result.fail(new SandboxesActive({ names: active.map((each) => each.name) }))
      target.script(parts(migrations[row.version - 1]!.text).down)
      target.run("DELETE FROM schema_migration WHERE version = ?", [row.version])
      return Result.void
    })
    if (Result.isFailure(step)) return Result.fail(step.failure)
  }
  return Result.succeed(applied(target).at(-1)?.version ?? 0)
}
