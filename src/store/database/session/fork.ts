/** Copies a session's active path, and what its checkpoint retains, into a new session. Changes nothing in the source. */
import { Result } from "effect"
import type { GraphTooLarge, SessionNotFound } from "../../../domain/errors/session.ts"
import { StoredDataCorrupt } from "../../../domain/errors/session.ts"
import { type BlobHash, readCheckpoint } from "../../../domain/session/session.ts"
import { userMessage } from "../../../domain/session/sessionGraph.ts"
import { type BlobRow, blobKey, blobStatements, findBlob, openBlob } from "./blobs.ts"
import { writeBeginning } from "./files.ts"
import { graphStatements, readPath } from "./graph.ts"
import { checkWhole } from "./graphCheck.ts"
import { readHead, type SessionFile, snapshot } from "./head.ts"
import { summaryStatements } from "./summary.ts"

type ForkError = SessionNotFound | StoredDataCorrupt | GraphTooLarge

/** G4: fills a new file from a source, inside the new file's transaction and over one moment of the source. */
export const forkInto = (source: SessionFile, target: SessionFile, nowMs: number): Result.Result<void, ForkError> =>
  snapshot(source.connection, () =>
    Result.gen(function* () {
      const { leafNodeId, checkpointRef } = yield* readHead(source)
      yield* checkWhole(source)
      const nodes = leafNodeId === null ? [] : yield* readPath(source, leafNodeId)
      const retained = checkpointRef === null ? [] : yield* retainedBlobs(source, checkpointRef)
      const meta = source.connection.get<{ readonly cwd: string | null; readonly title: string | null }>(
        summaryStatements.meta
      )
      const origin = { cwd: meta?.cwd ?? null, title: meta?.title ?? null, parentSessionId: source.id }
      writeBeginning(target.connection, target.id, origin, { leafNodeId, checkpointRef }, nowMs)
      for (const { node_id: nodeId, parent_node_id: parent, node_json: json } of nodes) {
        target.connection.run(graphStatements.insert, [nodeId, parent, json, isUserMessage(json) ? 1 : 0])
      }
      for (const hash of retained) copyBlob(source, target, hash, nowMs)
    })
  )

const isUserMessage = (json: string): boolean => {
  try {
    return userMessage(JSON.parse(json)) !== undefined
  } catch {
    return false
  }
}

/** The checkpoint and its children, each once, each there and whole. */
export const retainedBlobs = (
  source: SessionFile,
  checkpoint: BlobHash
): Result.Result<ReadonlySet<BlobHash>, StoredDataCorrupt> => {
  const damaged = (name: BlobHash, reason: string) =>
    Result.fail(new StoredDataCorrupt({ sessionId: source.id, what: "checkpoint", item: name, reason }))
  const row = findBlob(source, checkpoint)
  if (row === undefined) return damaged(checkpoint, "it is missing")
  const bytes = openBlob(row)
  const read = bytes === undefined ? Result.fail("its bytes do not have its hash") : readCheckpoint(bytes)
  if (Result.isFailure(read)) return damaged(checkpoint, read.failure)
  const hashes = new Set([checkpoint, ...read.success.refs.map((ref) => ref.hash)])
  for (const hash of hashes) {
    const found = findBlob(source, hash)
    if (found === undefined || openBlob(found) === undefined) {
      return damaged(hash, found === undefined ? "it is missing" : "its bytes do not have its hash")
    }
  }
  return Result.succeed(hashes)
}

const copyBlob = (source: SessionFile, target: SessionFile, hash: BlobHash, nowMs: number): void => {
  const row: BlobRow = findBlob(source, hash)!
  const taken = target.connection.all<{ readonly id: number }>(blobStatements.taken, [blobKey(hash)])
  let id = blobKey(hash)
  while (taken.some((each) => each.id === id)) id += 1
  target.connection.run(blobStatements.insert, [id, hash, row.kind, row.compression, nowMs, row.content])
}
