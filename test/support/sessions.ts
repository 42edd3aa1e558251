/** Makes sessions for tests: nodes, checkpoints, and a store over a home of the test's own. */
import { Database as Sqlite } from "bun:sqlite"
import { Effect, Layer } from "effect"
import { type SessionOptions, SessionStore } from "../../src/actors/SessionStore.ts"
import { parseSessionId, type SessionId, type SessionNode } from "../../src/domain/session.ts"
import { Paths } from "../../src/store/Paths.ts"
import { temporaryDirectory } from "./home.ts"

/** Fast, and as safe as a test process. */
const quick: SessionOptions = { durability: "process" }

export const sessionsAt = (home: string, options: SessionOptions = {}) =>
  SessionStore.layer({ ...quick, ...options }).pipe(Layer.provideMerge(Paths.layer(home)))

/** SessionStore and Paths over a home of the test's own. */
export const freshSessions = (options: SessionOptions = {}) =>
  Layer.unwrap(Effect.map(temporaryDirectory, (home) => sessionsAt(home, options)))

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

/** Puts a checkpoint with three children and answers their hashes, the checkpoint first. */
export const putCheckpoint = (sessionId: string, salt = "") =>
  Effect.gen(function* () {
    const store = yield* SessionStore
    const put = (kind: string, content: Uint8Array) =>
      Effect.map(store.PutBlob({ sessionId, kind, content }), (put) => put.hash)
    const tool = yield* put("tool_state", bytes(`tool${salt}`))
    const plugin = yield* put("plugin_snapshot", bytes(`plugin${salt}`))
    const execution = yield* put("execution_state", bytes(`execution${salt}`))
    const checkpoint = yield* put("checkpoint", manifest({ tool, plugin, execution, turn: salt }))
    return [checkpoint, tool, plugin, execution] as const
  })

export const idOf = (text: string): SessionId => {
  const parsed = parseSessionId(text)
  if (parsed._tag === "Failure") throw parsed.failure
  return parsed.success
}

/** Does something to a session's file behind the store's back. */
export const inFile = <A>(sessionId: string, act: (sqlite: Sqlite) => A) =>
  Effect.map(Paths, (paths) => {
    const sqlite = new Sqlite(paths.session(idOf(sessionId)).database)
    try {
      return act(sqlite)
    } finally {
      sqlite.close()
    }
  })
