/** The messages of the SessionStore: what each carries, answers and fails with. Runs none of them (see SessionStore.ts). */
import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Errors from "../../domain/errors/session.ts"
import { DatabaseFailed, DiskFull, HomeUnusable, SchemaMismatch, StoreFailed } from "../../domain/errors/store.ts"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import {
  BlobHash,
  BlobKind,
  CollectionReport,
  commitFields,
  SessionGraph,
  SessionHead,
  SessionInfo,
  SessionNode,
  SessionSummary,
  sessionOriginFields,
  VacuumReport
} from "../../domain/session/session.ts"

/** Whatever names a session may fail with these. */
const reach = [
  InvalidSpec,
  Errors.InvalidSessionId,
  Errors.SessionNotFound,
  Errors.StoredDataCorrupt,
  SchemaMismatch,
  DatabaseFailed,
  DiskFull,
  HomeUnusable,
  StoreFailed
] as const
const files = [...reach, Errors.SessionExists] as const

const ReachErrors = Schema.Union(reach)
const WriteErrors = Schema.Union([...reach, Errors.InvalidGraph])
const LeafErrors = Schema.Union([...reach, Errors.NodeNotFound])

const sessionId = Schema.String
const session = { sessionId }

/** Most sessions in one list. */
const listMax = 1000

