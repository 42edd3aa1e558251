/**
 * Opens SQLite files and runs statements in them: WAL, immediate transactions, a busy timeout. `Database` is the one database of a
 * home directory, migrated at open (see migrations.ts); `connect` opens any other file (see session/). Knows no table.
 *
 * Invariant: a transaction is a synchronous function, so no other fiber of this process can run inside it and no lock is
 * ever held across an await; it may run again on a disk that is full, after it was rolled back.
 */
import { constants, type SQLQueryBindings, Database as Sqlite, type Statement } from "bun:sqlite"
import fs from "node:fs"
import path from "node:path"
import { Clock, Context, Effect, Layer, Result } from "effect"
import {
  DatabaseFailed,
  DiskFull,
  HomeUnusable,
  InstallInProgress,
  type SandboxesActive,
  type SchemaMismatch
} from "../../domain/errors/store.ts"
import { foreignFile } from "../files/ownership.ts"
import { Paths } from "../files/Paths.ts"
import { releaseReserve, restoreReserve } from "../files/reserve.ts"
import { installDeadline, type Migration, type MigrationTarget, migrate, migrateDown } from "./migrations.ts"

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
/** Bytes that a write-ahead log keeps on the disk after it was larger and is begun anew. */
const logBytesKept = 1024 * 1024
/** Time between two looks whether the log of the home's database is to be emptied, in milliseconds. */
const idleLookMs = 10_000
/** Least room that a write needs: SQLite's shared memory grows by 32 KiB. */
const pageRoomBytes = 64 * 1024

export class Database extends Context.Service<Database, Service>()("bunker/Database") {
  /** Opens `bunker.db` of the home and brings its schema up to date. */
  static readonly layer = (migrations: ReadonlyArray<Migration>): Layer.Layer<Database, OpenError, Paths> =>
    Layer.effect(
      Database,
      Paths.use((paths) => open(paths.database, migrations, paths.reserve))
    )

  /** The same over any file, for tests. */
  static readonly layerFile = (file: string, migrations: ReadonlyArray<Migration>) =>
    Layer.effect(Database, open(file, migrations))
}

/** An open file. Everything is synchronous and throws what SQLite says (see `databaseError`). */
export interface Connection extends Transaction {
  /** Rows one by one; no other statement may change what it reads meanwhile. */
  readonly iterate: <Row>(sql: string, parameters?: Parameters) => Iterable<Row>
  /** Runs statements without parameters and without answers. */
  readonly script: (sql: string) => void
  readonly inTransaction: () => boolean
  /** Moves what the write-ahead log holds into the file and empties the log, unless somebody uses it: never waits. */
  readonly emptyLog: () => void
  readonly close: () => void
}

export interface ConnectOptions {
  /** Make the file when it is missing; default false. */
  readonly create?: boolean
  /** `FULL`: what was committed survives a loss of power; `NORMAL`: the end of the process. */
  readonly synchronous: "FULL" | "NORMAL"
}

/** Statements that stay prepared. */
const preparedMax = 256

/** Time between two tries of what SQLite does not wait for, in milliseconds. */
const busyPauseMs = 5

/** True for `SQLITE_BUSY` and its extended codes, `SQLITE_BUSY_RECOVERY` among them. */
const isBusy = (cause: unknown): boolean =>
  String((cause as { readonly code?: unknown }).code).startsWith("SQLITE_BUSY")

/** The one statement that SQLite's busy timeout does not cover: several processes that open a new file switch it at once. */
const switchToWal = (sqlite: Sqlite): void => {
  for (let waited = 0; ; waited += busyPauseMs) {
    try {
      return void sqlite.run("PRAGMA journal_mode=WAL")
    } catch (cause) {
      if (!isBusy(cause) || waited >= busyTimeoutMs) throw cause
      Bun.sleepSync(busyPauseMs)
    }
  }
}

/** Opens a file, mode 0600, with WAL and a busy timeout. Each statement's text is prepared once: use texts that are constants. */
export const connect = (file: string, options: ConnectOptions): Connection => {
  const wrong = foreignFile(file)
  if (wrong !== undefined) throw Object.assign(new Error(wrong), { code: "SQLITE_PERM" })
  const sqlite = new Sqlite(file, { readwrite: true, create: options.create === true, strict: true })
  try {
    sqlite.run(`PRAGMA busy_timeout=${busyTimeoutMs}`)
    switchToWal(sqlite)
    sqlite.run(`PRAGMA synchronous=${options.synchronous}`)
    sqlite.run(`PRAGMA journal_size_limit=${logBytesKept}`)
    sqlite.run("PRAGMA foreign_keys=ON")
    if (options.create === true) fs.chmodSync(file, 0o600)
  } catch (cause) {
    sqlite.close()
    throw cause
  }
  return connectionOf(sqlite)
}

/**
 * Opens a file for reading as one that nobody writes to (SQLite, "URI filenames": `immutable`): no locks, no files beside it. What is
 * read means nothing unless the caller finds that nobody did.
 */
export const connectUnwatched = (file: string): Connection => {
  const uri = `file:${encodeURI(file).replace(/[?#]/g, encodeURIComponent)}?immutable=1`
  return connectionOf(new Sqlite(uri, constants.SQLITE_OPEN_READONLY | constants.SQLITE_OPEN_URI))
}

