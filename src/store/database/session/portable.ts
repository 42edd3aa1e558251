/**
 * Writes a session as one portable file (see portableImport.ts for the way back). Publishes no file (see ../files.ts).
 *
 * Format, version 1: UTF-8 JSON lines. First `{"format": "bunker-session", "version": 1, …}`, then one line for each node (in order),
 * blob (base64 of the uncompressed bytes), artifact and commit stamp, last `{"end": true, "records": n, "sha256": …}` over all bytes
 * before it. A blob of an import is young: its age is that of the import.
 */
import fs from "node:fs"
import { Result, Schema } from "effect"
import { type SessionNotFound, StoredDataCorrupt } from "../../../domain/errors/session.ts"
import {
  Artifact,
  BlobHash,
  BlobKind,
  blobBytesMax,
  commitFields,
  nodeBytesMax,
  SessionNode,
  sessionOriginFields
} from "../../../domain/session/session.ts"
import { type BlobRow, blobExists, damagedBlob, openBlob } from "./blobs.ts"
import { StoredHead, toStored } from "./commit.ts"
import { retainedBlobs } from "./fork.ts"
import { checkWhole } from "./graphCheck.ts"
import { readHead, type SessionFile, snapshot } from "./head.ts"
import { summaryStatements } from "./summary.ts"

export const portableStatements = {
  nodes: "SELECT node_id, parent_node_id, node_json FROM graph_node WHERE tombstoned = 0 ORDER BY seq",
  blobs: "SELECT id, hash, kind, compression, content FROM blob ORDER BY id",
  artifacts: "SELECT artifact_ref, blob_ref, kind FROM artifact_ref ORDER BY artifact_ref",
  stamps: "SELECT turn_id, payload_hash, result FROM commit_stamp ORDER BY session_id, turn_id"
} as const

const count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** First line. Keys are those of the wire. */
export const PortableHeader = Schema.Struct({
  format: Schema.Literal("bunker-session"),
  version: Schema.Literal(1),
  session_id: Schema.String,
  created_at: count,
  cwd: sessionOriginFields.cwd,
  title: sessionOriginFields.title,
  parent_session_id: sessionOriginFields.parentSessionId,
  ...StoredHead.fields,
  commit_count: count
})

/** Every other line. */
export const PortableLine = Schema.Union([
  Schema.Struct({
    record: Schema.Literal("node"),
    node_id: SessionNode.fields.nodeId,
    parent_node_id: SessionNode.fields.parentNodeId,
    node: Schema.Json
  }),
  Schema.Struct({
    record: Schema.Literal("blob"),
    hash: BlobHash,
    kind: BlobKind,
    /** Stored compressed. */
    compress: Schema.Boolean,
    base64: Schema.String
  }),
  Schema.Struct({
    record: Schema.Literal("artifact"),
    artifact_ref: Artifact.fields.artifactRef,
    blob_ref: BlobHash,
    kind: BlobKind
  }),
  Schema.Struct({
    record: Schema.Literal("stamp"),
    turn_id: commitFields.turnId,
    payload_hash: BlobHash,
    result: StoredHead
  }),
  Schema.Struct({ end: Schema.Literal(true), records: Schema.Int, sha256: BlobHash })
])

/** Bytes of the longest line: a blob in base64, or a node with its escapes. */
export const lineBytesMax = Math.max(Math.ceil(blobBytesMax / 3) * 4, nodeBytesMax * 6) + 4096

interface NodeRow {
  readonly node_id: string
  readonly parent_node_id: string | null
  readonly node_json: string
}
interface MetaRow {
  readonly created_at: number
  readonly cwd: string | null
  readonly title: string | null
  readonly parent_session_id: string | null
}

/** Writes a session, as it is at one moment, to an open file. Fails rather than export what is damaged. Answers the records written. */
export const exportSession = (
  file: SessionFile,
  fd: number
): Result.Result<number, SessionNotFound | StoredDataCorrupt> => {
  const hasher = new Bun.CryptoHasher("sha256")
  let records = 0
  const write = (line: object) => {
    const text = `${JSON.stringify(line)}\n`
    hasher.update(text)
    fs.writeFileSync(fd, text)
    records += 1
  }
  const { id, connection } = file
  return snapshot(connection, () =>
    Result.gen(function* () {
      const head = yield* readHead(file)
      yield* checkWhole(file)
      const meta = connection.get<MetaRow>(summaryStatements.meta)!
      if (head.checkpointRef !== null) yield* retainedBlobs(file, head.checkpointRef)
      write({
        format: "bunker-session",
        version: 1,
        session_id: id,
        created_at: meta.created_at,
        cwd: meta.cwd,
        title: meta.title,
        parent_session_id: meta.parent_session_id,
        ...toStored(head),
        commit_count: head.commitCount
      })
      for (const { node_id: nodeId, parent_node_id: parentNodeId, node_json: json } of connection.iterate<NodeRow>(
        portableStatements.nodes
      )) {
        const node = parseJson(json)
        if (node === undefined) {
          const reason = "its content is not JSON"
          return yield* Result.fail(new StoredDataCorrupt({ sessionId: id, what: "node", item: nodeId, reason }))
        }
        write({ record: "node", node_id: nodeId, parent_node_id: parentNodeId, node: node.value })
      }
      for (const row of connection.iterate<BlobRow>(portableStatements.blobs)) {
        const bytes = openBlob(row)
        if (bytes === undefined) return yield* Result.fail(damagedBlob(file, row.hash))
        const { hash, kind } = row
        write({
          record: "blob",
          hash,
          kind,
          compress: row.compression === "zstd",
          base64: Buffer.from(bytes).toString("base64")
        })
      }
      for (const row of connection.iterate<{ artifact_ref: string; blob_ref: string; kind: string }>(
        portableStatements.artifacts
      )) {
        if (!blobExists(file, row.blob_ref)) {
          const reason = "its blob is missing"
          return yield* Result.fail(
            new StoredDataCorrupt({ sessionId: id, what: "artifact", item: row.artifact_ref, reason })
          )
        }
        write({ record: "artifact", artifact_ref: row.artifact_ref, blob_ref: row.blob_ref, kind: row.kind })
      }
      for (const row of connection.iterate<{ turn_id: string; payload_hash: string; result: string }>(
        portableStatements.stamps
      )) {
        const result = parseJson(row.result)?.value ?? null
        write({ record: "stamp", turn_id: row.turn_id, payload_hash: row.payload_hash, result })
      }
      const sha256 = hasher.digest("hex")
      fs.writeFileSync(fd, `${JSON.stringify({ end: true, records, sha256 })}\n`)
      return records
    })
  )
}

/** Parsed JSON, undefined for what is none. */
export const parseJson = (text: string): { readonly value: unknown } | undefined => {
  try {
    return { value: JSON.parse(text) }
  } catch {
    return undefined
  }
}
