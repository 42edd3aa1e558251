/** Makes sessions for tests: nodes, checkpoints, and a store over a home of the test's own. */

import { Database as Sqlite } from "bun:sqlite"
import { Effect, Layer } from "effect"
import type { SessionOptions } from "../../src/actors/sessions/protocol.ts"
import { SessionStore } from "../../src/actors/sessions/SessionStore.ts"
import { Paths } from "../../src/store/files/Paths.ts"
import { temporaryDirectory } from "./home.ts"
import { bytes, idOf, manifest } from "./sessionData.ts"

export * from "./sessionData.ts"

/** Fast, and as safe as a test process. */
const quick: SessionOptions = { durability: "process" }

export const sessionsAt = (home: string, options: SessionOptions = {}) =>
  SessionStore.layer({ ...quick, ...options }).pipe(Layer.provideMerge(Paths.layer(home)))

/** SessionStore and Paths over a home of the test's own. */
export const freshSessions = (options: SessionOptions = {}) =>
  Layer.unwrap(Effect.map(temporaryDirectory, (home) => sessionsAt(home, options)))

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
