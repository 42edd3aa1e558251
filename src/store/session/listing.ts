/** Tells what is in a session's file without keeping it open: one file opened, read and closed. Never fails a list over one bad file. */
import { Effect, Result } from "effect"
import type { SessionNotFound, StoredDataCorrupt } from "../../domain/errors/session.ts"
import type { SchemaMismatch } from "../../domain/errors/store.ts"
import { parseSessionId, type SessionSummary, sessionStem } from "../../domain/session.ts"
import { connect } from "../Database.ts"
import type { Paths } from "../Paths.ts"
import { type FoundFile, runSession, stemOf } from "./files.ts"
import { migrateSession } from "./schema.ts"
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
  const { database } = paths.sessionFile(found.name)
  return runSession("list", stemOf(found.name), database, () => readFile(database, found)).pipe(
    Effect.catchTag("SessionNotFound", () => Effect.succeed(undefined)),
    Effect.catch((error) => Effect.succeed(broken(found, error.message)))
  )
}

const readFile = (
  database: string,
  found: FoundFile
): Result.Result<SessionSummary, SessionNotFound | StoredDataCorrupt | SchemaMismatch> => {
  const connection = connect(database, { synchronous: "NORMAL" })
  try {
    return Result.gen(function* () {
      yield* migrateSession(connection)
      const text = connection.get<{ readonly session_id: string }>(listingStatements.id)?.session_id
      const id = Result.getOrUndefined(parseSessionId(text ?? ""))
      if (id === undefined || sessionStem(id) !== stemOf(found.name))
        return broken(found, "the file is another session's")
      return yield* summarize({ id, connection })
    })
  } finally {
    connection.close()
  }
}
