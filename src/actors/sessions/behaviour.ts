/**
 * What SessionStore does with its messages: opens the sessions' files on demand and closes them when idle; reads nothing of a
 * sandbox.
 *
 * Invariants: each message is one transaction of one file, so sessions never wait for each other's; no lock is held across an await;
 * an automatic collection runs after its commit, outside the commit's transaction, and fails nothing but itself.
 */
import fs from "node:fs"
import { Clock, Effect, Result, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { BlobTooLarge } from "../../domain/errors/session.ts"
import {
  blobBytesMax,
  type Commit,
  parseSessionId,
  type SessionHead,
  type SessionId,
  type SessionOrigin,
  type SessionSummary,
  sessionStem
} from "../../domain/session/session.ts"
import { getBlob, putBlob } from "../../store/database/session/blobs.ts"
import { collect } from "../../store/database/session/collect.ts"
import { commit } from "../../store/database/session/commit.ts"
import {
  createSession,
  deleteSession,
  findSessionFiles,
  openSession,
  runSession,
  sessionBytes,
  shrink,
  writeBeginning
} from "../../store/database/session/files.ts"
import { forkInto } from "../../store/database/session/fork.ts"
import {
  append,
  branch,
  loadActivePath,
  loadGraph,
  replace,
  tombstone,
  vacuumNodes
} from "../../store/database/session/graph.ts"
import type { SessionFile } from "../../store/database/session/head.ts"
import { summarizeFile } from "../../store/database/session/listing.ts"
import { exportSession } from "../../store/database/session/portable.ts"
import { exportedId, importSession } from "../../store/database/session/portableImport.ts"
import { describeSession } from "../../store/database/session/summary.ts"
import { attemptFile, temporaryName } from "../../store/files/files.ts"
import { Paths } from "../../store/files/Paths.ts"
import { makeHandles } from "./openFiles.ts"
import { type SessionOptions, SessionProtocol } from "./protocol.ts"

const defaults = {
  autoRunEveryCommits: 0,
  gracePeriodMs: 600_000,
  compression: "balanced",
  durability: "power_loss",
  handlesMax: 32,
  idleMs: 30_000
} as const

/** Sessions in a list that names no limit. */
const listLimit = 100

const parse = (text: string) => Effect.fromResult(parseSessionId(text))
const madeUp = () => crypto.randomUUID()

export const sessionBehaviour = (given: SessionOptions) =>
  Effect.gen(function* () {
    const paths = yield* Paths
    const options = { ...defaults, ...given }
    const handles = yield* makeHandles(paths, options)

    const describe = (id: SessionId) =>
      handles.use("read", id, (file) => describeSession(file, sessionBytes(paths.session(id))))

    const create = Effect.fn("SessionStore.create")(function* (
      wanted: Partial<SessionOrigin> & { readonly sessionId?: string; readonly exclusive?: boolean }
    ) {
      const id = yield* parse(wanted.sessionId ?? madeUp())
      if (wanted.parentSessionId != null) yield* parse(wanted.parentSessionId)
      const origin = {
        cwd: wanted.cwd ?? null,
        title: wanted.title ?? null,
        parentSessionId: wanted.parentSessionId ?? null
      }
      const now = yield* Clock.currentTimeMillis
      const make = createSession(paths, id, ({ connection }) => {
        writeBeginning(connection, id, origin, { leafNodeId: null, checkpointRef: null }, now)
        return Result.void
      })
      if (wanted.exclusive === true || !fs.existsSync(paths.session(id).database)) {
        yield* wanted.exclusive === true ? make : Effect.catchTag(make, "SessionExists", () => Effect.void)
      }
      return yield* describe(id)
    })

    const list = Effect.fn("SessionStore.list")(function* (window: {
      readonly limit?: number
      readonly offset?: number
    }) {
      const found = yield* findSessionFiles(paths)
      const from = window.offset ?? 0
      const shown = found.slice(from, from + (window.limit ?? listLimit))
      const summaries = yield* Effect.forEach(shown, (each) => summarizeFile(paths, each))
      return summaries.filter((each): each is SessionSummary => each !== undefined)
    })

    const gc = Effect.fn("SessionStore.gc")(function* (id: SessionId, graceMs: number) {
      const now = yield* Clock.currentTimeMillis
      return yield* handles.use("collect", id, (file) => collect(file, graceMs, now))
    })

    /** G9: collects after every so many commits. A failure is logged and fails nothing. */
    const collectAfter = (id: SessionId, commitCount: number | undefined) => {
      const every = options.autoRunEveryCommits
      if (commitCount === undefined || every === 0 || commitCount % every !== 0) return Effect.void
      return gc(id, options.gracePeriodMs).pipe(
        Effect.catchCause((cause) => Effect.logError(`the automatic collection of session "${id}" failed`, cause))
      )
    }

    const commitTurn = Effect.fn("SessionStore.commit")(function* (id: SessionId, turn: Commit) {
      const now = yield* Clock.currentTimeMillis
      const { head, commitCount } = yield* handles.use("commit", id, (file) => commit(file, turn, now))
      yield* collectAfter(id, commitCount)
      return head
    })

    const vacuum = Effect.fn("SessionStore.vacuum")(function* (id: SessionId) {
      const now = yield* Clock.currentTimeMillis
      const removedNodeCount = yield* handles.use("vacuum", id, (file) => vacuumNodes(file, now))
      const reclaimedBytes = yield* handles.use("shrink", id, (file) => Result.succeed(shrink(file, paths.session(id))))
      return { removedNodeCount, reclaimedBytes }
    })

    const fork = Effect.fn("SessionStore.fork")(function* (from: SessionId, to: SessionId) {
      const now = yield* Clock.currentTimeMillis
      yield* Effect.acquireUseRelease(
        openSession(from, paths.session(from), options.durability),
        (source) => createSession(paths, to, (made) => forkInto(source, made, now)),
        (source) => Effect.sync(() => source.connection.close())
      )
      return yield* describe(to)
    })

    const remove = Effect.fn("SessionStore.remove")(function* (id: SessionId) {
      yield* handles.close(id)
      return { removed: yield* deleteSession(paths, id) }
    })

    /** Written to a file of its own first, over one moment of the session. */
    const exported = Effect.fn("SessionStore.export")(function* (id: SessionId) {
      const file = temporaryName(paths.temporary, sessionStem(id))
      yield* Effect.addFinalizer(() => Effect.sync(() => fs.rmSync(file, { force: true })))
      yield* withFile(file, "wx", (fd) => handles.use("export", id, (source) => exportSession(source, fd)))
      return readPieces(file)
    })

    const importFrom = Effect.fn("SessionStore.import")(function* (file: string, wanted: string | undefined) {
      const now = yield* Clock.currentTimeMillis
      const written =
        wanted ?? (yield* withFile(file, "r", (fd) => runSession("read", "", file, () => exportedId(fd, file))))
      const id = yield* parse(written)
      yield* withFile(file, "r", (fd) => createSession(paths, id, (made) => importSession(made, fd, file, now)))
      return yield* describe(id)
    })

    const at = <A, E>(
      sessionId: string,
      operation: string,
      run: (file: SessionFile, nowMs: number) => Result.Result<A, E>
    ) =>
      Effect.flatMap(parse(sessionId), (id) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) => handles.use(operation, id, (file) => run(file, now)))
      )
    const named = <A, E>(sessionId: string, run: (id: SessionId) => Effect.Effect<A, E>) =>
      Effect.flatMap(parse(sessionId), run)

    const putBytes = ({ sessionId, kind, compressible = true, hash }: Put, content: Uint8Array) =>
      at(sessionId, "put a blob", (file, now) => {
        const expected = hash === undefined ? {} : { expected: hash }
        const put = { kind, compressible, profile: options.compression, ...expected }
        return Result.map(putBlob(file, content, put, now), (stored) => ({ hash: stored }))
      })

    return SessionProtocol.of({
      Create: create,
      List: list,
      Get: ({ sessionId }) => named(sessionId, describe),
      Graph: ({ sessionId, leaf, active }) =>
        at(sessionId, "load", (file) =>
          leaf !== undefined || active === true ? loadActivePath(file, leaf) : loadGraph(file)
        ),
      Append: ({ sessionId, nodes }) => at(sessionId, "append", (file, now) => append(file, nodes, now)),
      Replace: ({ sessionId, nodes }) =>
        Effect.map(
          at(sessionId, "replace", (file, now) => replace(file, nodes, now)),
          shown
        ),
      Tombstone: ({ sessionId, nodeIds }) => at(sessionId, "tombstone", (file, now) => tombstone(file, nodeIds, now)),
      Vacuum: ({ sessionId }) => named(sessionId, vacuum),
      Branch: ({ sessionId, leaf }) =>
        Effect.map(
          at(sessionId, "branch", (file, now) => branch(file, leaf, now)),
          shown
        ),
      Fork: ({ sessionId, newSessionId }) =>
        named(sessionId, (from) => named(newSessionId ?? madeUp(), (to) => fork(from, to))),
      PutBlob: ({ content, ...put }) => putBytes(put, content),
      PutBlobFile: ({ file, ...put }) =>
        Effect.flatMap(readBlobFile(put.sessionId, file), (content) => putBytes(put, content)),
      GetBlob: ({ sessionId, hash }) =>
        at(sessionId, "get a blob", (file) =>
          Result.map(getBlob(file, hash), ({ kind, bytes }) => ({ hash, kind, content: bytes }))
        ),
      ReadBlob: ({ sessionId, hash }) =>
        Rpc.fork(
          Stream.unwrap(
            Effect.map(
              at(sessionId, "get a blob", (file) => getBlob(file, hash)),
              ({ bytes }) => Stream.fromIterable(pieces(bytes))
            )
          )
        ),
      Commit: ({ sessionId, ...turn }) => named(sessionId, (id) => commitTurn(id, turn)),
      Gc: ({ sessionId, gracePeriodMs }) => named(sessionId, (id) => gc(id, gracePeriodMs ?? options.gracePeriodMs)),
      Remove: ({ sessionId }) => named(sessionId, remove),
      Export: ({ sessionId }) => Rpc.fork(Stream.unwrap(Effect.flatMap(parse(sessionId), exported))),
      Import: ({ file, sessionId }) => importFrom(file, sessionId)
    })
  })

