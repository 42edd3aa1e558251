/**
 * Reads a session's export (see portable.ts) into a fresh session file and believes none of it: every hash, the order, the graph and
 * all references are checked. Holds one line at a time; publishes no file.
 */
import fs from "node:fs"
import { Result, Schema } from "effect"
import { SessionFileInvalid } from "../../../domain/errors/session.ts"
import { checkpointKind } from "../../../domain/session/session.ts"
import { blobExists, blobKey, hashOf, packBlob, storeBlob } from "./blobs.ts"
import { commitStatements } from "./commit.ts"
import { fileStatements } from "./files.ts"
import { retainedBlobs } from "./fork.ts"
import { insertNode, readPath } from "./graph.ts"
import { moveHead, type SessionFile } from "./head.ts"
import { lineBytesMax, PortableHeader, PortableLine, parseJson } from "./portable.ts"

export const importStatements = {
  artifacts: "SELECT artifact_ref, blob_ref, kind FROM artifact_ref ORDER BY artifact_ref",
  nodes: "SELECT count(*) AS nodes FROM graph_node",
  /** Nodes whose parents end somewhere: all of them, unless there is a circle. */
  rooted: `WITH RECURSIVE rooted (node_id) AS (
      SELECT node_id FROM graph_node g WHERE parent_node_id IS NULL
        OR NOT EXISTS (SELECT 1 FROM graph_node p WHERE p.node_id = g.parent_node_id)
      UNION ALL
      SELECT g.node_id FROM rooted CROSS JOIN graph_node g ON g.parent_node_id = rooted.node_id
    ) SELECT count(*) AS nodes FROM rooted`,
  /** Children of what was hidden when the session was exported. */
  markOrphans:
    "UPDATE session_head SET orphans = 1 WHERE id = 1 AND EXISTS (SELECT 1 FROM graph_node g WHERE parent_node_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM graph_node p WHERE p.node_id = g.parent_node_id))"
} as const

/** The lines of an open file, with the bytes of each; undefined for one that is too long. */
function* linesOf(fd: number): Generator<Buffer | undefined> {
  const chunk = Buffer.alloc(1024 * 1024)
  let parts: Array<Buffer> = []
  let held = 0
  for (;;) {
    const count = fs.readSync(fd, chunk, 0, chunk.length, null)
    if (count === 0) break
    let from = 0
    for (;;) {
      const end = chunk.indexOf(10, from)
      if (end < 0 || end >= count) break
      yield Buffer.concat([...parts, chunk.subarray(from, end + 1)])
      parts = []
      held = 0
      from = end + 1
    }
    if (from < count) {
      parts.push(Buffer.from(chunk.subarray(from, count)))
      held += count - from
      if (held > lineBytesMax) return void (yield undefined)
    }
  }
  if (held > 0) yield Buffer.concat(parts)
}

const decodeHeader = Schema.decodeUnknownResult(PortableHeader)
const decodeLine = Schema.decodeUnknownResult(PortableLine)

/** The id that an export was made from. */
export const exportedId = (fd: number, path: string): Result.Result<string, SessionFileInvalid> => {
  const first = linesOf(fd).next().value
  const header = decodeHeader(first === undefined ? undefined : parseJson(first.toString("utf8"))?.value)
  return Result.isSuccess(header)
    ? Result.succeed(header.success.session_id)
    : Result.fail(new SessionFileInvalid({ path, lineNumber: 1, reason: "it is not an export of a session" }))
}

