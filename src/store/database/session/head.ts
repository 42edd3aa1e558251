/**
 * Reads the one row that says where a session stands, and checks that it can be believed. Moves nothing.
 *
 * Invariant: whoever writes to a session has read its head in the same transaction, so that nobody writes to one that is being deleted.
 */
import { Result } from "effect"
import { SessionNotFound, StoredDataCorrupt } from "../../../domain/errors/session.ts"
import { isBlobHash, type SessionHead, type SessionId } from "../../../domain/session/session.ts"
import type { Connection } from "../Database.ts"

/** An open session file. */
export interface SessionFile {
  readonly id: SessionId
  readonly connection: Connection
}

export const headStatements = {
  head: "SELECT session_id, head_revision, leaf_node_id, checkpoint_ref, commit_count, orphans, deleted FROM session_head WHERE id = 1",
  touch: "UPDATE session_head SET updated_at = max(updated_at, ?) WHERE id = 1",
  move: "UPDATE session_head SET head_revision = ?, leaf_node_id = ?, checkpoint_ref = ?, commit_count = ?, updated_at = max(updated_at, ?) WHERE id = 1"
} as const

interface HeadRow {
  readonly session_id: unknown
  readonly head_revision: unknown
  readonly leaf_node_id: unknown
  readonly checkpoint_ref: unknown
  readonly commit_count: unknown
  readonly orphans: number
  readonly deleted: number
}

export interface Head extends SessionHead {
  readonly commitCount: number
  /** Vacuuming has left a node without its parent. */
  readonly orphans: boolean
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0
const isTextOrNull = (value: unknown): value is string | null => value === null || typeof value === "string"

/** Fails when the session is deleted, or its head can not be decoded. */
export const readHead = ({ id, connection }: SessionFile): Result.Result<Head, SessionNotFound | StoredDataCorrupt> => {
  const row = connection.get<HeadRow>(headStatements.head)
  const corrupt = (reason: string) =>
    Result.fail(new StoredDataCorrupt({ sessionId: id, what: "head", item: "session_head", reason }))
  if (row === undefined) return corrupt("there is none")
  if (row.deleted !== 0) return Result.fail(new SessionNotFound({ sessionId: id }))
  if (row.session_id !== id) return corrupt("it is another session's")
  const { head_revision: headRevision, leaf_node_id: leafNodeId, checkpoint_ref: checkpointRef } = row
  if (!isCount(headRevision) || !isCount(row.commit_count)) return corrupt("its revision is no number")
  if (!isTextOrNull(leafNodeId)) return corrupt("its leaf is no node id")
  if (!isTextOrNull(checkpointRef) || (checkpointRef !== null && !isBlobHash(checkpointRef))) {
    return corrupt("its checkpoint is no hash")
  }
  return Result.succeed({
    headRevision,
    leafNodeId,
    checkpointRef,
    commitCount: row.commit_count,
    orphans: row.orphans !== 0
  })
}

/** Runs several reads over one moment of the file. */
export const snapshot = <A, E>(connection: Connection, body: () => Result.Result<A, E>): Result.Result<A, E> => {
  connection.run("BEGIN")
  try {
    return body()
  } finally {
    if (connection.inTransaction()) connection.run("COMMIT")
  }
}

/** Writes a moved head. */
export const moveHead = (
  connection: Connection,
  head: Pick<Head, "headRevision" | "leafNodeId" | "checkpointRef" | "commitCount">,
  nowMs: number
): void => {
  connection.run(headStatements.move, [head.headRevision, head.leafNodeId, head.checkpointRef, head.commitCount, nowMs])
}
