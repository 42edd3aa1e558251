/** Keeps what an agent said as a graph, and forks it to try another way. No sandbox is needed for it. */
import { Sessions } from "bunker-sandbox"

await using sessions = new Sessions()
const { sessionId } = await sessions.create({ title: "fix the build" })
await sessions.commit(sessionId, {
  turnId: "1",
  expectedRevision: 0,
  nodes: [
    { nodeId: "q", parentNodeId: null, node: { role: "user", content: "Why is it red?" } },
    { nodeId: "a", parentNodeId: "q", node: { role: "assistant", content: "Let me look." } }
  ]
})
const fork = await sessions.fork(sessionId)
await sessions.commit(fork.sessionId, {
  turnId: "2",
  expectedRevision: (await sessions.get(fork.sessionId)).headRevision,
  nodes: [{ nodeId: "b", parentNodeId: "a", node: { role: "assistant", content: "A test times out." } }]
})
const said = await sessions.loadActivePath(fork.sessionId)
console.log(said.nodes.map(({ node }) => (node as { content: string }).content).join(" | "))
