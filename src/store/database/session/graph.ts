/**
 * Reads and writes the nodes of a session. Every function that writes runs inside its caller's transaction; moves no head but
 * where it says so.
 *
 * Invariants: what is appended has its parents; a path is answered whole or not at all.
 */
import { Result } from "effect"
import {
  GraphTooLarge,
  InvalidGraph,
  NodeNotFound,
  type SessionNotFound,
  StoredDataCorrupt
} from "../../../domain/errors/session.ts"
import { graphBytesMax, nodeBytesMax, type SessionGraph, type SessionNode } from "../../../domain/session/session.ts"
import { checkBatch, checkPath, isTooDeep, type PathRow, userMessage } from "../../../domain/session/sessionGraph.ts"
import { immediate } from "../Database.ts"
import { checkWhole } from "./graphCheck.ts"
import { type Head, headStatements, moveHead, readHead, type SessionFile, snapshot } from "./head.ts"

// UNION, not UNION ALL: each row once, so a circle in a damaged file ends the recursion.
const path = `WITH RECURSIVE path (seq, parent_node_id, tombstoned) AS (
    SELECT seq, parent_node_id, tombstoned FROM graph_node WHERE node_id = ?1
    UNION
    SELECT g.seq, g.parent_node_id, g.tombstoned FROM path JOIN graph_node g ON g.node_id = path.parent_node_id WHERE path.tombstoned = 0
  )`

/** Every statement about nodes; a test asks EXPLAIN QUERY PLAN about each. */
export const graphStatements = {
  insert:
    "INSERT INTO graph_node (node_id, parent_node_id, node_json, user_message) VALUES (?, ?, ?, ?) ON CONFLICT (node_id) DO NOTHING",
  /** Several rows cost a third less than one by one. */
  insertEight: `INSERT INTO graph_node (node_id, parent_node_id, node_json, user_message) VALUES ${Array.from({ length: 8 }, () => "(?, ?, ?, ?)").join(", ")} ON CONFLICT (node_id) DO NOTHING`,
  insertTwo:
    "INSERT INTO graph_node (node_id, parent_node_id, node_json, user_message) VALUES (?, ?, ?, ?), (?, ?, ?, ?) ON CONFLICT (node_id) DO NOTHING",
  exists: "SELECT 1 AS found FROM graph_node WHERE node_id = ? AND tombstoned = 0",
  seq: "SELECT seq FROM graph_node WHERE node_id = ?",
  stored: "SELECT node_json FROM graph_node WHERE node_id = ?",
  child: "SELECT 1 AS found FROM graph_node WHERE parent_node_id = ? LIMIT 1",
  clear: "DELETE FROM graph_node",
  clearOrphans: "UPDATE session_head SET orphans = 0 WHERE id = 1",
  /** All of it: the one statement that is meant to read the whole table. */
  load: "SELECT node_id, parent_node_id, node_json FROM graph_node WHERE tombstoned = 0 ORDER BY seq",
  size: "SELECT coalesce(sum(length(node_json)), 0) AS bytes FROM graph_node WHERE tombstoned = 0",
  pathSize: `${path} SELECT coalesce(sum(length(g.node_json)), 0) AS bytes FROM path CROSS JOIN graph_node g ON g.seq = path.seq`,
  /** Leaf first; ends at a root, at a tombstone, where a parent is missing, or where a circle closes. */
  path: `${path} SELECT g.node_id, g.parent_node_id, g.node_json, g.tombstoned FROM path CROSS JOIN graph_node g ON g.seq = path.seq`,
  tombstone: "UPDATE graph_node SET tombstoned = 1 WHERE node_id = ?",
  markOrphans:
    "UPDATE session_head SET orphans = 1 WHERE id = 1 AND EXISTS (SELECT 1 FROM graph_node t WHERE t.tombstoned = 1 AND EXISTS (SELECT 1 FROM graph_node c WHERE c.parent_node_id = t.node_id AND c.tombstoned = 0))",
  vacuum: "DELETE FROM graph_node WHERE tombstoned = 1"
} as const

type ReadError = SessionNotFound | StoredDataCorrupt
type WriteError = ReadError | InvalidGraph

const sizeOf = (file: SessionFile, leaf: string | undefined): Result.Result<void, GraphTooLarge> => {
  const { bytes } = file.connection.get<{ readonly bytes: number }>(
    leaf === undefined ? graphStatements.size : graphStatements.pathSize,
    leaf === undefined ? [] : [leaf]
  )!
  return bytes <= graphBytesMax
    ? Result.void
    : Result.fail(new GraphTooLarge({ sessionId: file.id, bytes, bytesMax: graphBytesMax }))
}

interface NodeRow {
  readonly node_id: string
  readonly parent_node_id: string | null
  readonly node_json: string
}

const decodeNodes = (
  { id }: SessionFile,
  rows: ReadonlyArray<NodeRow>
): Result.Result<ReadonlyArray<SessionNode>, StoredDataCorrupt> => {
  const nodes: Array<SessionNode> = []
  for (const row of rows) {
    try {
      nodes.push({ nodeId: row.node_id, parentNodeId: row.parent_node_id, node: JSON.parse(row.node_json) })
    } catch {
      return Result.fail(
        new StoredDataCorrupt({ sessionId: id, what: "node", item: row.node_id, reason: "its content is not JSON" })
      )
    }
  }
  return Result.succeed(nodes)
}

const shown = ({ headRevision, leafNodeId, checkpointRef }: Head) => ({ headRevision, leafNodeId, checkpointRef })

/** G2: the whole graph in the order of its arrival, without tombstones. */
export const loadGraph = (file: SessionFile): Result.Result<SessionGraph, ReadError | GraphTooLarge> =>
  snapshot(file.connection, () =>
    Result.gen(function* () {
      const head = yield* readHead(file)
      yield* checkWhole(file)
      yield* sizeOf(file, undefined)
      const nodes = yield* decodeNodes(file, file.connection.all<NodeRow>(graphStatements.load))
      return { head: shown(head), nodes }
    })
  )

/** G2: the path from a root to a leaf, by default the head's; no leaf, no nodes. */
export const loadActivePath = (
  file: SessionFile,
  given: string | undefined
): Result.Result<SessionGraph, ReadError | NodeNotFound | GraphTooLarge> =>
  snapshot(file.connection, () =>
    Result.gen(function* () {
      const head = yield* readHead(file)
      const leaf = given ?? head.leafNodeId
      if (leaf === null) return { head: shown(head), nodes: [] }
      if (given !== undefined && !nodeExists(file, given)) {
        return yield* Result.fail(new NodeNotFound({ sessionId: file.id, nodeId: given }))
      }
      const nodes = yield* readPath(file, leaf)
      return { head: shown(head), nodes: yield* decodeNodes(file, nodes) }
    })
  )

/** The rows of a path, root first, within the caller's snapshot. */
export const readPath = (
  file: SessionFile,
  leaf: string
): Result.Result<ReadonlyArray<NodeRow & PathRow>, StoredDataCorrupt | GraphTooLarge> => {
  // SQLite takes the rows of a recursion in the order in which they were found; checkPath would notice another.
  const size = sizeOf(file, leaf)
  if (Result.isFailure(size)) return Result.fail(size.failure)
  const checked = checkPath(leaf, file.connection.all<NodeRow & PathRow>(graphStatements.path, [leaf]))
  return Result.mapError(
    checked,
    ({ nodeId, reason }) => new StoredDataCorrupt({ sessionId: file.id, what: "node", item: nodeId, reason })
  )
}

/** True for a node that is there and not tombstoned. */
export const nodeExists = ({ connection }: SessionFile, nodeId: string): boolean =>
  connection.get(graphStatements.exists, [nodeId]) !== undefined

/** Bytes that JSON of more levels than are stored has at least: two for each. */
const deepBytesMin = 1000

/** A node with the text that is stored for it. */
export interface TextNode extends SessionNode {
  readonly text: string
}

/** The text that is stored for a node. */
const withText = (
  file: SessionFile,
  { nodeId, parentNodeId, node }: SessionNode
): Result.Result<TextNode, InvalidGraph> => {
  const refused = (reason: "too_deep" | "too_large") =>
    Result.fail(new InvalidGraph({ sessionId: file.id, nodeId, reason }))
  const text = JSON.stringify(node)
  if (text.length > deepBytesMin && isTooDeep(node)) return refused("too_deep")
  const large = text.length > nodeBytesMax / 4 && Buffer.byteLength(text) > nodeBytesMax
  return large ? refused("too_large") : Result.succeed({ nodeId, parentNodeId, node, text })
}

/** The texts of nodes, made once for their hash and their rows. */
export const withTexts = (
  file: SessionFile,
  nodes: ReadonlyArray<SessionNode>
): Result.Result<ReadonlyArray<TextNode>, InvalidGraph> => {
  const all: Array<TextNode> = []
  for (const node of nodes) {
    const made = withText(file, node)
    if (Result.isFailure(made)) return Result.fail(made.failure)
    all.push(made.success)
  }
  return Result.succeed(all)
}

const rowOf = ({ nodeId, parentNodeId, node, text }: TextNode): ReadonlyArray<string | number | null> => [
  nodeId,
  parentNodeId,
  text,
  userMessage(node) === undefined ? 0 : 1
]

