/**
 * Decides about session graphs: whether nodes may be added, whether rows are a path, which nodes are a user's words, how a tree is
 * drawn. Pure.
 */
import { Result } from "effect"
import type { SessionNode } from "./session.ts"

export interface GraphProblem {
  readonly nodeId: string
  readonly reason: "duplicate" | "unknown_parent" | "cycle"
  readonly parentNodeId?: string
}

/**
 * Checks nodes that are added together: no id twice, no circle among them. Answers the parents that must be there already. A parent
 * may come after its child.
 */
export const checkBatch = (nodes: ReadonlyArray<SessionNode>): Result.Result<ReadonlySet<string>, GraphProblem> => {
  const parents = new Map<string, string | null>()
  for (const { nodeId, parentNodeId } of nodes) {
    if (parents.has(nodeId)) return Result.fail({ nodeId, reason: "duplicate" })
    parents.set(nodeId, parentNodeId)
  }
  const outside = new Set<string>()
  /** Nodes whose parents are known to end. */
  const settled = new Set<string>()
  for (const { nodeId } of nodes) {
    const walked: Array<string> = []
    const seen = new Set<string>()
    let at: string | null = nodeId
    while (at !== null && !settled.has(at)) {
      const parent = parents.get(at)
      if (parent === undefined) {
        outside.add(at)
        break
      }
      if (seen.has(at)) return Result.fail({ nodeId: at, reason: "cycle" })
      seen.add(at)
      walked.push(at)
      at = parent
    }
    for (const each of walked) settled.add(each)
  }
  return Result.succeed(outside)
}

/** A row on the way from a leaf to its root. */
export interface PathRow {
  readonly node_id: string
  readonly parent_node_id: string | null
  readonly tombstoned: number
}

export interface PathProblem {
  readonly nodeId: string
  readonly reason: string
}

/** Checks that rows, leaf first, are a whole path to a root, and puts the root first. */
export const checkPath = <Row extends PathRow>(
  leaf: string,
  rows: ReadonlyArray<Row>
): Result.Result<ReadonlyArray<Row>, PathProblem> => {
  const seen = new Set<string>()
  let wanted: string | null = leaf
  for (const row of rows) {
    if (wanted !== null && seen.has(wanted))
      return Result.fail({ nodeId: wanted, reason: "its parents lead back to it" })
    if (row.node_id !== wanted) {
      if (seen.has(row.node_id)) return Result.fail({ nodeId: row.node_id, reason: "there are two nodes of this id" })
      break
    }
    if (row.tombstoned !== 0) {
      return Result.fail({ nodeId: row.node_id, reason: "it is tombstoned and has descendants on the path" })
    }
    seen.add(row.node_id)
    wanted = row.parent_node_id
  }
  if (wanted !== null && seen.has(wanted)) return Result.fail({ nodeId: wanted, reason: "its parents lead back to it" })
  if (wanted !== null) return Result.fail({ nodeId: wanted, reason: "it is missing and has descendants on the path" })
  return Result.succeed(rows.toReversed())
}

/** Most levels of arrays and objects in a node. */
const depthMax = 500

/** True when JSON is nested deeper than is stored. */
export const isTooDeep = (value: unknown, depth = 0): boolean => {
  if (typeof value !== "object" || value === null) return false
  if (depth >= depthMax) return true
  for (const key in value) if (isTooDeep((value as Readonly<Record<string, unknown>>)[key], depth + 1)) return true
  return false
}

/**
 * A text that is the same for equal JSON, whatever the order of keys, and another for any other JSON: what a payload is compared by.
 * Texts stand with their length instead of quotes, which is several times faster to make than JSON. What is deeper than is stored
 * is left out.
 */
export const canonicalText = (value: unknown, depth = 0): string => {
  if (typeof value === "string") return `s${value.length}:${value}`
  if (typeof value !== "object" || value === null) return `${value};`
  if (depth >= depthMax) return "!"
  if (Array.isArray(value)) {
    let text = `[${value.length}:`
    for (const item of value) text += canonicalText(item, depth + 1)
    return text
  }
  const fields = value as Readonly<Record<string, unknown>>
  const keys = Object.keys(fields)
  if (keys.length > 1) keys.sort()
  let text = `{${keys.length}:`
  for (const key of keys) text += `${key.length}:${key}${canonicalText(fields[key], depth + 1)}`
  return text
}

type Fields = Readonly<Record<string, unknown>>
const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/**
 * The words of a user's message, undefined for any other node. A user's message has `role` or `type` "user", itself or in
 * `message`, and its `content` (or `text`) is text or a list of parts with `text`.
 */
export const userMessage = (node: unknown): string | undefined => {
  if (!isFields(node)) return undefined
  const inner = isFields(node["message"]) ? node["message"] : node
  if (![node["role"], node["type"], inner["role"]].includes("user")) return undefined
  const content = inner["content"] ?? inner["text"]
  if (typeof content === "string") return content
  if (!Array.isArray(content)) return ""
  const parts = content.map((part: unknown) => (isFields(part) ? part["text"] : part))
  return parts.filter((text) => typeof text === "string").join(" ")
}

/** One line of a drawn tree. */
export interface TreeLine {
  readonly node: SessionNode
  /** `│ ├─ ` and the like. */
  readonly branch: string
  /** On the way from a root to the leaf. */
  readonly active: boolean
}

/**
 * Draws nodes as a tree: a chain goes straight down, siblings fork. A node whose parent is not there is drawn as a root, and an id
 * once at most, so that the drawing of any list of nodes ends.
 */
export const drawTree = (nodes: ReadonlyArray<SessionNode>, leaf: string | null): ReadonlyArray<TreeLine> => {
  const byId = new Map(nodes.map((node) => [node.nodeId, node]))
  const drawn = new Set<string>()
  const children = new Map<string | null, Array<SessionNode>>()
  for (const node of nodes) {
    const { parentNodeId } = node
    const under = parentNodeId !== null && byId.has(parentNodeId) ? parentNodeId : null
    const siblings = children.get(under)
    if (siblings === undefined) children.set(under, [node])
    else siblings.push(node)
  }
  const active = new Set<string>()
  let at = leaf === null ? undefined : byId.get(leaf)
  while (at !== undefined && !active.has(at.nodeId)) {
    active.add(at.nodeId)
    at = at.parentNodeId === null ? undefined : byId.get(at.parentNodeId)
  }
  const lines: Array<TreeLine> = []
  // A stack of its own: a path may have a hundred thousand nodes.
  const stack: Array<{ readonly node: SessionNode; readonly branch: string; readonly below: string }> = []
  const push = (siblings: ReadonlyArray<SessionNode>, indent: string) => {
    for (let index = siblings.length - 1; index >= 0; index -= 1) {
      const only = siblings.length === 1
      const last = index === siblings.length - 1
      stack.push({
        node: siblings[index]!,
        branch: only ? indent : `${indent}${last ? "└─ " : "├─ "}`,
        below: only ? indent : `${indent}${last ? "   " : "│  "}`
      })
    }
  }
  push(children.get(null) ?? [], "")
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    if (drawn.has(top.node.nodeId)) continue
    drawn.add(top.node.nodeId)
    lines.push({ node: top.node, branch: top.branch, active: active.has(top.node.nodeId) })
    push(children.get(top.node.nodeId) ?? [], top.below)
  }
  return lines
}
