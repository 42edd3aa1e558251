/**
 * Tells whether the nodes of a session's file are a graph at all: no id twice, no circle of parents. What writes keeps both, so only
 * a damaged file fails. Repairs nothing, and says nothing of parents that are missing, which vacuuming may leave.
 *
 * Invariant: whatever reads a whole graph has passed here within the same snapshot.
 */
import { Result } from "effect"
import { StoredDataCorrupt } from "../../../domain/errors/session.ts"
import { checkBatch } from "../../../domain/session/sessionGraph.ts"
import type { SessionFile } from "./head.ts"

export const graphCheckStatements = {
  /** In the order of the index of ids. */
  twice: "SELECT node_id FROM graph_node GROUP BY node_id HAVING count(*) > 1 LIMIT 1",
  /** Without one whose parent arrived after it, or is itself, no circle can close. */
  backwards:
    "SELECT c.node_id FROM graph_node c CROSS JOIN graph_node p ON p.node_id = c.parent_node_id WHERE p.seq >= c.seq LIMIT 1",
  shape: "SELECT node_id AS nodeId, parent_node_id AS parentNodeId, NULL AS node FROM graph_node ORDER BY seq"
} as const

interface Shape {
  readonly nodeId: string
  readonly parentNodeId: string | null
  readonly node: null
}

/** Fails with `StoredDataCorrupt` for a graph that no walk should trust. Holds ids in memory only where a child came before its parent. */
export const checkWhole = ({ id: sessionId, connection }: SessionFile): Result.Result<void, StoredDataCorrupt> => {
  const corrupt = (name: string, reason: string) =>
    Result.fail(new StoredDataCorrupt({ sessionId, what: "graph", item: name, reason }))
  const twice = connection.get<{ readonly node_id: string }>(graphCheckStatements.twice)
  if (twice !== undefined) return corrupt(twice.node_id, "there are several nodes of this id")
  if (connection.get(graphCheckStatements.backwards) === undefined) return Result.void
  const checked = checkBatch(connection.all<Shape>(graphCheckStatements.shape))
  return Result.isFailure(checked) ? corrupt(checked.failure.nodeId, "its parents lead back to it") : Result.void
}
