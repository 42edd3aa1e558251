/** Names every way in which the home directory and its database fail. Holds no behaviour. */
import { Schema } from "effect"
import { advised } from "./advice.ts"
import { taggedError } from "./base.ts"

export class DiskFull extends taggedError<DiskFull>()("DiskFull", {
  path: Schema.String,
  /** Least bytes that what was being written needs, where known. */
  neededBytes: Schema.optionalKey(Schema.Int)
}) {
  override get message(): string {
    const need = this.neededBytes === undefined ? "" : ` (at least ${this.neededBytes} bytes needed)`
    return `no space left on the disk that holds ${this.path}${need}; free some, or set BUNKER_HOME to a larger disk; nothing half-written was kept`
  }
}

/** The home directory can not be created, read or written. */
export class HomeUnusable extends taggedError<HomeUnusable>()("HomeUnusable", {
  path: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the home directory ${this.path} can not be used: ${this.reason}; fix its permissions or set BUNKER_HOME to a directory of yours`
  }
}

/** Any other failure of a file operation inside the home directory. */
export class StoreFailed extends taggedError<StoreFailed>()("StoreFailed", {
  operation: Schema.String,
  path: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    const advice = advices[this.reason] ?? "put that right and try again"
    return advised(`${this.operation} ${this.path} failed: `, this.reason, advice)
  }
}

const advices: Readonly<Record<string, string>> = {
  EACCES: "check who owns it and its mode",
  EPERM: "check who owns it and its mode",
  EROFS: "set BUNKER_HOME to a disk that can be written",
  EIO: "check the disk",
  EMFILE: "allow more open files: ulimit -n",
  ENFILE: "the machine has too many open files, stop some programs"
}

export class DatabaseFailed extends taggedError<DatabaseFailed>()("DatabaseFailed", {
  operation: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the database failed at ${this.operation}: ${this.reason}; 'bunker doctor' checks it`
  }
}

/** The database was written by a newer build, or an applied migration was changed. */
export class SchemaMismatch extends taggedError<SchemaMismatch>()("SchemaMismatch", {
  found: Schema.Int,
  known: Schema.Int,
  reason: Schema.String
}) {
  override get message(): string {
    return `the database has schema ${this.found}, this build knows ${this.known}: ${this.reason}; use the build that wrote it, or another BUNKER_HOME`
  }
}

export class InvalidName extends taggedError<InvalidName>()("InvalidName", {
  given: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `"${this.given.slice(0, 140)}" is not a name: ${this.reason}; use 1 to 128 of A-Z a-z 0-9 _ . - and start with none of . and -`
  }
}

export class LeaseLost extends taggedError<LeaseLost>()("LeaseLost", { lease: Schema.String }) {
  override get message(): string {
    return `the lease "${this.lease}" is no longer held by this process; try again`
  }
}

export class InstallInProgress extends taggedError<InstallInProgress>()("InstallInProgress", {
  /** Unix milliseconds at which the lease ends by itself. */
  deadline: Schema.Int
}) {
  override get message(): string {
    return `an upgrade of this home directory is going on until ${new Date(this.deadline).toISOString()} at the latest; try again when it is done`
  }
}

export type StoreError = DiskFull | HomeUnusable | StoreFailed | DatabaseFailed | SchemaMismatch

/** Another server listens on the socket. */
export class AlreadyServing extends taggedError<AlreadyServing>()("AlreadyServing", { socket: Schema.String }) {
  override get message(): string {
    return `a server listens on ${this.socket} already; use it, stop it, or choose another with --listen`
  }
}

/** A schema can not be taken back under sandboxes that the older build would not understand. */
export class SandboxesActive extends taggedError<SandboxesActive>()("SandboxesActive", {
  names: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `the schema can not be taken back while there are sandboxes: ${this.names.slice(0, 10).join(", ")}${this.names.length > 10 ? " and more" : ""}; stop and remove them, or force it`
  }
}
