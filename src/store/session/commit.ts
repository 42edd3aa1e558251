/**
 * Commits a turn: nodes, leaf, checkpoint and artifacts in one transaction, once. Collects nothing (see collect.ts).
 *
 * Invariants: a turn is committed once, however often it is sent; the revision grows by one with each commit; the head never names a
 * node, and neither head nor artifacts a blob, that was not there at that moment.
 */
import { Result, Schema } from "effect"
import {
  CommitRejected,
  HeadConflict,
  type InvalidGraph,
  type SessionNotFound,
  StoredDataCorrupt,
  TurnConflict
} from "../../domain/errors/session.ts"
import {
  type Artifact,
  BlobHash,
  type Commit,
  readCheckpoint,
  type SessionHead,
  type SessionNode
} from "../../domain/session.ts"
import { canonicalJson, isTooDeep } from "../../domain/sessionGraph.ts"
import { immediate } from "../Database.ts"
import { blobExists, blobKey, damagedBlob, findBlob, openBlob } from "./blobs.ts"
import { insertNodes, nodeExists, replaceNodes } from "./graph.ts"
import { type Head, moveHead, readHead, type SessionFile } from "./head.ts"

export const commitStatements = {
  stamp: "SELECT payload_hash, result FROM commit_stamp WHERE session_id = ? AND turn_id = ?",
  putStamp: "INSERT INTO commit_stamp (session_id, turn_id, payload_hash, result) VALUES (?, ?, ?, ?)",
  dropArtifact: "DELETE FROM artifact_ref WHERE artifact_ref = ?",
  putArtifact:
    "INSERT INTO artifact_ref (artifact_ref, blob_ref, blob_id, kind) VALUES (?, ?, ?, ?) ON CONFLICT (artifact_ref) DO UPDATE SET blob_ref = excluded.blob_ref, blob_id = excluded.blob_id, kind = excluded.kind"
} as const

export type CommitError =
  | HeadConflict
  | TurnConflict
  | CommitRejected
  | InvalidGraph
  | SessionNotFound
  | StoredDataCorrupt

export interface Committed {
  readonly head: SessionHead
  /** Commits so far; undefined for a turn that was committed before. */
  readonly commitCount: number | undefined
}

/** Too deep for recursion: refused when it is stored, so any text will do. */
const nodeText = ({ node }: SessionNode): string => (isTooDeep(node) ? "" : canonicalJson(node))

/** sha256 of what a turn says, whatever the order of keys. What it expects of the head is not part of it. */
const payloadHash = (commit: Commit): string => {
  const graph = commit.nodes ?? commit.replace ?? []
  const hasher = new Bun.CryptoHasher("sha256")
  const artifacts = (commit.artifacts ?? []).map(({ artifactRef, blobRef, kind }) => [artifactRef, blobRef, kind])
  const mode = commit.nodes !== undefined ? "append" : commit.replace !== undefined ? "replace" : "unchanged"
  // Absent and null differ.
  let text = JSON.stringify([
    mode,
    [commit.leaf ?? commit.leaf === null],
    [commit.checkpoint ?? commit.checkpoint === null],
    artifacts
  ])
  for (const node of graph) text += `\n${JSON.stringify([node.nodeId, node.parentNodeId])}${nodeText(node)}`
  return hasher.update(text).digest("hex")
}

/** A head as it is stored and exported. */
export const StoredHead = Schema.Struct({
  head_revision: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
  leaf_node_id: Schema.NullOr(Schema.String),
  checkpoint_ref: Schema.NullOr(BlobHash)
})
const decodeHead = Schema.decodeUnknownResult(Schema.fromJsonString(StoredHead))

export const toStored = ({ headRevision, leafNodeId, checkpointRef }: SessionHead): typeof StoredHead.Type => ({
  head_revision: headRevision,
  leaf_node_id: leafNodeId,
  checkpoint_ref: checkpointRef
})

interface Stamp {
  readonly payload_hash: string
  readonly result: string
}