/** Fills a new session file from an export, inside its transaction; anything that does not fit fails with the line where it stands. */
export const importSession = (
  target: SessionFile,
  fd: number,
  path: string,
  nowMs: number
): Result.Result<void, SessionFileInvalid> => {
  const { id, connection } = target
  const hasher = new Bun.CryptoHasher("sha256")
  let line = 0
  let header: typeof PortableHeader.Type | undefined
  let ended = false
  const wrong = (reason: string) => Result.fail(new SessionFileInvalid({ path, lineNumber: line, reason }))
  for (const bytes of linesOf(fd)) {
    line += 1
    if (bytes === undefined) return wrong(`it has more than ${lineBytesMax} bytes`)
    if (ended) return wrong("it comes after the end")
    const value = parseJson(bytes.toString("utf8"))?.value
    if (header === undefined) {
      const decoded = decodeHeader(value)
      if (Result.isFailure(decoded)) return wrong("it is not the head of a session's export of version 1")
      header = decoded.success
      connection.run(fileStatements.insertHead, [id, header.leaf_node_id, header.checkpoint_ref, nowMs])
      const relation = header.parent_session_id === null ? "root" : "child"
      connection.run(fileStatements.insertMeta, [
        header.created_at,
        header.cwd,
        relation,
        header.parent_session_id,
        header.title
      ])
      hasher.update(bytes)
      continue
    }
    const decoded = decodeLine(value)
    if (Result.isFailure(decoded)) return wrong("it is no record of a session")
    const record = decoded.success
    if ("end" in record) {
      if (record.records !== line - 1) return wrong(`there are ${line - 1} records before it, not ${record.records}`)
      if (hasher.copy().digest("hex") !== record.sha256) return wrong("the sha256 of what is before it is another")
      ended = true
      continue
    }
    hasher.update(bytes)
    const problem = writeRecord(target, record, nowMs)
    if (problem !== undefined) return wrong(problem)
  }
  if (header === undefined || !ended) return wrong("the file ends before its last line")
  const problem = problemOfWhole(target, header)
  if (problem !== undefined) return wrong(problem)
  const { head_revision: headRevision, leaf_node_id: leafNodeId, checkpoint_ref: checkpointRef } = header
  moveHead(connection, { headRevision, leafNodeId, checkpointRef, commitCount: header.commit_count }, nowMs)
  return Result.void
}

/** References that name nothing, circles, a broken path: what only the whole shows. */
const problemOfWhole = (
  target: SessionFile,
  { leaf_node_id: leafNodeId, checkpoint_ref: checkpointRef }: typeof PortableHeader.Type
): string | undefined => {
  const { connection } = target
  const count = (sql: string) => connection.get<{ readonly nodes: number }>(sql)!.nodes
  if (count(importStatements.rooted) !== count(importStatements.nodes)) return "its nodes lead back to themselves"
  connection.run(importStatements.markOrphans)
  const damage = (retained: Result.Result<unknown, { readonly message: string }>) =>
    Result.isFailure(retained) ? retained.failure.message : undefined
  const problem =
    (leafNodeId === null ? undefined : damage(readPath(target, leafNodeId))) ??
    (checkpointRef === null ? undefined : damage(retainedBlobs(target, checkpointRef)))
  if (problem !== undefined) return problem
  for (const { artifact_ref: reference, blob_ref: blob, kind } of connection.iterate<ArtifactRow>(
    importStatements.artifacts
  )) {
    if (!blobExists(target, blob)) return `the blob of artifact "${reference}" is missing`
    const broken = kind === checkpointKind ? damage(retainedBlobs(target, blob)) : undefined
    if (broken !== undefined) return broken
  }
  return undefined
}

interface ArtifactRow {
  readonly artifact_ref: string
  readonly blob_ref: string
  readonly kind: string
}

type NodeLine = Extract<typeof PortableLine.Type, { readonly record: "node" }>

const writeNode = (target: SessionFile, line: NodeLine): string | undefined => {
  const { node_id: nodeId, parent_node_id: parentNodeId, node } = line
  const inserted = insertNode(target, { nodeId, parentNodeId, node })
  return Result.isFailure(inserted) ? inserted.failure.message : undefined
}

type Stored = Exclude<typeof PortableLine.Type, { readonly end: true }>

const writeRecord = (target: SessionFile, record: Stored, nowMs: number): string | undefined => {
  if (record.record === "node") return writeNode(target, record)
  if (record.record === "blob") {
    const bytes = new Uint8Array(Buffer.from(record.base64, "base64"))
    if (hashOf(bytes) !== record.hash) return `the bytes of blob ${record.hash} do not have its hash`
    storeBlob(
      target,
      record.hash,
      record.kind,
      packBlob(bytes, { compressible: record.compress, profile: "compact" }),
      nowMs
    )
    return undefined
  }
  if (record.record === "artifact") {
    const { artifact_ref: artifactRef, blob_ref: blobRef, kind } = record
    target.connection.run(commitStatements.putArtifact, [artifactRef, blobRef, blobKey(blobRef), kind])
    return undefined
  }
  const { turn_id: turnId, payload_hash: payloadHash, result } = record
  target.connection.run(commitStatements.putStamp, [target.id, turnId, payloadHash, JSON.stringify(result)])
  return undefined
}
