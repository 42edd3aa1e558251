/** Reads what is listed and shown of a session. Writes nothing. */
import { Result } from "effect"
import type { SessionNotFound, StoredDataCorrupt } from "../../../domain/errors/session.ts"
import type { SessionInfo, SessionSummary } from "../../../domain/session/session.ts"
import { userMessage } from "../../../domain/session/sessionGraph.ts"
import { checkWhole } from "./graphCheck.ts"
import { readHead, type SessionFile, snapshot } from "./head.ts"

export const summaryStatements = {
  meta: "SELECT m.created_at, m.cwd, m.relation, m.parent_session_id, m.title, h.updated_at FROM session_meta m JOIN session_head h ON h.id = m.id WHERE m.id = 1",
  firstUserMessage: "SELECT node_json FROM graph_node WHERE user_message = 1 AND tombstoned = 0 ORDER BY seq LIMIT 1",
  userMessages: "SELECT count(*) AS messages FROM graph_node WHERE user_message = 1 AND tombstoned = 0",
  nodes: "SELECT count(*) AS nodes FROM graph_node",
  tombstones: "SELECT count(*) AS nodes FROM graph_node WHERE tombstoned = 1",
  blobs: "SELECT count(*) AS blobs FROM blob",
  artifacts: "SELECT count(*) AS artifacts FROM artifact_ref"
} as const

/** Most nodes of a graph that a list checks, some 40 ms of work; a larger one is checked where it is read. */
const checkedMax = 10_000
/** Characters of the first message that are shown. */
const excerptMax = 200

interface MetaRow {
  readonly created_at: number
  readonly cwd: string | null
  readonly relation: "root" | "child"
  readonly parent_session_id: string | null
  readonly title: string | null
  readonly updated_at: number
}

const excerpt = (json: string | undefined): string | null => {
  if (json === undefined) return null
  try {
    const words = userMessage(JSON.parse(json)) ?? ""
    return words.length > excerptMax ? `${words.slice(0, excerptMax - 1).toWellFormed()}…` : words
  } catch {
    return ""
  }
}

/** G10: what a list says of one session. */
export const summarize = (file: SessionFile): Result.Result<SessionSummary, SessionNotFound | StoredDataCorrupt> =>
  snapshot(file.connection, () => {
    const { nodes } = file.connection.get<{ readonly nodes: number }>(summaryStatements.nodes)!
    return nodes > checkedMax ? readSummary(file) : Result.flatMap(checkWhole(file), () => readSummary(file))
  })

const readSummary = (file: SessionFile): Result.Result<SessionSummary, SessionNotFound | StoredDataCorrupt> =>
  Result.map(readHead(file), (head) => {
    const { connection } = file
    const meta = connection.get<MetaRow>(summaryStatements.meta)
    const first = connection.get<{ readonly node_json: string }>(summaryStatements.firstUserMessage)
    const { messages } = connection.get<{ readonly messages: number }>(summaryStatements.userMessages)!
    return {
      sessionId: file.id,
      cwd: meta?.cwd ?? null,
      title: meta?.title ?? null,
      parentSessionId: meta?.parent_session_id ?? null,
      relation: meta?.relation ?? "root",
      createdAt: meta?.created_at ?? 0,
      updatedAt: meta?.updated_at ?? 0,
      headRevision: head.headRevision,
      firstUserMessage: excerpt(first?.node_json),
      userMessageCount: messages,
      problem: null
    }
  })

/** The whole description of one session; `fileBytes` is measured by the caller. */
export const describeSession = (
  file: SessionFile,
  fileBytes: number
): Result.Result<SessionInfo, SessionNotFound | StoredDataCorrupt> =>
  snapshot(file.connection, () =>
    Result.gen(function* () {
      const { connection } = file
      const summary = yield* readSummary(file)
      const { leafNodeId, checkpointRef, commitCount } = yield* readHead(file)
      const { nodes } = connection.get<{ readonly nodes: number }>(summaryStatements.nodes)!
      const tombstones = connection.get<{ readonly nodes: number }>(summaryStatements.tombstones)!.nodes
      return {
        ...summary,
        leafNodeId,
        checkpointRef,
        nodeCount: nodes - tombstones,
        tombstonedNodeCount: tombstones,
        blobCount: connection.get<{ readonly blobs: number }>(summaryStatements.blobs)!.blobs,
        artifactCount: connection.get<{ readonly artifacts: number }>(summaryStatements.artifacts)!.artifacts,
        commitCount,
        fileBytes
      }
    })
  )
