/**
 * Opens the one database of a home directory and runs statements in it: WAL, immediate transactions, a busy timeout.
 * Knows no table; applies migrations at open (see migrations.ts).
 *
 * Invariant: a transaction is a synchronous function, so no other fiber of this process can run inside it and no lock is
 * ever held across an await.
 */
import { type SQLQueryBindings, Database as Sqlite } from "bun:sqlite"
import fs from "node:fs"
import { Clock, Context, Effect, Layer, Result } from "effect"
import {
  DatabaseFailed,
  DiskFull,
  HomeUnusable,
  InstallInProgress,
  type SandboxesActive,
  type SchemaMismatch
} from "../domain/errors/store.ts"
import { installDeadline, type Migration, type MigrationTarget, migrate, migrateDown } from "./migrations.ts"
import { Paths } from "./Paths.ts"

/** What opening may fail with: also a newer schema, and an upgrade that goes on. */
export type OpenError = DatabaseError | SchemaMismatch | InstallInProgress

export type DatabaseError = DatabaseFailed | DiskFull | HomeUnusable

export type Parameters = ReadonlyArray<string | number | bigint | null | Uint8Array>

/** Statements inside a transaction; they throw, and a throw rolls the transaction back. */
export interface Transaction {
  readonly all: <Row>(sql: string, parameters?: Parameters) => ReadonlyArray<Row>
  readonly get: <Row>(sql: string, parameters?: Parameters) => Row | undefined
  /** Answers the number of changed rows. */
  readonly run: (sql: string, parameters?: Parameters) => number
}

export interface Service {
  readonly all: <Row>(sql: string, parameters?: Parameters) => Effect.Effect<ReadonlyArray<Row>, DatabaseError>
  readonly get: <Row>(sql: string, parameters?: Parameters) => Effect.Effect<Row | undefined, DatabaseError>
  /** Answers the number of changed rows. */
  readonly run: (sql: string, parameters?: Parameters) => Effect.Effect<number, DatabaseError>
  /** `BEGIN IMMEDIATE`, the body, `COMMIT`; a failure that the body answers rolls back and becomes the effect's failure. */
  readonly transaction: <A, E = never>(
    body: (tx: Transaction) => Result.Result<A, E>
  ) => Effect.Effect<A, E | DatabaseError>
  /** Version of the schema: the number of the newest applied migration. */
  readonly schemaVersion: number
  /** Undoes migrations down to `version`; this connection is of no use for other statements afterwards. */
  readonly migrateDown: (
    version: number,
    force: boolean
  ) => Effect.Effect<number, SchemaMismatch | SandboxesActive | DatabaseError>
}

/** How long a statement waits for another process's write, in milliseconds. */
const busyTimeoutMs = 5000

export class Database extends Context.Service<Database, Service>()("bunker/Database") {
  /** Opens `bunker.db` of the home and brings its schema up to date. */
  static readonly layer = (migrations: ReadonlyArray<Migration>): Layer.Layer<Database, OpenError, Paths> =>
    Layer.effect(
      Database,
      Paths.use((paths) => open(paths.database, migrations))
    )

  /** The same over any file, for tests. */
  static readonly layerFile = (file: string, migrations: ReadonlyArray<Migration>) =>
    Layer.effect(Database, open(file, migrations))
}

const toError = (operation: string, file: string, cause: unknown): DatabaseError => {
  const code = String((cause as { readonly code?: unknown })?.code ?? "")
  const reason = cause instanceof Error ? cause.message : String(cause)
  if (code === "SQLITE_FULL") return new DiskFull({ path: file })
  if (code.startsWith("SQLITE_READONLY") || code.startsWith("SQLITE_CANTOPEN") || code.startsWith("SQLITE_PERM")) {
    return new HomeUnusable({ path: file, reason })
  }
  return new DatabaseFailed({ operation, reason: code === "" ? reason : `${reason} (${code})` })
}

const open = Effect.fnUntraced(function* (file: string, migrations: ReadonlyArray<Migration>) {
  const sqlite = yield* Effect.acquireRelease(
    Effect.try({
      try: () => {
        const handle = new Sqlite(file, { create: true, strict: true })
        try {
          handle.run(`PRAGMA busy_timeout=${busyTimeoutMs}`)
          handle.run("PRAGMA journal_mode=WAL")
          handle.run("PRAGMA synchronous=NORMAL")
          handle.run("PRAGMA foreign_keys=ON")
          fs.chmodSync(file, 0o600)
          return handle
        } catch (cause) {
          handle.close()
          throw cause
        }
      },
      catch: (cause) => toError("open", file, cause)
    }),
    (handle) => Effect.sync(() => handle.close())
  )
  const tx: Transaction = {
    all: <Row>(sql: string, parameters: Parameters = []) =>
      sqlite.query(sql).all(...(parameters as Array<SQLQueryBindings>)) as Array<Row>,
    get: <Row>(sql: string, parameters: Parameters = []) =>
      (sqlite.query(sql).get(...(parameters as Array<SQLQueryBindings>)) ?? undefined) as Row | undefined,
    run: (sql, parameters = []) => sqlite.query(sql).run(...(parameters as Array<SQLQueryBindings>)).changes
  }
  const attempt = <A>(operation: string, run: () => A): Effect.Effect<A, DatabaseError> =>
    Effect.try({ try: run, catch: (cause) => toError(operation, file, cause) })
  const immediate = <A, E>(body: () => Result.Result<A, E>): Result.Result<A, E> => {
    sqlite.run("BEGIN IMMEDIATE")
    try {
      const result = body()
      sqlite.run(Result.isSuccess(result) ? "COMMIT" : "ROLLBACK")
      return result
    } catch (cause) {
      if (sqlite.inTransaction) sqlite.run("ROLLBACK")
      throw cause
    }
  }
  const target: MigrationTarget = { ...tx, script: (sql) => void sqlite.run(sql), immediate }
  const now = yield* Clock.currentTimeMillis
  const deadline = yield* attempt("read the install lease", () => installDeadline(target, now))
  if (deadline !== undefined) return yield* new InstallInProgress({ deadline })
  const migrated = yield* attempt("migrate", () => migrate(target, migrations, now))
  const schemaVersion = yield* Effect.fromResult(migrated)
  return {
    all: (sql, parameters) => attempt(sql, () => tx.all(sql, parameters)),
    get: (sql, parameters) => attempt(sql, () => tx.get(sql, parameters)),
    run: (sql, parameters) => attempt(sql, () => tx.run(sql, parameters)),
    transaction: (body) =>
      Effect.flatMap(
        attempt("transaction", () => immediate(() => body(tx))),
        Effect.fromResult
      ),
    schemaVersion,
    migrateDown: (version, force) =>
      Effect.flatMap(
        attempt("migrate down", () => migrateDown(target, migrations, version, force)),
        Effect.fromResult
      )
  } satisfies Service as Service
})
