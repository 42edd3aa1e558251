/**
 * Keeps agents' sessions of a home directory, or of a server, from a Bun program: promises and async iterables over the same actor that
 * the CLI uses. Needs neither images nor sandboxes and builds nothing of them.
 */

import path from "node:path"
import { Cause, Effect, Exit, Layer, ManagedRuntime, Option, Stream } from "effect"
import type { SessionOptions } from "../actors/sessions/protocol.ts"
import { SessionStore } from "../actors/sessions/SessionStore.ts"
import type {
  CollectionReport,
  Commit,
  SessionGraph,
  SessionHead,
  SessionInfo,
  SessionNode,
  SessionOrigin,
  SessionSummary,
  VacuumReport
} from "../domain/session/session.ts"
import { Paths } from "../store/files/Paths.ts"
import { homeOf } from "./effect.ts"
import { logging } from "./logging.ts"
import { RemoteBlobs, remoteLayer } from "./remote.ts"
import type { PlaceOptions } from "./runtime.ts"
import { thrown } from "./thrown.ts"

export type { SessionOptions } from "../actors/sessions/protocol.ts"

export interface CreateSessionOptions extends Partial<SessionOrigin> {
  /** Default: made up. */
  readonly sessionId?: string
  /** Reject with `SessionExists` when there is one; default: answer that one. */
  readonly exclusive?: boolean
}

export interface PutBlobOptions {
  /** What it is: `checkpoint`, `tool_state`, …; default `artifact`. */
  readonly kind?: string
  /** Default true. */
  readonly compressible?: boolean
}

type Store = SessionStore["Service"]

/** The sessions of a home directory, or of a server, whose own options count then. Dispose it when done; a second time does nothing. */
export class Sessions implements AsyncDisposable {
  private readonly runtime: ManagedRuntime.ManagedRuntime<SessionStore, unknown>

  constructor(options: PlaceOptions & SessionOptions = {}) {
    const { home, log, server, ...store } = options
    const heard = logging(log)
    if (server === undefined) {
      const paths = Paths.layer(homeOf(home === undefined ? {} : { home }))
      this.runtime = ManagedRuntime.make(
        SessionStore.layer(store).pipe(Layer.provide(paths), Layer.provideMerge(heard))
      )
    } else this.runtime = ManagedRuntime.make(Layer.provideMerge(remoteLayer(server), heard))
  }

  create(options: CreateSessionOptions = {}): Promise<SessionInfo> {
    return this.ask((store) => store.Create(options))
  }

  /** The last changed first. */
  list(options: { readonly limit?: number; readonly offset?: number } = {}): Promise<ReadonlyArray<SessionSummary>> {
    return this.ask((store) => store.List(options))
  }

  get(sessionId: string): Promise<SessionInfo> {
    return this.ask((store) => store.Get({ sessionId }))
  }

  /** The whole graph in the order of its arrival. */
  load(sessionId: string): Promise<SessionGraph> {
    return this.ask((store) => store.Graph({ sessionId }))
  }

  /** The path from the root to a leaf, by default the head's. */
  loadActivePath(sessionId: string, leaf?: string): Promise<SessionGraph> {
    return this.ask((store) => store.Graph({ sessionId, active: true, ...(leaf === undefined ? {} : { leaf }) }))
  }

  /** Commits a turn once, however often it is sent. Rejects with `HeadConflict`, `TurnConflict`, `InvalidGraph` or `CommitRejected`. */
  commit(sessionId: string, turn: Commit): Promise<SessionHead> {
    return this.ask((store) => store.Commit({ sessionId, ...turn }))
  }

  append(sessionId: string, nodes: ReadonlyArray<SessionNode>): Promise<void> {
    return this.ask((store) => store.Append({ sessionId, nodes }))
  }

  replace(sessionId: string, nodes: ReadonlyArray<SessionNode>): Promise<SessionHead> {
    return this.ask((store) => store.Replace({ sessionId, nodes }))
  }

  branch(sessionId: string, leaf: string | null): Promise<SessionHead> {
    return this.ask((store) => store.Branch({ sessionId, leaf }))
  }

  tombstone(sessionId: string, nodeIds: ReadonlyArray<string>): Promise<void> {
    return this.ask((store) => store.Tombstone({ sessionId, nodeIds }))
  }

  vacuum(sessionId: string): Promise<VacuumReport> {
    return this.ask((store) => store.Vacuum({ sessionId }))
  }

  /** Copies the active path and what its checkpoint retains. */
  fork(sessionId: string, newSessionId?: string): Promise<SessionInfo> {
    return this.ask((store) => store.Fork({ sessionId, ...(newSessionId === undefined ? {} : { newSessionId }) }))
  }

  /** Stores bytes and answers their sha256. */
  async putBlob(sessionId: string, content: Uint8Array, options: PutBlobOptions = {}): Promise<string> {
    const { kind = "artifact", compressible = true } = options
    const stored = Effect.gen(function* () {
      const put = yield* RemoteBlobs
      if (put !== undefined) return yield* put(sessionId, Uint8Array.from(content), { kind, compressible })
      const store = yield* SessionStore
      return (yield* store.PutBlob({ sessionId, content, kind, compressible })).hash
    })
    return this.run(stored)
  }

  /** The bytes under a hash, verified. */
  async getBlob(sessionId: string, hash: string): Promise<Uint8Array> {
    const pieces = await this.ask((store) => Stream.runCollect(store.ReadBlob({ sessionId, hash })))
    return new Uint8Array(Buffer.concat(pieces))
  }

  /** Deletes blobs that nothing reaches and that are older than the grace period, by default ten minutes. */
  gc(sessionId: string, options: { readonly gracePeriodMs?: number } = {}): Promise<CollectionReport> {
    return this.ask((store) => store.Gc({ sessionId, ...options }))
  }

  /** Answers false for one that is not there. */
  async remove(sessionId: string): Promise<boolean> {
    return (await this.ask((store) => store.Remove({ sessionId }))).removed
  }

  /** One portable file, piece by piece. An iteration that ends without a rejection gave all of it. */
  async *export(sessionId: string): AsyncGenerator<Uint8Array, void, void> {
    const context = await this.runtime.context()
    const pieces = Stream.unwrap(Effect.map(SessionStore, (store) => store.Export({ sessionId })))
    yield* Stream.toAsyncIterableWith(pieces, context)
  }

  /** Makes a session of an exported file, everything verified; by default under the id that it had. */
  import(file: string, sessionId?: string): Promise<SessionInfo> {
    const id = sessionId === undefined ? {} : { sessionId }
    return this.ask((store) => store.Import({ file: path.resolve(file), ...id }))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.runtime.dispose()
  }

  private ask<A, E>(message: (store: Store) => Effect.Effect<A, E>): Promise<A> {
    return this.run(Effect.flatMap(SessionStore, message))
  }

  private async run<A, E>(effect: Effect.Effect<A, E, SessionStore>): Promise<A> {
    const exit = await this.runtime.runPromiseExit(effect)
    if (Exit.isSuccess(exit)) return exit.value
    throw thrown(Option.getOrElse(Cause.findErrorOption(exit.cause), () => Cause.squash(exit.cause)))
  }
}