const connectionOf = (sqlite: Sqlite): Connection => {
  const statements = new Map<string, Statement<unknown, Array<SQLQueryBindings>>>()
  const prepared = (sql: string) => {
    const known = statements.get(sql)
    if (known !== undefined) return known
    const statement = sqlite.prepare<unknown, Array<SQLQueryBindings>>(sql)
    if (statements.size < preparedMax) statements.set(sql, statement)
    return statement
  }
  const values = (parameters: Parameters = []) => parameters as Array<SQLQueryBindings>
  return {
    all: <Row>(sql: string, parameters?: Parameters) => prepared(sql).all(...values(parameters)) as Array<Row>,
    get: <Row>(sql: string, parameters?: Parameters) =>
      (prepared(sql).get(...values(parameters)) ?? undefined) as Row | undefined,
    run: (sql, parameters) => prepared(sql).run(...values(parameters)).changes,
    iterate: <Row>(sql: string, parameters?: Parameters) =>
      prepared(sql).iterate(...values(parameters)) as IterableIterator<Row>,
    script: (sql) => void sqlite.run(sql),
    inTransaction: () => sqlite.inTransaction,
    emptyLog: () => {
      try {
        sqlite.run("PRAGMA busy_timeout=0")
        sqlite.run("PRAGMA wal_checkpoint(TRUNCATE)")
      } catch (cause) {
        if (!isBusy(cause)) throw cause
      } finally {
        sqlite.run(`PRAGMA busy_timeout=${busyTimeoutMs}`)
      }
    },
    close: () => {
      for (const statement of statements.values()) statement.finalize()
      statements.clear()
      sqlite.close()
    }
  }
}

/** `BEGIN IMMEDIATE`, the body, `COMMIT`; a failure that the body answers, and anything that it throws, rolls back. */
export const immediate = <A, E>(
  connection: Pick<Connection, "run" | "inTransaction">,
  body: () => Result.Result<A, E>
): Result.Result<A, E> => {
  connection.run("BEGIN IMMEDIATE")
  try {
    const result = body()
    connection.run(Result.isSuccess(result) ? "COMMIT" : "ROLLBACK")
    return result
  } catch (cause) {
    if (connection.inTransaction()) connection.run("ROLLBACK")
    throw cause
  }
}

/** True when the disk of a file has no room for a page: SQLite calls it an I/O error when its shared memory can not grow. */
const isFull = (file: string): boolean => {
  try {
    const { bavail, bsize } = fs.statfsSync(path.dirname(file))
    return bavail * bsize < pageRoomBytes
  } catch {
    return false
  }
}

/** What SQLite threw, as an error that says what to do. */
export const databaseError = (operation: string, file: string, cause: unknown): DatabaseError => {
  const code = String((cause as { readonly code?: unknown })?.code ?? "")
  const reason = cause instanceof Error ? cause.message : String(cause)
  if (code === "SQLITE_FULL" || (code.startsWith("SQLITE_IOERR") && isFull(file))) return new DiskFull({ path: file })
  if (code.startsWith("SQLITE_READONLY") || code.startsWith("SQLITE_CANTOPEN") || code.startsWith("SQLITE_PERM")) {
    return new HomeUnusable({ path: file, reason })
  }
  return new DatabaseFailed({ operation, reason: code === "" ? reason : `${reason} (${code})` })
}

/**
 * Empties the log of a database that was not written to for a while, for as long as the scope is open: the log of a process that lives
 * for weeks would stay as large as it ever was. Its timer keeps no process alive.
 */
const emptyLogWhenIdle = (file: string, connection: Connection) => {
  const sizeOf = () => fs.statSync(`${file}-wal`, { throwIfNoEntry: false })
  let seen = sizeOf()
  const look = () => {
    const now = sizeOf()
    const idle = now !== undefined && now.size > 0 && now.mtimeMs === seen?.mtimeMs
    seen = now
    if (!idle || connection.inTransaction()) return
    try {
      connection.emptyLog()
    } catch {
      // A disk that is full or broken: the next statement says so.
    }
  }
  return Effect.acquireRelease(
    Effect.sync(() => {
      const timer = setInterval(look, idleLookMs)
      timer.unref()
      return timer
    }),
    (timer) => Effect.sync(() => clearInterval(timer))
  )
}

/** `reserve`: the file that gives room on a full disk (reserve.ts); absent: there is none. */
const open = Effect.fnUntraced(function* (file: string, migrations: ReadonlyArray<Migration>, reserve?: string) {
  const failed = (operation: string, cause: unknown) => databaseError(operation, file, cause)
  const attempt = <A>(operation: string, run: () => A): Effect.Effect<A, DatabaseError> =>
    Effect.try({
      try: () => {
        while (true) {
          try {
            return run()
          } catch (cause) {
            const canRetry = reserve !== undefined && failed(operation, cause)._tag === "DiskFull"
            if (!canRetry || !releaseReserve(reserve)) throw cause
          }
        }
      },
      catch: (cause) => failed(operation, cause)
    })
  const connection = yield* Effect.acquireRelease(
    attempt("open", () => connect(file, { create: true, synchronous: "NORMAL" })),
    (handle) => Effect.sync(() => handle.close())
  )
  if (reserve !== undefined) restoreReserve(reserve)
  yield* emptyLogWhenIdle(file, connection)
  const tx: Transaction = connection
  const target: MigrationTarget = { ...connection, immediate: (body) => immediate(connection, body) }
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
        attempt("transaction", () => immediate(connection, () => body(tx))),
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
