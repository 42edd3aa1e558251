/** Tells what is in a session's file without keeping it open: one file opened, read and closed. Never fails a list over one bad file. */
import fs from "node:fs"
import { Effect, Result } from "effect"
import type { SessionNotFound, StoredDataCorrupt } from "../../../domain/errors/session.ts"
import type { SchemaMismatch } from "../../../domain/errors/store.ts"
import { parseSessionId, type SessionSummary, sessionStem } from "../../../domain/session/session.ts"
import type { Paths, SessionPaths } from "../../files/Paths.ts"
import { type Connection, connect, connectUnwatched } from "../Database.ts"
import { type FoundFile, runSession, stemOf } from "./files.ts"
import { checkSession, migrateSession } from "./schema.ts"
import { summarize } from "./summary.ts"

export const listingStatements = { id: "SELECT session_id FROM session_head WHERE id = 1" } as const

/** A session that can not be read, as it is listed. */
const broken = ({ name, modifiedAt }: FoundFile, problem: string): SessionSummary => ({
  sessionId: stemOf(name),
  cwd: null,
  title: null,
  parentSessionId: null,
  relation: "root",
  createdAt: modifiedAt,
  updatedAt: modifiedAt,
  headRevision: 0,
  firstUserMessage: null,
  userMessageCount: 0,
  problem
})

/** What a list says of a file; undefined when it went meanwhile. */
export const summarizeFile = (paths: Paths["Service"], found: FoundFile): Effect.Effect<SessionSummary | undefined> => {
  const files = paths.sessionFile(found.name)
  return runSession("list", stemOf(found.name), files.database, () => readAside(files, found)).pipe(
    Effect.catchTag("SessionNotFound", () => Effect.succeed(undefined)),
    Effect.catch((error) => Effect.succeed(broken(found, error.message)))
  )
}

type Summarized = Result.Result<SessionSummary, SessionNotFound | StoredDataCorrupt | SchemaMismatch>

/** What changes when somebody writes to the file; undefined while somebody has it open. */
const traceOf = ({ database, wal }: SessionPaths): string | undefined => {
  const stat = fs.statSync(database, { throwIfNoEntry: false, bigint: true })
  return stat === undefined || fs.existsSync(wal) ? undefined : `${stat.ino} ${stat.size} ${stat.mtimeNs}`
}

/**
 * A session that nobody has open has no log, and is read without making one: a look counts only if there was none before and after
 * it, and the file did not change. Otherwise it is opened like any other.
 */
const readAside = (files: SessionPaths, found: FoundFile): Summarized => {
  const before = traceOf(files)
  if (before !== undefined) {
    try {
      const read = readFile(connectUnwatched(files.database), found, checkSession)
      if (Result.isSuccess(read) && traceOf(files) === before) return read
    } catch {
      // The careful way says what is wrong.
    }
  }
  return readFile(connect(files.database, { synchronous: "FULL" }), found, migrateSession)
}

const readFile = (
  connection: Connection,
  found: FoundFile,
  ready: (connection: Connection) => Result.Result<void, SchemaMismatch>
): Summarized => {
  try {
    return Result.gen(function* () {
      yield* ready(connection)
      const text = connection.get<{ readonly session_id: string }>(listingStatements.id)?.session_id
      const id = Result.getOrUndefined(parseSessionId(text ?? ""))
      if (id === undefined || sessionStem(id) !== stemOf(found.name)) {
        return broken(found, "the file is another session's")
      }
      return yield* summarize({ id, connection })
    })
  } finally {
    connection.close()
  }
}
