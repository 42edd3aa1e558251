/**
 * Collects blobs that nothing reaches: mark into a temporary table, sweep by key, one write transaction. Removes nothing else.
 *
 * Invariants: a blob that is reached is never deleted; what a checkpoint refers to is known only from its verified bytes, so one
 * that can not be read, and a graph that is damaged, stop the collection before anything is deleted; memory does not grow with the number of blobs.
 */
import { Result } from "effect"
import { type SessionNotFound, StoredDataCorrupt } from "../../../domain/errors/session.ts"
import {
  type BlobHash,
  type CollectionReport,
  checkpointKind,
  readCheckpoint
} from "../../../domain/session/session.ts"
import { type Connection, immediate } from "../Database.ts"
import { blobIs, blobKey, findBlob, openBlob } from "./blobs.ts"
import { checkWhole } from "./graphCheck.ts"
import { readHead, type SessionFile } from "./head.ts"

export const collectStatements = {
  countRoots: "SELECT count(*) AS roots FROM artifact_ref",
  /** Whatever a reference holds that is no hash. */
  badArtifact:
    "SELECT artifact_ref FROM artifact_ref WHERE length(blob_ref) <> 64 OR blob_ref GLOB '*[^0-9a-f]*' OR printf('%013x', blob_id) <> substr(blob_ref, 1, 13) LIMIT 1",
  /** In the order of the keys, which the limit keeps; `+` keeps SQLite from building an index over all hashes. */
  markArtifacts:
    "INSERT OR IGNORE INTO temp.live SELECT b.id FROM (SELECT blob_id, blob_ref FROM artifact_ref ORDER BY blob_id LIMIT -1) a CROSS JOIN blob b ON b.id BETWEEN a.blob_id AND a.blob_id + 7 AND +b.hash = a.blob_ref",
  checkpoints: "SELECT DISTINCT blob_ref FROM artifact_ref WHERE kind = ? ORDER BY blob_id",
  mark: `INSERT OR IGNORE INTO temp.live SELECT id FROM blob WHERE ${blobIs}`,
  countLive: "SELECT count(*) AS live FROM temp.live",
  countBlobs: "SELECT count(*) AS blobs FROM blob",
  /** One stretch of keys: the rows to delete are gathered before they go, so a stretch bounds the memory. */
  sweep:
    "DELETE FROM blob WHERE id >= ?1 AND id < ?2 AND (created_at <= ?3 OR created_at > ?4) AND NOT EXISTS (SELECT 1 FROM temp.live WHERE live.id = blob.id)",
  clear: "DELETE FROM temp.live"
} as const

/** One more than the greatest key that a blob can have. */
const keysEnd = 2 ** 52 + 8
/** Pages of the file to each stretch of keys, 16 MiB. */
const pagesPerStretch = 4096

/** G7, G8. Blobs that are younger than `graceMs` stay. */
export const collect = (
  file: SessionFile,
  graceMs: number,
  nowMs: number
): Result.Result<CollectionReport, SessionNotFound | StoredDataCorrupt> => {
  const { connection } = file
  connection.script("CREATE TEMP TABLE IF NOT EXISTS live (id INTEGER PRIMARY KEY) STRICT")
  return immediate(connection, () =>
    Result.gen(function* () {
      connection.run(collectStatements.clear)
      const head = yield* readHead(file)
      yield* checkWhole(file)
      const { roots } = connection.get<{ readonly roots: number }>(collectStatements.countRoots)!
      yield* markArtifacts(file)
      if (head.checkpointRef !== null) yield* markCheckpoint(file, head.checkpointRef)
      const { live } = connection.get<{ readonly live: number }>(collectStatements.countLive)!
      const deleted = sweep(connection, nowMs - graceMs, nowMs + graceMs)
      const { blobs } = connection.get<{ readonly blobs: number }>(collectStatements.countBlobs)!
      connection.run(collectStatements.clear)
      return {
        rootCount: roots + (head.checkpointRef === null ? 0 : 1),
        retainedBlobCount: live,
        youngBlobCount: blobs - live,
        deletedBlobCount: deleted
      }
    })
  )
}

const markArtifacts = (file: SessionFile): Result.Result<void, StoredDataCorrupt> => {
  const { id: sessionId, connection } = file
  const bad = connection.get<{ readonly artifact_ref: string }>(collectStatements.badArtifact)
  if (bad !== undefined) {
    const reason = "it refers to no hash"
    return Result.fail(new StoredDataCorrupt({ sessionId, what: "artifact", item: bad.artifact_ref, reason }))
  }
  connection.run(collectStatements.markArtifacts)
  // Marked already as what else it is; visited again as a checkpoint.
  for (const row of connection.iterate<{ readonly blob_ref: BlobHash }>(collectStatements.checkpoints, [
    checkpointKind
  ])) {
    const marked = markCheckpoint(file, row.blob_ref)
    if (Result.isFailure(marked)) return marked
  }
  return Result.void
}

/** Marks a checkpoint and what it retains; one that is absent retains nothing. */
const markCheckpoint = (file: SessionFile, hash: BlobHash): Result.Result<void, StoredDataCorrupt> => {
  const row = findBlob(file, hash)
  if (row === undefined) return Result.void
  const bytes = openBlob(row)
  const checkpoint = bytes === undefined ? Result.fail("its bytes do not have its hash") : readCheckpoint(bytes)
  if (Result.isFailure(checkpoint)) {
    const { failure: reason } = checkpoint
    return Result.fail(new StoredDataCorrupt({ sessionId: file.id, what: "checkpoint", item: hash, reason }))
  }
  for (const each of [hash, ...checkpoint.success.refs.map((ref) => ref.hash)]) {
    file.connection.run(collectStatements.mark, [blobKey(each), each])
  }
  return Result.void
}

/** Blobs from before the cutoff, and from so far ahead that a wrong clock dated them. */
const sweep = (connection: Connection, cutoffMs: number, aheadMs: number): number => {
  const { page_count: pages } = connection.get<{ readonly page_count: number }>("PRAGMA page_count")!
  const stretches = Math.min(4096, Math.max(1, Math.ceil(pages / pagesPerStretch)))
  let deleted = 0
  for (let stretch = 0; stretch < stretches; stretch += 1) {
    const from = Math.floor((keysEnd / stretches) * stretch)
    const to = stretch === stretches - 1 ? keysEnd : Math.floor((keysEnd / stretches) * (stretch + 1))
    deleted += connection.run(collectStatements.sweep, [from, to, cutoffMs, aheadMs])
  }
  return deleted
}
