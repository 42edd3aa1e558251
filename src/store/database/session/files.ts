/**
 * Makes, opens, removes and lists session files. Keeps none open (see actors/sessions/openFiles.ts).
 *
 * Invariants: a session file appears whole, by a rename, and appears and goes only under the sessions lock; one that is being removed
 * says so in itself first, so that nobody who has it open writes into what is gone.
 */
import fs from "node:fs"
import path from "node:path"
import { Context, Effect, Result } from "effect"
import { SessionExists, SessionNotFound, StoredDataCorrupt } from "../../../domain/errors/session.ts"
import type { SchemaMismatch } from "../../../domain/errors/store.ts"
import type { SessionId, SessionOrigin } from "../../../domain/session/session.ts"
import { endedBySignals } from "../../../ffi/signals.ts"
import { attemptFile, type FileError, fileError, ingest } from "../../files/files.ts"
import { fileLock } from "../../files/lock.ts"
import type { Paths, SessionPaths } from "../../files/Paths.ts"
import { type Connection, connect, type DatabaseError, databaseError, immediate } from "../Database.ts"
import type { SessionFile } from "./head.ts"
import { migrateSession } from "./schema.ts"

/** How long what was committed lives: through a loss of power, or through the end of the process only. */
export type Durability = "power_loss" | "process"

export interface OpenFile extends SessionFile {
  /** Number of the file itself: another one under the same name is another session. */
  readonly inode: number
}

/** What any use of a session's file may fail with. */
export type SessionFileError = StoredDataCorrupt | DatabaseError | FileError
export type OpenSessionError = SessionNotFound | SchemaMismatch | SessionFileError

export const fileStatements = {
  insertHead:
    "INSERT INTO session_head (id, session_id, head_revision, leaf_node_id, checkpoint_ref, updated_at) VALUES (1, ?, 0, ?, ?, ?)",
  insertMeta:
    "INSERT INTO session_meta (id, created_at, cwd, relation, parent_session_id, title) VALUES (1, ?, ?, ?, ?, ?)",
  markDeleted: "UPDATE session_head SET deleted = 1 WHERE id = 1"
} as const

const synchronous = (durability: Durability) => (durability === "power_loss" ? "FULL" : "NORMAL")

/** Turns what SQLite throws about a session into an error that says what to do. */
const sessionError = (
  sessionId: string,
  operation: string,
  file: string,
  cause: unknown
): StoredDataCorrupt | DatabaseError => {
  const code = String((cause as { readonly code?: unknown })?.code ?? "")
  if (code.startsWith("SQLITE_CORRUPT") || code === "SQLITE_NOTADB") {
    const reason = cause instanceof Error ? cause.message : code
    return new StoredDataCorrupt({ sessionId, what: "file", item: file, reason })
  }
  return databaseError(operation, file, cause)
}

/**
 * True in a program that one command is the whole purpose of: a signal ends it also in the middle of a statement or a loop over a
 * session. Every write is a transaction and every file is published by a rename, so nothing is to be undone. Default false.
 */
export const EndsAtOnce = Context.Reference<boolean>("bunker/session/EndsAtOnce", { defaultValue: () => false })

/** Runs a synchronous function over open files; what SQLite and the file system throw becomes an error, bugs stay defects. */
export const runSession = <A, E>(
  operation: string,
  sessionId: string,
  file: string,
  run: () => Result.Result<A, E>
): Effect.Effect<A, E | SessionFileError> =>
  Effect.flatMap(EndsAtOnce, (atOnce): Effect.Effect<A, E | SessionFileError> => {
    try {
      return Effect.fromResult(atOnce ? endedBySignals(run) : run())
    } catch (cause) {
      const { name, syscall } = cause as { readonly name?: unknown; readonly syscall?: unknown }
      if (name === "SQLiteError") return Effect.fail(sessionError(sessionId, operation, file, cause))
      if (typeof syscall === "string") return Effect.fail(fileError(operation, file, cause))
      throw cause
    }
  })

const inodeOf = (file: string): number | undefined => fs.statSync(file, { throwIfNoEntry: false })?.ino

/** True while the file under the session's name is the one that is open. */
export const isCurrent = (file: OpenFile, paths: SessionPaths): boolean => inodeOf(paths.database) === file.inode

/** Opens a session that exists and brings its schema up to date. The caller closes it. */
export const openSession = (
  id: SessionId,
  paths: SessionPaths,
  durability: Durability
): Effect.Effect<OpenFile, OpenSessionError> =>
  runSession("open", id, paths.database, (): Result.Result<OpenFile, OpenSessionError> => {
    for (;;) {
      const inode = inodeOf(paths.database)
      if (inode === undefined) return Result.fail(new SessionNotFound({ sessionId: id }))
      let connection: Connection
      try {
        connection = connect(paths.database, { synchronous: synchronous(durability) })
      } catch (cause) {
        // It went between the look and the open.
        if (inodeOf(paths.database) === undefined) continue
        throw cause
      }
      try {
        const migrated = migrateSession(connection)
        if (Result.isFailure(migrated)) {
          connection.close()
          return Result.fail(migrated.failure)
        }
        // Another file took the name meanwhile: what was opened is not to be trusted.
        if (inodeOf(paths.database) === inode) return Result.succeed({ id, connection, inode })
        connection.close()
      } catch (cause) {
        connection.close()
        throw cause
      }
    }
  })

/** Writes the rows that every session has, into a fresh file. */
export const writeBeginning = (
  connection: Connection,
  id: SessionId,
  origin: SessionOrigin,
  head: { readonly leafNodeId: string | null; readonly checkpointRef: string | null },
  nowMs: number
): void => {
  connection.run(fileStatements.insertHead, [id, head.leafNodeId, head.checkpointRef, nowMs])
  const relation = origin.parentSessionId === null ? "root" : "child"
  connection.run(fileStatements.insertMeta, [nowMs, origin.cwd, relation, origin.parentSessionId, origin.title])
}

