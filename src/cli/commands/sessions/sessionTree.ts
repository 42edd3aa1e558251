/** Draws a session for people: what it is, and its nodes as a tree with the way to the leaf marked. Obeys nothing in their text. */

import { Clock, Effect } from "effect"
import type { SessionGraph, SessionInfo, SessionNode } from "../../../domain/session/session.ts"
import { drawTree, userMessage } from "../../../domain/session/sessionGraph.ts"
import { harmless } from "../../../domain/terminalText.ts"
import { formatAge, formatBytes, print } from "../../terminal/output.ts"

/** Characters of a node's words. */
const wordsMax = 80
/** Levels of forks that are drawn; what is deeper stands at the last. */
const indentMax = 120

/** `role: words` of a node, else the beginning of its JSON. */
const describeNode = ({ node }: SessionNode): string => {
  const fields =
    typeof node === "object" && node !== null && !Array.isArray(node) ? (node as Record<string, unknown>) : {}
  const role = fields["role"] ?? fields["type"]
  const said = userMessage({ ...fields, role: "user" })
  const words = said === undefined || said === "" ? JSON.stringify(node) : said
  const cut = words.length > wordsMax ? `${words.slice(0, wordsMax - 1)}…` : words
  return harmless(typeof role === "string" ? `${role.slice(0, 20)}: ${cut}` : cut)
}

export const printTree = Effect.fnUntraced(function* (info: SessionInfo, { nodes }: SessionGraph) {
  const now = yield* Clock.currentTimeMillis
  const relation = info.parentSessionId === null ? "" : `, child of ${info.parentSessionId}`
  const hidden = info.tombstonedNodeCount === 0 ? "" : `, ${info.tombstonedNodeCount} hidden`
  const facts: ReadonlyArray<readonly [string, string | null]> = [
    ["session", `${info.sessionId}${relation}`],
    ["title", info.title],
    ["directory", info.cwd],
    ["head", `revision ${info.headRevision}, leaf ${info.leafNodeId ?? "none"}, ${info.commitCount} commit(s)`],
    ["checkpoint", info.checkpointRef],
    [
      "holds",
      `${info.nodeCount} node(s)${hidden}, ${info.blobCount} blob(s), ${info.artifactCount} artifact(s), ${formatBytes(info.fileBytes)}`
    ],
    ["changed", formatAge(info.updatedAt, now)]
  ]
  for (const [name, value] of facts) if (value !== null) yield* print(`${`${name}:`.padEnd(12)}${harmless(value)}`)
  if (nodes.length === 0) return
  let page = ""
  for (const { node, branch, active } of drawTree(nodes, info.leafNodeId)) {
    const indent = branch.length > indentMax ? `…${branch.slice(-indentMax)}` : branch
    page += `\n${active ? "*" : " "} ${indent}${harmless(node.nodeId)}  ${describeNode(node)}`
    if (page.length < 65_536) continue
    yield* print(page.slice(1))
    page = "\n"
  }
  if (page.length > 1) yield* print(page)
})
