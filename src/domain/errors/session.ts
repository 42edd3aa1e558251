/** Names every way in which a session's memory fails its caller. Holds no behaviour. */
import { Schema } from "effect"
import { advised } from "./advice.ts"
import { taggedError } from "./base.ts"

const session = { sessionId: Schema.String }

export class SessionNotFound extends taggedError<SessionNotFound>()("SessionNotFound", session) {
  override get message(): string {
    return `no session "${this.sessionId}"; see 'bunker session ls'`
  }
}

export class SessionExists extends taggedError<SessionExists>()("SessionExists", session) {
  override get message(): string {
    return `a session "${this.sessionId}" exists; choose another id, or 'bunker session rm' it first`
  }
}

export class InvalidSessionId extends taggedError<InvalidSessionId>()("InvalidSessionId", {
  sessionId: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `"${this.sessionId.slice(0, 140)}" is not a session id: ${this.reason}; use 1 to 200 bytes of text without control characters`
  }
}

/** Nodes that do not make a graph: a node id twice, a parent that is not there, a circle, or a node out of its bounds. */
export class InvalidGraph extends taggedError<InvalidGraph>()("InvalidGraph", {
  ...session,
  nodeId: Schema.String,
  reason: Schema.Literals(["duplicate", "unknown_parent", "cycle", "too_large", "too_deep"]),
  /** The parent that is not there. */
  parentNodeId: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    const because = {
      duplicate: "its id is taken; give each node an id of its own",
      unknown_parent: `its parent "${this.parentNodeId}" is not there; append parents first, or in the same request`,
      cycle: "its parents lead back to itself; one of them must have another parent",
      too_large: "its JSON has more than 4 MiB; put what is large in a blob and name its hash",
      too_deep: "its JSON is nested more than 500 deep; put what is nested in a blob and name its hash"
    }
    return `node "${this.nodeId}" was not written, nor anything with it: ${because[this.reason]}`
  }
}

export class NodeNotFound extends taggedError<NodeNotFound>()("NodeNotFound", {
  ...session,
  nodeId: Schema.String
}) {
  override get message(): string {
    return `session "${this.sessionId}" has no node "${this.nodeId}"; see 'bunker session show ${this.sessionId}'`
  }
}

/** Somebody else committed first. */
export class HeadConflict extends taggedError<HeadConflict>()("HeadConflict", {
  ...session,
  expected: Schema.Int,
  actual: Schema.Int
}) {
  override get message(): string {
    return `session "${this.sessionId}" is at revision ${this.actual}, not ${this.expected}: somebody else committed; load it again and commit on top`
  }
}

/** The turn was committed before with another payload. */
export class TurnConflict extends taggedError<TurnConflict>()("TurnConflict", {
  ...session,
  turnId: Schema.String
}) {
  override get message(): string {
    return `turn "${this.turnId}" of session "${this.sessionId}" was committed with another payload; a retry must say the same, a new turn needs an id of its own`
  }
}

/** A commit names what is not there or not what it should be; nothing was written. */
export class CommitRejected extends taggedError<CommitRejected>()("CommitRejected", {
  ...session,
  field: Schema.Literals(["nodes", "leaf", "checkpoint", "artifacts"]),
  reason: Schema.String
}) {
  override get message(): string {
    const before = `nothing was committed to session "${this.sessionId}": ${this.field}: `
    return advised(before, this.reason, "put that right and commit again")
  }
}

/** What the session's file holds is not what was written. */
export class StoredDataCorrupt extends taggedError<StoredDataCorrupt>()("StoredDataCorrupt", {
  ...session,
  what: Schema.Literals(["node", "graph", "blob", "checkpoint", "head", "artifact", "file"]),
  /** Node id (also of a graph), blob hash, artifact reference or file. */
  item: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    const ways = {
      node: "choose another leaf",
      graph: "restore the session from an export",
      blob: "put the same bytes again to repair it",
      checkpoint: "put the same bytes again to repair it, or commit another checkpoint",
      head: "restore the session from an export",
      artifact: "commit the artifact again",
      file: "restore the session from an export"
    }
    return `session "${this.sessionId}" is damaged: ${this.what}${this.what === "graph" ? " at node" : ""} ${this.item}: ${this.reason}; nothing was changed; ${ways[this.what]}`
  }
}

export class BlobNotFound extends taggedError<BlobNotFound>()("BlobNotFound", {
  ...session,
  hash: Schema.String
}) {
  override get message(): string {
    return `session "${this.sessionId}" has no blob ${this.hash}; put it first (blobs that nothing refers to are collected)`
  }
}

export class BlobTooLarge extends taggedError<BlobTooLarge>()("BlobTooLarge", {
  ...session,
  bytesMax: Schema.Int
}) {
  override get message(): string {
    return `a blob of session "${this.sessionId}" may have ${this.bytesMax} bytes at most; cut it into several`
  }
}

/** The bytes that were put do not have the hash that they were put under. */
export class BlobMismatch extends taggedError<BlobMismatch>()("BlobMismatch", {
  ...session,
  expected: Schema.String,
  actual: Schema.String
}) {
  override get message(): string {
    return `the bytes have sha256 ${this.actual}, not ${this.expected}; nothing was stored, send them again`
  }
}

/** A file is not an export of a session, or not a whole one. */
export class SessionFileInvalid extends taggedError<SessionFileInvalid>()("SessionFileInvalid", {
  path: Schema.String,
  /** 1 for the first. */
  lineNumber: Schema.Int,
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.path} can not be imported: line ${this.lineNumber}: ${this.reason}; nothing was kept; export the session again`
  }
}

/** More than one answer can hold. */
export class GraphTooLarge extends taggedError<GraphTooLarge>()("GraphTooLarge", {
  ...session,
  bytes: Schema.Int,
  bytesMax: Schema.Int
}) {
  override get message(): string {
    return `the graph of session "${this.sessionId}" has ${this.bytes} bytes, an answer ${this.bytesMax} at most; ask for the path of one leaf, or 'bunker session export' it`
  }
}
