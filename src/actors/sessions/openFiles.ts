/**
 * Keeps session files open for those who come back to them, a bounded number, the least recently used closed first, idle ones after a
 * while. Decides nothing about sessions.
 *
 * Invariant: what is used is the file that has the session's name now; a session that was removed and made anew is another file.
 */
import { Clock, Duration, Effect, type Result, Schedule, type Scope } from "effect"
import type { SessionId } from "../../domain/session/session.ts"
import {
  type Durability,
  isCurrent,
  type OpenFile,
  type OpenSessionError,
  openSession,
  runSession
} from "../../store/database/session/files.ts"
import type { SessionFile } from "../../store/database/session/head.ts"
import type { Paths } from "../../store/files/Paths.ts"

export interface HandleOptions {
  readonly durability: Durability
  /** Files open at once. */
  readonly handlesMax: number
  /** Milliseconds without use after which a file is closed. */
  readonly idleMs: number
}

interface Handle {
  readonly file: OpenFile
  usedAt: number
}

export interface Handles {
  /** Runs a synchronous function over an open session; opens it when it is not. */
  readonly use: <A, E>(
    operation: string,
    id: SessionId,
    run: (file: SessionFile) => Result.Result<A, E>
  ) => Effect.Effect<A, E | OpenSessionError>
  readonly close: (id: SessionId) => Effect.Effect<void>
  readonly openCount: () => number
}

/** Closes everything when the scope closes. */
export const makeHandles = Effect.fnUntraced(function* (
  paths: Paths["Service"],
  options: HandleOptions
): Effect.fn.Return<Handles, never, Scope.Scope> {
  /** Least recently used first. */
  const handles = new Map<SessionId, Handle>()
  const drop = (id: SessionId) => {
    const handle = handles.get(id)
    handles.delete(id)
    handle?.file.connection.close()
  }
  yield* Effect.addFinalizer(() => Effect.sync(() => [...handles.keys()].forEach(drop)))
  const closeIdle = Effect.map(Clock.currentTimeMillis, (now) => {
    for (const [id, handle] of handles) if (Math.abs(now - handle.usedAt) >= options.idleMs) drop(id)
  })
  const pause = Duration.millis(Math.max(1, Math.ceil(options.idleMs / 2)))
  yield* closeIdle.pipe(Effect.delay(pause), Effect.repeat(Schedule.forever), Effect.forkScoped)

  const open = Effect.fnUntraced(function* (id: SessionId) {
    const known = handles.get(id)
    if (known !== undefined && isCurrent(known.file, paths.session(id))) return known
    drop(id)
    const handle = { file: yield* openSession(id, paths.session(id), options.durability), usedAt: 0 }
    for (const oldest of handles.keys()) {
      if (handles.size < options.handlesMax) break
      drop(oldest)
    }
    return handle
  })

  return {
    use: (operation, id, run) =>
      Effect.gen(function* () {
        const handle = yield* open(id)
        handle.usedAt = yield* Clock.currentTimeMillis
        handles.delete(id)
        handles.set(id, handle)
        return yield* runSession(operation, id, paths.session(id).database, () => run(handle.file)).pipe(
          // Whatever SQLite found wrong, the next use sees the file afresh.
          Effect.tapError((error) => (isTrouble(error) ? Effect.sync(() => drop(id)) : Effect.void))
        )
      }),
    close: (id) => Effect.sync(() => drop(id)),
    openCount: () => handles.size
  }
})

const isTrouble = (error: unknown): boolean =>
  ["DatabaseFailed", "DiskFull", "HomeUnusable", "StoredDataCorrupt", "SessionNotFound"].includes(
    String((error as { readonly _tag?: unknown })?._tag)
  )