/** G6. `nowMs` is the time of the commit. */
export const commit = (file: SessionFile, given: Commit, nowMs: number): Result.Result<Committed, CommitError> => {
  const { id: sessionId, connection } = file
  const rejected = (field: CommitRejected["field"], reason: string) =>
    Result.fail(new CommitRejected({ sessionId, field, reason }))
  if (given.nodes !== undefined && given.replace !== undefined) {
    return rejected("nodes", "give either nodes to append or the graph to replace, not both")
  }
  const hash = payloadHash(given)
  return immediate(connection, () =>
    Result.gen(function* () {
      const head = yield* readHead(file)
      const stamp = connection.get<Stamp>(commitStatements.stamp, [sessionId, given.turnId])
      if (stamp !== undefined) return yield* replayed(file, stamp, given.turnId, hash)
      if (head.headRevision !== given.expectedRevision) {
        const { expectedRevision: expected } = given
        return yield* Result.fail(new HeadConflict({ sessionId, expected, actual: head.headRevision }))
      }
      if (given.nodes !== undefined) yield* insertNodes(file, given.nodes, head.orphans)
      if (given.replace !== undefined) yield* replaceNodes(file, given.replace)
      const next: Head = {
        headRevision: head.headRevision + 1,
        leafNodeId: yield* chooseLeaf(file, head, given),
        checkpointRef: given.checkpoint === undefined ? head.checkpointRef : given.checkpoint,
        commitCount: head.commitCount + 1,
        orphans: head.orphans
      }
      if (typeof given.checkpoint === "string") yield* checkCheckpoint(file, given.checkpoint, "checkpoint")
      for (const artifact of given.artifacts ?? []) yield* putArtifact(file, artifact)
      moveHead(connection, next, nowMs)
      const { headRevision, leafNodeId, checkpointRef } = next
      const result: SessionHead = { headRevision, leafNodeId, checkpointRef }
      connection.run(commitStatements.putStamp, [sessionId, given.turnId, hash, JSON.stringify(toStored(result))])
      return { head: result, commitCount: next.commitCount }
    })
  )
}

const replayed = (
  { id: sessionId }: SessionFile,
  stamp: Stamp,
  turnId: string,
  hash: string
): Result.Result<Committed, TurnConflict | StoredDataCorrupt> => {
  if (stamp.payload_hash !== hash) return Result.fail(new TurnConflict({ sessionId, turnId }))
  const result = decodeHead(stamp.result)
  if (Result.isSuccess(result)) {
    const { head_revision: headRevision, leaf_node_id: leafNodeId, checkpoint_ref: checkpointRef } = result.success
    return Result.succeed({ head: { headRevision, leafNodeId, checkpointRef }, commitCount: undefined })
  }
  const reason = `the stored result of turn ${turnId} can not be read`
  return Result.fail(new StoredDataCorrupt({ sessionId, what: "head", name: "commit_stamp", reason }))
}

const chooseLeaf = (
  file: SessionFile,
  head: Head,
  { nodes, replace, leaf }: Commit
): Result.Result<string | null, CommitRejected> => {
  const graph = nodes ?? replace
  if (leaf === undefined) {
    const last = graph?.at(-1)?.nodeId
    return Result.succeed(last ?? (replace === undefined ? head.leafNodeId : null))
  }
  const known = leaf === null || graph?.some((node) => node.nodeId === leaf) || nodeExists(file, leaf)
  if (known) return Result.succeed(leaf)
  const reason = `there is no node "${leaf}"`
  return Result.fail(new CommitRejected({ sessionId: file.id, field: "leaf", reason }))
}

/** A checkpoint must be there, be one, and have all that it refers to. */
const checkCheckpoint = (
  file: SessionFile,
  hash: BlobHash,
  field: "checkpoint" | "artifacts"
): Result.Result<void, CommitRejected | StoredDataCorrupt> => {
  const rejected = (reason: string) => Result.fail(new CommitRejected({ sessionId: file.id, field, reason }))
  const row = findBlob(file, hash)
  if (row === undefined) return rejected(`there is no blob ${hash}; put it first`)
  const bytes = openBlob(row)
  if (bytes === undefined) return Result.fail(damagedBlob(file, hash))
  const checkpoint = readCheckpoint(bytes)
  if (Result.isFailure(checkpoint)) return rejected(`blob ${hash} is no checkpoint: ${checkpoint.failure}`)
  const missing = checkpoint.success.refs.find((ref) => !blobExists(file, ref.hash))
  return missing === undefined
    ? Result.void
    : rejected(`checkpoint ${hash} refers to blob ${missing.hash} (${missing.kind}), which is not there; put it first`)
}

const putArtifact = (
  file: SessionFile,
  { artifactRef, blobRef, kind }: Artifact
): Result.Result<void, CommitRejected | StoredDataCorrupt> => {
  if (blobRef === null) {
    file.connection.run(commitStatements.dropArtifact, [artifactRef])
    return Result.void
  }
  if (kind === "checkpoint") {
    const checked = checkCheckpoint(file, blobRef, "artifacts")
    if (Result.isFailure(checked)) return checked
  } else if (!blobExists(file, blobRef)) {
    const reason = `artifact "${artifactRef}" refers to blob ${blobRef}, which is not there; put it first`
    return Result.fail(new CommitRejected({ sessionId: file.id, field: "artifacts", reason }))
  }
  file.connection.run(commitStatements.putArtifact, [artifactRef, blobRef, blobKey(blobRef), kind])
  return Result.void
}