/** Inserts nodes in their order, inside the caller's transaction. */
export const insertNodes = (
  file: SessionFile,
  nodes: ReadonlyArray<TextNode>,
  orphans: boolean
): Result.Result<void, InvalidGraph> => {
  const { id: sessionId, connection } = file
  const batch = checkBatch(nodes)
  if (Result.isFailure(batch)) return Result.fail(new InvalidGraph({ sessionId, ...batch.failure }))
  for (const parent of batch.success) {
    if (!nodeExists(file, parent)) {
      const { nodeId } = nodes.find((node) => node.parentNodeId === parent)!
      return Result.fail(new InvalidGraph({ sessionId, nodeId, reason: "unknown_parent", parentNodeId: parent }))
    }
  }
  const taken = (nodeId: string) => Result.fail(new InvalidGraph({ sessionId, nodeId, reason: "duplicate" }))
  if (orphans) {
    // A vacuumed node's id could close a circle with the children that it left.
    const child = nodes.find((node) => connection.get(graphStatements.child, [node.nodeId]) !== undefined)
    if (child !== undefined) return taken(child.nodeId)
  }
  for (let at = 0; at < nodes.length; ) {
    const count = nodes.length - at >= 8 ? 8 : nodes.length - at >= 2 ? 2 : 1
    const some = nodes.slice(at, at + count)
    const sql =
      count === 8 ? graphStatements.insertEight : count === 2 ? graphStatements.insertTwo : graphStatements.insert
    if (connection.run(sql, some.flatMap(rowOf)) !== count) return taken(oldest(file, some))
    at += count
  }
  return Result.void
}

/** Of nodes that were just inserted, but for one that was there before, that one: its row has the least number. */
const oldest = ({ connection }: SessionFile, nodes: ReadonlyArray<TextNode>): string =>
  nodes
    .map(
      ({ nodeId }) => [connection.get<{ readonly seq: number }>(graphStatements.seq, [nodeId])!.seq, nodeId] as const
    )
    .reduce((least, each) => (each[0] < least[0] ? each : least))[1]

/** Inserts one node, inside the caller's transaction, without a look at its parent. */
export const insertNode = (file: SessionFile, node: SessionNode): Result.Result<void, InvalidGraph> => {
  const made = withText(file, node)
  if (Result.isFailure(made)) return Result.fail(made.failure)
  return file.connection.run(graphStatements.insert, rowOf(made.success)) === 1
    ? Result.void
    : Result.fail(new InvalidGraph({ sessionId: file.id, nodeId: node.nodeId, reason: "duplicate" }))
}

/** Puts a whole graph in the place of what is there, inside the caller's transaction. */
export const replaceNodes = (file: SessionFile, nodes: ReadonlyArray<TextNode>): Result.Result<void, InvalidGraph> => {
  file.connection.run(graphStatements.clear)
  file.connection.run(graphStatements.clearOrphans)
  return insertNodes(file, nodes, false)
}

/** G1: appends nodes, all or nothing; moves no leaf. */
export const append = (
  file: SessionFile,
  nodes: ReadonlyArray<SessionNode>,
  nowMs: number
): Result.Result<void, WriteError> =>
  immediate(file.connection, () =>
    Result.gen(function* () {
      const head = yield* readHead(file)
      yield* insertNodes(file, yield* withTexts(file, nodes), head.orphans)
      file.connection.run(headStatements.touch, [nowMs])
    })
  )

/** G1: swaps the whole graph. The leaf stays if it is still there, else there is none. */
export const replace = (
  file: SessionFile,
  nodes: ReadonlyArray<SessionNode>,
  nowMs: number
): Result.Result<Head, WriteError> =>
  immediate(file.connection, () =>
    Result.gen(function* () {
      const head = yield* readHead(file)
      yield* replaceNodes(file, yield* withTexts(file, nodes))
      const kept = head.leafNodeId !== null && nodeExists(file, head.leafNodeId)
      const next = { ...head, headRevision: head.headRevision + 1, leafNodeId: kept ? head.leafNodeId : null }
      moveHead(file.connection, next, nowMs)
      return next
    })
  )

/** G4: moves the leaf; siblings stay. */
export const branch = (
  file: SessionFile,
  leaf: string | null,
  nowMs: number
): Result.Result<Head, ReadError | NodeNotFound> =>
  immediate(file.connection, () =>
    Result.gen(function* () {
      const head = yield* readHead(file)
      if (leaf !== null && !nodeExists(file, leaf)) {
        return yield* Result.fail(new NodeNotFound({ sessionId: file.id, nodeId: leaf }))
      }
      const next = { ...head, headRevision: head.headRevision + 1, leafNodeId: leaf }
      moveHead(file.connection, next, nowMs)
      return next
    })
  )

/** G3: hides nodes, all or none of them; hiding twice is fine. */
export const tombstone = (
  file: SessionFile,
  ids: ReadonlyArray<string>,
  nowMs: number
): Result.Result<void, ReadError | NodeNotFound> =>
  immediate(file.connection, () =>
    Result.gen(function* () {
      yield* readHead(file)
      for (const nodeId of ids) {
        if (file.connection.run(graphStatements.tombstone, [nodeId]) !== 1) {
          return yield* Result.fail(new NodeNotFound({ sessionId: file.id, nodeId }))
        }
      }
      file.connection.run(headStatements.touch, [nowMs])
    })
  )

/** G3: removes tombstoned rows for good and answers how many. */
export const vacuumNodes = (file: SessionFile, nowMs: number): Result.Result<number, ReadError> =>
  immediate(file.connection, () =>
    Result.gen(function* () {
      yield* readHead(file)
      file.connection.run(graphStatements.markOrphans)
      const removed = file.connection.run(graphStatements.vacuum)
      if (removed > 0) file.connection.run(headStatements.touch, [nowMs])
      return removed
    })
  )
