/** What sessions of tests are made of: nodes, bytes and checkpoint manifests. Loads no store, so that processes with it start fast. */
import { parseSessionId, type SessionId, type SessionNode } from "../../src/domain/session/session.ts"

export const node = (
  nodeId: string,
  parentNodeId: string | null = null,
  value: SessionNode["node"] = {}
): SessionNode => ({
  nodeId,
  parentNodeId,
  node: value
})

/** `a:b` is a node a under b. */
export const nodes = (...texts: ReadonlyArray<string>): ReadonlyArray<SessionNode> =>
  texts.map((text) => {
    const [id, parent] = text.split(":")
    return node(id!, parent ?? null, { says: id! })
  })

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
export const hash = (content: Uint8Array): string => new Bun.CryptoHasher("sha256").update(content).digest("hex")

export interface Refs {
  readonly tool?: string | null
  readonly plugin?: string | null
  readonly execution?: string | null
  readonly turn?: unknown
}

/** The bytes of a checkpoint manifest. */
export const manifest = ({ tool = null, plugin = null, execution = null, turn = {} }: Refs): Uint8Array =>
  bytes(
    JSON.stringify({
      turn_state: turn,
      tool_state_ref: tool,
      plugin_snapshot_ref: plugin,
      plugin_snapshot_revision: plugin === null ? null : 1,
      execution_state_ref: execution
    })
  )

export const idOf = (text: string): SessionId => {
  const parsed = parseSessionId(text)
  if (parsed._tag === "Failure") throw parsed.failure
  return parsed.success
}
