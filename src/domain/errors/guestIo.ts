/** Names every way in which files of a guest and published ports fail. Holds no behaviour. */
import { Schema } from "effect"
import { advised } from "./advice.ts"
import { taggedError } from "./base.ts"

/** What is wrong with a file, in the words of the guest channel's protocol. */
const fileReasons = [
  "exists",
  "not_empty",
  "not_directory",
  "is_directory",
  "permission",
  "read_only",
  "no_space",
  "loop",
  "special",
  "limit",
  "bad_stream",
  "bad_user",
  "failed"
] as const

/** The guest has no file of this name. */
export class FileNotFound extends taggedError<FileNotFound>()("FileNotFound", { path: Schema.String }) {
  override get message(): string {
    return `the guest has no "${this.path}"; 'bunker exec NAME ls -la' shows what there is`
  }
}

/** The guest could not do what was asked for with a file. */
export class FileFailed extends taggedError<FileFailed>()("FileFailed", {
  path: Schema.String,
  reason: Schema.Literals(fileReasons),
  /** One phrase. */
  detail: Schema.String
}) {
  override get message(): string {
    return advised(`"${this.path}" in the guest: `, this.detail, advice[this.reason])
  }
}

const advice: Record<(typeof fileReasons)[number], string> = {
  exists: "choose another name, or remove it first",
  not_empty: "remove it with everything in it: recursive",
  not_directory: "check the path: 'bunker exec NAME ls -la' shows what there is",
  is_directory: "'bunker cp' copies directories",
  permission: "choose another user, or change its mode in the guest",
  read_only: "choose a path that is on no read-only mount",
  no_space: "the guest's disk is full, --disk makes it larger",
  loop: "its links lead in a circle, give the path that they should lead to",
  special: "only files, directories and links can be copied, leave it away",
  limit: "ask for less at once",
  bad_stream: "try again; should it stay so, the guest's agent is of another build: start the sandbox again",
  bad_user: "choose another user",
  failed: "try again, and see whether 'bunker logs --console NAME' says why"
}

/** The word of a guest as a reason; what is unknown is a failure like any other. */
export const fileReason = (word: string | undefined): FileFailed["reason"] =>
  fileReasons.find((reason) => reason === word) ?? "failed"

/** A file or tree could not be copied on the host's side. */
export class CopyFailed extends taggedError<CopyFailed>()("CopyFailed", {
  /** A path of the host, or what was copied. */
  path: Schema.String,
  /** One phrase. */
  reason: Schema.String
}) {
  override get message(): string {
    return advised(`can not copy ${this.path}: `, this.reason, "put that right and copy again")
  }
}

/** Somebody listens on a host port that a sandbox wants to publish. */
export class PortTaken extends taggedError<PortTaken>()("PortTaken", {
  /** `IP:PORT`. */
  address: Schema.String,
  /** One phrase: the sandbox or the process that has it, or why it can not be had. */
  owner: Schema.String
}) {
  override get message(): string {
    return `port ${this.address} can not be published: ${this.owner}; choose another with -p, or 0 for a free one`
  }
}

/** Nothing in the guest listens on the port. */
export class PortRefused extends taggedError<PortRefused>()("PortRefused", {
  port: Schema.Int,
  reason: Schema.String
}) {
  override get message(): string {
    const advice = "start a service there that listens on 127.0.0.1 or on every address"
    return advised(`nothing answers on port ${this.port} in the guest: `, this.reason, advice)
  }
}
