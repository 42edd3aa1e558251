/**
 * Says what a session is made of: ids, nodes, the head, checkpoints, blobs, and what a commit carries. Decides nothing about graphs
 * (see sessionGraph.ts) and stores nothing.
 */
import { Result, Schema } from "effect"
import { InvalidSessionId } from "../errors/session.ts"

const bytesBetween = (minimum: number, maximum: number) =>
  Schema.makeFilter((text: string) => {
    const bytes = Buffer.byteLength(text)
    return bytes >= minimum && bytes <= maximum ? undefined : `it must have ${minimum} to ${maximum} bytes`
  })

/** Text that names something within a session: 1 to 256 bytes. */
const Label = Schema.String.check(bytesBetween(1, 256))

/** Name of a session: any text of 1 to 200 bytes without control characters. */
export type SessionId = string & { readonly SessionId: unique symbol }

/** Bytes of a session's id. */
const sessionIdBytesMax = 200

/** Parses a session's id at the door. */
export const parseSessionId = (text: string): Result.Result<SessionId, InvalidSessionId> => {
  const bytes = Buffer.byteLength(text)
  const reason =
    bytes === 0
      ? "it is empty"
      : bytes > sessionIdBytesMax
        ? `it has ${bytes} bytes`
        : /[\x00-\x1f\x7f-\x9f]/.test(text)
          ? "it contains a control character"
          : !text.isWellFormed()
            ? "it is not well-formed Unicode"
            : undefined
  return reason === undefined
    ? Result.succeed(text as SessionId)
    : Result.fail(new InvalidSessionId({ sessionId: text.toWellFormed(), reason }))
}

/** File name without ending: what of the id is safe in a file name, then 16 digits of the sha256 of the whole id. */
export const sessionStem = (id: SessionId): string => {
  const safe = id.replace(/[^A-Za-z0-9_.-]/g, "_").replace(/^[.-]/, "_")
  return `${safe.slice(0, 48)}-${new Bun.CryptoHasher("sha256").update(id).digest("hex").slice(0, 16)}`
}

/** sha256 of a blob's uncompressed bytes: 64 lower-case hexadecimal digits. */
export const BlobHash = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))
export type BlobHash = typeof BlobHash.Type
export const isBlobHash = Schema.is(BlobHash)

/** What a blob is to whoever refers to it: `checkpoint` has children (see `readCheckpoint`), others have none. */
export const BlobKind = Schema.String.check(Schema.isPattern(/^[a-z][a-z0-9_]{0,63}$/))
export type BlobKind = typeof BlobKind.Type
export const checkpointKind: BlobKind = "checkpoint"

/** Most bytes in a blob. */
export const blobBytesMax = 64 * 1024 * 1024
/** Most bytes in a node's JSON text. */
export const nodeBytesMax = 4 * 1024 * 1024
/** Most bytes of nodes in one answer. */
export const graphBytesMax = 256 * 1024 * 1024

/** A node as it is given. */
export const SessionNode = Schema.Struct({
  nodeId: Label,
  /** Null for a root. */
  parentNodeId: Schema.NullOr(Label),
  /** Whatever the agent keeps; `{"role": "user", "content": …}` counts as a message of the user. */
  node: Schema.Json
})
export type SessionNode = typeof SessionNode.Type

/** What moves: revision, leaf and checkpoint. */
export const SessionHead = Schema.Struct({
  /** 0 in a new session; one more with every commit, branch and replacement. */
  headRevision: Schema.Int,
  leafNodeId: Schema.NullOr(Schema.String),
  checkpointRef: Schema.NullOr(Schema.String)
})
export type SessionHead = typeof SessionHead.Type

/** A graph, or one path of it from root to leaf, under the head of the same moment. */
export const SessionGraph = Schema.Struct({ head: SessionHead, nodes: Schema.Array(SessionNode) })
export type SessionGraph = typeof SessionGraph.Type

export const Artifact = Schema.Struct({
  artifactRef: Label,
  /** Null drops the reference. */
  blobRef: Schema.NullOr(BlobHash),
  kind: BlobKind
})
export type Artifact = typeof Artifact.Type