export class SessionProtocol extends RpcGroup.make(
  /** Makes a session, or answers the one that is there: 16 processes may ask at once. */
  Rpc.make("Create", {
    payload: {
      /** Default: made up. */
      sessionId: Schema.optionalKey(sessionId),
      cwd: Schema.optionalKey(sessionOriginFields.cwd),
      title: Schema.optionalKey(sessionOriginFields.title),
      parentSessionId: Schema.optionalKey(sessionOriginFields.parentSessionId),
      /** Fail when there is one. Default false. */
      exclusive: Schema.optionalKey(Schema.Boolean)
    },
    success: SessionInfo,
    error: Schema.Union(files)
  }),
  /** Last changed first; opens no more files than it answers. */
  Rpc.make("List", {
    payload: {
      /** 1 to 1,000, default 100. */
      limit: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: listMax }))),
      /** Sessions to leave out, default 0. */
      offset: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)))
    },
    success: Schema.Array(SessionSummary),
    error: Schema.Union([InvalidSpec, DiskFull, HomeUnusable, StoreFailed])
  }),
  Rpc.make("Get", { payload: session, success: SessionInfo, error: ReachErrors }),
  /** G2: the whole graph; the path to a leaf; or, when `active`, the path to the head's leaf. */
  Rpc.make("Graph", {
    payload: { ...session, leaf: Schema.optionalKey(Schema.String), active: Schema.optionalKey(Schema.Boolean) },
    success: SessionGraph,
    error: Schema.Union([...reach, Errors.NodeNotFound, Errors.GraphTooLarge])
  }),
  /** G1: in order, all or nothing. Moves no leaf. */
  Rpc.make("Append", { payload: { ...session, nodes: Schema.Array(SessionNode) }, error: WriteErrors }),
  /** G1: swaps the whole graph. */
  Rpc.make("Replace", {
    payload: { ...session, nodes: Schema.Array(SessionNode) },
    success: SessionHead,
    error: WriteErrors
  }),
  /** G3: hides nodes. */
  Rpc.make("Tombstone", { payload: { ...session, nodeIds: Schema.Array(Schema.String) }, error: LeafErrors }),
  /** G3: removes hidden nodes for good, and gives free space back. */
  Rpc.make("Vacuum", { payload: session, success: VacuumReport, error: ReachErrors }),
  /** G4: moves the leaf; null for none. */
  Rpc.make("Branch", {
    payload: { ...session, leaf: Schema.NullOr(Schema.String) },
    success: SessionHead,
    error: LeafErrors
  }),
  /** G4: copies the active path and what its checkpoint retains. */
  Rpc.make("Fork", {
    payload: {
      ...session,
      /** Default: made up. */
      newSessionId: Schema.optionalKey(sessionId)
    },
    success: SessionInfo,
    error: Schema.Union([...files, Errors.GraphTooLarge])
  }),
  /** G5. */
  Rpc.make("PutBlob", {
    payload: {
      ...session,
      content: Schema.Uint8Array,
      kind: BlobKind,
      /** Default true. */
      compressible: Schema.optionalKey(Schema.Boolean),
      /** The hash that the bytes must have. */
      hash: Schema.optionalKey(BlobHash)
    },
    success: Schema.Struct({ hash: BlobHash }),
    error: Schema.Union([...reach, Errors.BlobTooLarge, Errors.BlobMismatch])
  }),
  /** G5: the same for the bytes of a file. */
  Rpc.make("PutBlobFile", {
    payload: {
      ...session,
      /** Absolute path. */
      file: Schema.NonEmptyString,
      kind: BlobKind,
      /** Default true. */
      compressible: Schema.optionalKey(Schema.Boolean),
      /** The hash that the bytes must have. */
      hash: Schema.optionalKey(BlobHash)
    },
    success: Schema.Struct({ hash: BlobHash }),
    error: Schema.Union([...reach, Errors.BlobTooLarge, Errors.BlobMismatch])
  }),
  /** G5: verified bytes. */
  Rpc.make("GetBlob", {
    payload: { ...session, hash: BlobHash },
    success: Schema.Struct({ hash: BlobHash, kind: BlobKind, content: Schema.Uint8Array }),
    error: Schema.Union([...reach, Errors.BlobNotFound])
  }),
  /** G5: the same as a stream of pieces. */
  Rpc.make("ReadBlob", {
    payload: { ...session, hash: BlobHash },
    success: Schema.Uint8Array,
    error: Schema.Union([...reach, Errors.BlobNotFound]),
    stream: true
  }),
  /** G6. */
  Rpc.make("Commit", {
    payload: { ...session, ...commitFields },
    success: SessionHead,
    error: Schema.Union([
      ...reach,
      Errors.InvalidGraph,
      Errors.HeadConflict,
      Errors.TurnConflict,
      Errors.CommitRejected
    ])
  }),
  /** G7. */
  Rpc.make("Gc", {
    payload: {
      ...session,
      /** Age in milliseconds below which blobs stay; default: the store's, 10 minutes. */
      gracePeriodMs: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)))
    },
    success: CollectionReport,
    error: ReachErrors
  }),
  /** G10. Answers false for one that is not there. */
  Rpc.make("Remove", {
    payload: session,
    success: Schema.Struct({ removed: Schema.Boolean }),
    error: Schema.Union([InvalidSpec, Errors.InvalidSessionId, DatabaseFailed, DiskFull, HomeUnusable, StoreFailed])
  }),
  /** A session, as it is at one moment, as one portable file in pieces. */
  Rpc.make("Export", { payload: session, success: Schema.Uint8Array, error: ReachErrors, stream: true }),
  /** Makes a session of an exported file, everything verified. */
  Rpc.make("Import", {
    payload: {
      /** Absolute path. */
      file: Schema.NonEmptyString,
      /** Default: the id that it was exported with. */
      sessionId: Schema.optionalKey(sessionId)
    },
    success: SessionInfo,
    error: Schema.Union([...files, Errors.SessionFileInvalid])
  })
) {}

const count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

export const SessionOptions = Schema.Struct({
  /** Commits of a session after which it is collected; default 0, never. */
  autoRunEveryCommits: Schema.optionalKey(count),
  /** Age below which a collection spares blobs, in milliseconds; default 600,000. */
  gracePeriodMs: Schema.optionalKey(count),
  /** `balanced` (default) compresses from 4 KiB, `compact` from 1 KiB, `low_latency` never. */
  compression: Schema.optionalKey(Schema.Literals(["balanced", "compact", "low_latency"])),
  /** What a commit survives: `power_loss` (default), or the end of the `process` only, which spares an fsync a commit. */
  durability: Schema.optionalKey(Schema.Literals(["power_loss", "process"])),
  /** Files open at once, at least 1; default 32. */
  handlesMax: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))),
  /** Milliseconds without use after which a file is closed; default 30,000. */
  idleMs: Schema.optionalKey(count)
})
export type SessionOptions = typeof SessionOptions.Type