const shown = ({ headRevision, leafNodeId, checkpointRef }: SessionHead): SessionHead => ({
  headRevision,
  leafNodeId,
  checkpointRef
})

interface Put {
  readonly sessionId: string
  readonly kind: string
  readonly compressible?: boolean
  readonly hash?: string
}

/** Bytes of one piece of a stream. */
const pieceBytes = 256 * 1024

function* pieces(bytes: Uint8Array): Generator<Uint8Array> {
  // An empty blob is a piece, too: its reader learns that it is there.
  if (bytes.length === 0) yield bytes
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes)
}

/** The bytes of a file, unless they are more than a blob may have. */
const readBlobFile = (sessionId: string, file: string) =>
  Effect.flatMap(
    attemptFile("read", file, () => (fs.statSync(file).size > blobBytesMax ? undefined : fs.readFileSync(file))),
    (bytes): Effect.Effect<Uint8Array, BlobTooLarge> =>
      bytes === undefined ? Effect.fail(new BlobTooLarge({ sessionId, bytesMax: blobBytesMax })) : Effect.succeed(bytes)
  )

/** A file in pieces; a reader that leaves closes it. */
const readPieces = (file: string) =>
  Stream.unwrap(
    Effect.map(
      Effect.acquireRelease(
        attemptFile("read", file, () => fs.openSync(file, "r")),
        (fd) => Effect.sync(() => fs.closeSync(fd))
      ),
      (fd) =>
        Stream.unfold(0, (at) =>
          attemptFile("read", file, () => {
            const piece = new Uint8Array(pieceBytes)
            const count = fs.readSync(fd, piece, 0, piece.length, at)
            return count === 0 ? undefined : ([piece.subarray(0, count), at + count] as const)
          })
        )
    )
  )

/** Opens a file for the time of an effect. */
const withFile = <A, E>(file: string, flags: "r" | "wx", use: (fd: number) => Effect.Effect<A, E>) =>
  Effect.acquireUseRelease(
    attemptFile(flags === "r" ? "read" : "write", file, () => fs.openSync(file, flags, 0o600)),
    use,
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )
