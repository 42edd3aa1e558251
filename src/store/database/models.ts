/**
 * Reads and writes the `model` and `model_mount` tables. Knows no files.
 *
 * Invariant: a mount counts while its sandbox is live; a row of a sandbox that has ended keeps nothing.
 */
import { Effect, Schema } from "effect"
import { ModelExists } from "../../domain/errors/model.ts"
import { DatabaseFailed } from "../../domain/errors/store.ts"
import { type ChosenFields, ModelEntry, type ModelName, sameContents } from "../../domain/model/model.ts"
import type { Service as Database } from "./Database.ts"

const chosenColumns =
  "provider, source, revision, task, engine, dimensions, pull_policy, trust_policy, acknowledge_remote_code_risk, credential_alias, allow_patterns, ignore_patterns"
const columns = `name, ${chosenColumns}, status, created_at, updated_at, cache_dir, installed_at, cache_size_bytes, resolved_revision`
const live = "s.status IN ('starting', 'running', 'draining', 'paused')"

/** Every statement that this module runs; a test asks EXPLAIN QUERY PLAN about each. */
export const statements = {
  byName: `SELECT ${columns} FROM model WHERE name = ?`,
  all: `SELECT ${columns} FROM model ORDER BY name`,
  insert: `INSERT INTO model (name, ${chosenColumns}, status, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'registered', ?, ?) ON CONFLICT (name) DO NOTHING`,
  replace: `UPDATE model SET (${chosenColumns}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), status = ?, updated_at = ? WHERE name = ?`,
  remove: "DELETE FROM model WHERE name = ?",
  installed:
    "UPDATE model SET status = 'installed', updated_at = ?, cache_dir = ?, installed_at = ?, cache_size_bytes = ?, resolved_revision = ? WHERE name = ?",
  dropped:
    "UPDATE model SET status = 'registered', updated_at = ?, cache_dir = NULL, installed_at = NULL, cache_size_bytes = NULL, resolved_revision = NULL WHERE name = ?",
  cacheDirs: "SELECT DISTINCT cache_dir FROM model WHERE cache_dir IS NOT NULL",
  mount:
    "INSERT INTO model_mount (sandbox_id, model_name, install_id, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (sandbox_id, model_name) DO UPDATE SET install_id = excluded.install_id, created_at = excluded.created_at",
  usersOfModel: `SELECT s.name FROM model_mount m JOIN sandbox s ON s.id = m.sandbox_id WHERE m.model_name = ? AND ${live} ORDER BY s.name`,
  usersOfInstall: `SELECT s.name FROM model_mount m JOIN sandbox s ON s.id = m.sandbox_id WHERE m.install_id = ? AND ${live} ORDER BY s.name`
} as const

interface Row {
  readonly name: string
  readonly provider: string
  readonly source: string
  readonly revision: string
  readonly task: string
  readonly engine: string
  readonly dimensions: number | null
  readonly pull_policy: string
  readonly trust_policy: string
  readonly acknowledge_remote_code_risk: number
  readonly credential_alias: string | null
  readonly allow_patterns: string | null
  readonly ignore_patterns: string | null
  readonly status: string
  readonly created_at: number
  readonly updated_at: number
  readonly cache_dir: string | null
  readonly installed_at: number | null
  readonly cache_size_bytes: number | null
  readonly resolved_revision: string | null
}

const decodeEntry = Schema.decodeUnknownSync(ModelEntry)
const list = (text: string | null): unknown => (text === null ? null : JSON.parse(text))

const toEntry = (row: Row): Effect.Effect<ModelEntry, DatabaseFailed> =>
  Effect.try({
    try: () =>
      decodeEntry({
        name: row.name,
        provider: row.provider,
        source: row.source,
        revision: row.revision,
        task: row.task,
        engine: row.engine,
        dimensions: row.dimensions,
        pullPolicy: row.pull_policy,
        trustPolicy: row.trust_policy,
        acknowledgeRemoteCodeRisk: row.acknowledge_remote_code_risk === 1,
        credentialAlias: row.credential_alias,
        allowPatterns: list(row.allow_patterns),
        ignorePatterns: list(row.ignore_patterns),
        status: row.status,
        createdAtUnixMs: row.created_at,
        updatedAtUnixMs: row.updated_at,
        cacheDir: row.cache_dir,
        installedAtUnixMs: row.installed_at,
        cacheSizeBytes: row.cache_size_bytes,
        resolvedRevision: row.resolved_revision
      }),
    catch: (cause) => new DatabaseFailed({ operation: `read model ${row.name}`, reason: String(cause) })
  })

const json = (patterns: ReadonlyArray<string> | null) => (patterns === null ? null : JSON.stringify(patterns))

const parametersOf = (chosen: ChosenFields) => [
  chosen.provider,
  chosen.source,
  chosen.revision,
  chosen.task,
  chosen.engine,
  chosen.dimensions,
  chosen.pullPolicy,
  chosen.trustPolicy,
  chosen.acknowledgeRemoteCodeRisk ? 1 : 0,
  chosen.credentialAlias,
  json(chosen.allowPatterns),
  json(chosen.ignorePatterns)
]

export const findModel = Effect.fnUntraced(function* (db: Database, name: ModelName) {
  const row = yield* db.get<Row>(statements.byName, [name])
  return row === undefined ? undefined : yield* toEntry(row)
})

/** All of them, by name. */
export const listModels = Effect.fnUntraced(function* (db: Database) {
  return yield* Effect.forEach(yield* db.all<Row>(statements.all), toEntry)
})

/** Registers a model. */
export const insertModel = Effect.fnUntraced(function* (
  db: Database,
  name: ModelName,
  chosen: ChosenFields,
  nowMs: number
) {
  const inserted = yield* db.run(statements.insert, [name, ...parametersOf(chosen), nowMs, nowMs])
  if (inserted !== 1) return yield* new ModelExists({ model: name })
})

/** Replaces what its owner chose; it stays `installed` only while it means the same files. Answers false when it is unknown. */
export const replaceModel = Effect.fnUntraced(function* (
  db: Database,
  name: ModelName,
  chosen: ChosenFields,
  nowMs: number
) {
  const before = yield* findModel(db, name)
  if (before === undefined) return false
  const status = before.status === "installed" && sameContents(before, chosen) ? "installed" : "registered"
  return (yield* db.run(statements.replace, [...parametersOf(chosen), status, nowMs, name])) === 1
})

export const deleteModel = (db: Database, name: ModelName) => db.run(statements.remove, [name])

export interface Installed {
  readonly cacheDir: string
  readonly installedAtMs: number
  readonly sizeBytes: number
  readonly resolvedRevision: string | null
}

/** Records a promoted install. Answers false when the entry went meanwhile. */
export const recordInstall = (db: Database, name: ModelName, installed: Installed, nowMs: number) =>
  Effect.map(
    db.run(statements.installed, [
      nowMs,
      installed.cacheDir,
      installed.installedAtMs,
      installed.sizeBytes,
      installed.resolvedRevision,
      name
    ]),
    (changed) => changed === 1
  )

export const recordDrop = (db: Database, name: ModelName, nowMs: number) => db.run(statements.dropped, [nowMs, name])

/** Directories that entries name, which need not be below the cache root of today. */
export const recordedCacheDirs = (db: Database) =>
  Effect.map(db.all<{ readonly cache_dir: string }>(statements.cacheDirs), (rows) => rows.map((row) => row.cache_dir))

const names = (rows: ReadonlyArray<{ readonly name: string }>) => rows.map((row) => row.name)

/** Records that a sandbox mounts an install of a model. The caller holds the model's lock. */
export const recordMount = (
  db: Database,
  mount: { readonly sandboxId: number; readonly model: ModelName; readonly installId: string },
  nowMs: number
) => db.run(statements.mount, [mount.sandboxId, mount.model, mount.installId, nowMs])

/** Live sandboxes that mount any install of a model. */
export const usersOfModel = (db: Database, name: ModelName) =>
  Effect.map(db.all<{ readonly name: string }>(statements.usersOfModel, [name]), names)

/** Live sandboxes that mount one install. */
export const usersOfInstall = (db: Database, installId: string) =>
  Effect.map(db.all<{ readonly name: string }>(statements.usersOfInstall, [installId]), names)