/** What a commit says, without the session's id. */
export const commitFields = {
  /** Unique per turn: a retry with the same id and payload answers what the first one did. */
  turnId: Label,
  /** Revision of the head that the turn was made on. */
  expectedRevision: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
  /** Nodes to append. */
  nodes: Schema.optionalKey(Schema.Array(SessionNode)),
  /** The whole graph anew; not together with `nodes`. Neither leaves the graph as it is. */
  replace: Schema.optionalKey(Schema.Array(SessionNode)),
  /** The new leaf; absent: the last of the nodes that are given, else as it was. Null: none. */
  leaf: Schema.optionalKey(Schema.NullOr(Label)),
  /** Hash of the new checkpoint; absent: as it was. Null: none. */
  checkpoint: Schema.optionalKey(Schema.NullOr(BlobHash)),
  /** Artifact references to set or drop. */
  artifacts: Schema.optionalKey(Schema.Array(Artifact))
}
export interface Commit {
  readonly turnId: string
  readonly expectedRevision: number
  readonly nodes?: ReadonlyArray<SessionNode>
  readonly replace?: ReadonlyArray<SessionNode>
  readonly leaf?: string | null
  readonly checkpoint?: BlobHash | null
  readonly artifacts?: ReadonlyArray<Artifact>
}

/** What a collection did. */
export const CollectionReport = Schema.Struct({
  /** The head's checkpoint and the artifact references, those that are absent included. */
  rootCount: Schema.Int,
  /** Blobs that exist and are reached. */
  retainedBlobCount: Schema.Int,
  /** Blobs that nothing reaches and that are younger than the grace period. */
  youngBlobCount: Schema.Int,
  deletedBlobCount: Schema.Int
})
export type CollectionReport = typeof CollectionReport.Type

/** What vacuuming did. */
export const VacuumReport = Schema.Struct({
  removedNodeCount: Schema.Int,
  /** Bytes that the file gave back; 0 when it was in use. */
  reclaimedBytes: Schema.Int
})
export type VacuumReport = typeof VacuumReport.Type

/** How a session came to be. */
export const sessionOriginFields = {
  /** Working directory that the session is about. */
  cwd: Schema.NullOr(Schema.String.check(bytesBetween(0, 4096))),
  title: Schema.NullOr(Schema.String.check(bytesBetween(0, 1024))),
  /** The session that this one is a child of; null for a root. */
  parentSessionId: Schema.NullOr(Schema.String)
}
export interface SessionOrigin {
  readonly cwd: string | null
  readonly title: string | null
  readonly parentSessionId: string | null
}

/** A session as it is listed. */
export const SessionSummary = Schema.Struct({
  sessionId: Schema.String,
  ...sessionOriginFields,
  relation: Schema.Literals(["root", "child"]),
  /** Unix milliseconds. */
  createdAt: Schema.Int,
  /** Last change, unix milliseconds. */
  updatedAt: Schema.Int,
  headRevision: Schema.Int,
  /** At most 200 characters of it; null when there is none. */
  firstUserMessage: Schema.NullOr(Schema.String),
  userMessageCount: Schema.Int,
  /** Why the session can not be read; null for one that can. Then only its file's name, as the id, and times are true. */
  problem: Schema.NullOr(Schema.String)
})
export type SessionSummary = typeof SessionSummary.Type

/** A session as it is shown: what the list says, the head, and how much there is. */
export const SessionInfo = Schema.Struct({
  ...SessionSummary.fields,
  leafNodeId: Schema.NullOr(Schema.String),
  checkpointRef: Schema.NullOr(Schema.String),
  nodeCount: Schema.Int,
  tombstonedNodeCount: Schema.Int,
  blobCount: Schema.Int,
  artifactCount: Schema.Int,
  commitCount: Schema.Int,
  /** Bytes of the session's files. */
  fileBytes: Schema.Int
})
export type SessionInfo = typeof SessionInfo.Type

/** What a checkpoint blob says of other blobs. */
export interface Checkpoint {
  /** The refs that are not null, in the order of the format. */
  readonly refs: ReadonlyArray<{ readonly hash: BlobHash; readonly kind: BlobKind }>
}

const checkpointRefs = {
  tool_state_ref: "tool_state",
  plugin_snapshot_ref: "plugin_snapshot",
  execution_state_ref: "execution_state"
}

/**
 * Reads a checkpoint manifest: a JSON object of `turn_state`, `tool_state_ref`, `plugin_snapshot_ref`, `plugin_snapshot_revision`
 * and `execution_state_ref`, the refs being hashes or null. Fails with what is wrong with it.
 */
export const readCheckpoint = (bytes: Uint8Array): Result.Result<Checkpoint, string> => {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes))
  } catch {
    return Result.fail("it is not JSON")
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return Result.fail("it is not a JSON object")
  const refs: Array<{ readonly hash: BlobHash; readonly kind: BlobKind }> = []
  for (const [field, kind] of Object.entries(checkpointRefs)) {
    const hash = (value as Readonly<Record<string, unknown>>)[field] ?? null
    if (hash === null) continue
    if (!isBlobHash(hash)) return Result.fail(`its ${field} is not a hash`)
    refs.push({ hash, kind })
  }
  return Result.succeed({ refs })
}
