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
} from "../../../domain/errors/session.ts"
import {
  type Artifact,
  BlobHash,
  type Commit,
  readCheckpoint,
  type SessionHead
} from "../../../domain/session/session.ts"
import { canonicalText } from "../../../domain/session/sessionGraph.ts"
import { immediate } from "../Database.ts"
import { blobExists, blobKey, damagedBlob, findBlob, openBlob } from "./blobs.ts"
import { graphStatements, insertNodes, nodeExists, replaceNodes, type TextNode, withTexts } from "./graph.ts"
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

/**
 * sha256 of what a turn says, given the texts of its nodes. What it expects of the head is not part of it: a retry that has looked
 * again says the same.
 */
const payloadHash = (commit: Commit, nodes: ReadonlyArray<TextNode>): string => {
  const artifacts = (commit.artifacts ?? []).map(({ artifactRef, blobRef, kind }) => [artifactRef, blobRef, kind])
  const mode = commit.nodes !== undefined ? "append" : commit.replace !== undefined ? "replace" : "unchanged"
  const { leaf = false, checkpoint = false } = commit
  let text = JSON.stringify([mode, leaf, checkpoint, artifacts])
  for (const { nodeId, parentNodeId, text: json } of nodes) {
    text += `\n${nodeId.length}:${nodeId}${parentNodeId === null ? "-" : `${parentNodeId.length}:${parentNodeId}`}${json}`
  }
  return new Bun.CryptoHasher("sha256").update(text).digest("hex")
}

/** The nodes with the texts that are stored for them, where these differ in the order of their keys only. */
const asStored = ({ connection }: SessionFile, nodes: ReadonlyArray<TextNode>): ReadonlyArray<TextNode> =>
  nodes.map((node) => {
    const stored = connection.get<{ readonly node_json: string }>(graphStatements.stored, [node.nodeId])?.node_json
    if (stored === undefined || stored.length !== node.text.length) return node
    return sameJson(stored, node.node) ? { ...node, text: stored } : node
  })

const sameJson = (text: string, value: unknown): boolean => {
  try {
    return canonicalText(JSON.parse(text)) === canonicalText(value)
  } catch {
    return false
  }
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
  const texts = withTexts(file, given.nodes ?? given.replace ?? [])
  if (Result.isFailure(texts)) return Result.fail(texts.failure)
  const nodes = texts.success
  const hash = payloadHash(given, nodes)
  return immediate(connection, () =>
    Result.gen(function* () {
      const head = yield* readHead(file)
      const stamp = connection.get<Stamp>(commitStatements.stamp, [sessionId, given.turnId])
      if (stamp !== undefined) {
        const same = stamp.payload_hash === hash || stamp.payload_hash === payloadHash(given, asStored(file, nodes))
        return yield* replayed(file, stamp, given.turnId, same)
      }
      if (head.headRevision !== given.expectedRevision) {
        const { expectedRevision: expected } = given
        return yield* Result.fail(new HeadConflict({ sessionId, expected, actual: head.headRevision }))
      }
      if (given.nodes !== undefined) yield* insertNodes(file, nodes, head.orphans)
      if (given.replace !== undefined) yield* replaceNodes(file, nodes)
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
  same: boolean
): Result.Result<Committed, TurnConflict | StoredDataCorrupt> => {
  if (!same) return Result.fail(new TurnConflict({ sessionId, turnId }))
  const result = decodeHead(stamp.result)
  if (Result.isSuccess(result)) {
    const { head_revision: headRevision, leaf_node_id: leafNodeId, checkpoint_ref: checkpointRef } = result.success
    return Result.succeed({ head: { headRevision, leafNodeId, checkpointRef }, commitCount: undefined })
  }
  const reason = `the stored result of turn ${turnId} can not be read`
  return Result.fail(new StoredDataCorrupt({ sessionId, what: "head", item: "commit_stamp", reason }))
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