/**
 * Makes a session's file: `fill` writes into a fresh one aside, in one transaction, which then takes its place. Fails with
 * `SessionExists`, having filled nothing, when there is one.
 */
export const createSession = <A, E>(
  paths: Paths["Service"],
  id: SessionId,
  fill: (file: SessionFile) => Result.Result<A, E>
): Effect.Effect<A, E | SessionExists | SchemaMismatch | StoredDataCorrupt | DatabaseError | FileError> =>
  Effect.gen(function* () {
    const { database, wal, shm } = paths.session(id)
    yield* fileLock(paths.sessionsLock)
    if (fs.existsSync(database)) return yield* new SessionExists({ sessionId: id })
    return yield* ingest(paths.temporary, database, (temporary) =>
      Effect.gen(function* () {
        const filled = yield* runSession("make", id, temporary, () => fillFile(temporary, id, fill)).pipe(
          Effect.ensuring(Effect.sync(() => removeAside(temporary)))
        )
        yield* attemptFile("remove", wal, () => {
          // What a crash in the middle of a removal left: it belongs to another file.
          fs.rmSync(wal, { force: true })
          fs.rmSync(shm, { force: true })
        })
        return filled
      })
    )
  }).pipe(Effect.scoped)

const fillFile = <A, E>(
  temporary: string,
  id: SessionId,
  fill: (file: SessionFile) => Result.Result<A, E>
): Result.Result<A, E | SchemaMismatch> => {
  // Made durable as a whole when it is published; closing folds the log into the file.
  const connection = connect(temporary, { create: true, synchronous: "NORMAL" })
  try {
    const migrated = migrateSession(connection)
    if (Result.isFailure(migrated)) return Result.fail(migrated.failure)
    return immediate(connection, () => fill({ id, connection }))
  } finally {
    connection.close()
  }
}

const removeAside = (temporary: string): void => {
  fs.rmSync(`${temporary}-wal`, { force: true })
  fs.rmSync(`${temporary}-shm`, { force: true })
}

/** G10: removes a session's files; one that is not there counts as removed. Answers whether it was. */
export const deleteSession = Effect.fnUntraced(function* (
  paths: Paths["Service"],
  id: SessionId
): Effect.fn.Return<boolean, DatabaseError | FileError> {
  const { database, wal, shm } = paths.session(id)
  return yield* Effect.scoped(
    Effect.gen(function* () {
      yield* fileLock(paths.sessionsLock)
      const there = fs.existsSync(database)
      // A damaged or newer file is removed without a word in it.
      if (there) yield* markDeleted(id, paths.session(id)).pipe(Effect.catchTag("StoredDataCorrupt", () => Effect.void))
      yield* attemptFile("remove", database, () => {
        fs.rmSync(database, { force: true })
        fs.rmSync(wal, { force: true })
        fs.rmSync(shm, { force: true })
      })
      return there
    })
  )
})

const markDeleted = (id: SessionId, { database }: SessionPaths) =>
  runSession("remove", id, database, () => {
    const connection = connect(database, { synchronous: "NORMAL" })
    try {
      immediate(connection, () => {
        const known = connection.get("SELECT 1 AS found FROM sqlite_schema WHERE name = 'session_head'")
        if (known !== undefined) connection.script(fileStatements.markDeleted)
        return Result.void
      })
    } finally {
      connection.close()
    }
    return Result.void
  })

/** A session file as the directory shows it. */
export interface FoundFile {
  /** `<stem>.db` */
  readonly name: string
  /** Last write to it or its log, unix milliseconds. */
  readonly modifiedAt: number
}

const fileName = /^[A-Za-z0-9_.-]{1,48}-[0-9a-f]{16}\.db$/

/** Session files, the last written first. Opens none. */
export const findSessionFiles = (paths: Paths["Service"]): Effect.Effect<ReadonlyArray<FoundFile>, FileError> =>
  attemptFile("list", paths.sessions, () => {
    const found: Array<FoundFile> = []
    for (const name of fs.readdirSync(paths.sessions)) {
      if (!fileName.test(name)) continue
      const { database, wal } = paths.sessionFile(name)
      const main = fs.statSync(database, { throwIfNoEntry: false })
      if (main === undefined) continue
      const log = fs.statSync(wal, { throwIfNoEntry: false })
      // Opening for a look makes an empty log.
      const modified = log === undefined || log.size === 0 ? main.mtimeMs : Math.max(main.mtimeMs, log.mtimeMs)
      found.push({ name, modifiedAt: Math.floor(modified) })
    }
    return found.sort((a, b) => b.modifiedAt - a.modifiedAt || (a.name < b.name ? -1 : 1))
  })

/** Bytes of a session's files. */
export const sessionBytes = ({ database, wal, shm }: SessionPaths): number =>
  [database, wal, shm].reduce((sum, file) => sum + (fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0), 0)

/** The name of a session's file, for what is said about it. */
export const stemOf = (name: string): string => path.basename(name, ".db")

/** Gives free pages back to the file system; a file in use gives nothing back. Answers the bytes. */
export const shrink = (file: SessionFile, paths: SessionPaths): number => {
  const before = sessionBytes(paths)
  try {
    file.connection.script("VACUUM")
    file.connection.script("PRAGMA wal_checkpoint(TRUNCATE)")
  } catch (cause) {
    const code = String((cause as { readonly code?: unknown })?.code ?? "")
    if (!code.startsWith("SQLITE_BUSY") && code !== "SQLITE_FULL") throw cause
  }
  return Math.max(0, before - sessionBytes(paths))
}
