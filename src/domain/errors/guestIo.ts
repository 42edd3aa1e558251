/** Names every way in which files of a guest and published ports fail. Holds no behaviour. */
import { Schema } from "effect"

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
export class FileNotFound extends Schema.TaggedError<FileNotFound>()("FileNotFound", { path: Schema.String }) {
  override get message(): string {
    return `the guest has no "${this.path}"; 'bunker exec NAME ls -la' shows what there is`
  }
}

/** The guest could not do what was asked for with a file. */
export class FileFailed extends Schema.TaggedError<FileFailed>()("FileFailed", {
  path: Schema.String,
  reason: Schema.Literals(fileReasons),
  /** One phrase. */
  detail: Schema.String
}) {
  override get message(): string {
    return `"${this.path}" in the guest: ${this.detail}${advice[this.reason] ?? ""}`
  }
}

const advice: Partial<Record<(typeof fileReasons)[number], string>> = {
  is_directory: "; 'bunker cp' copies directories",
  not_empty: "; remove it with everything in it: recursive",
  no_space: "; the guest's disk is full, --disk makes it larger",
  bad_user: "; choose another user"
}

/** The word of a guest as a reason; what is unknown is a failure like any other. */
export const fileReason = (word: string | undefined): FileFailed["reason"] =>
  fileReasons.find((reason) => reason === word) ?? "failed"

/** A file or tree could not be copied on the host's side. */
export class CopyFailed extends Schema.TaggedError<CopyFailed>()("CopyFailed", {
  /** A path of the host, or what was copied. */
  path: Schema.String,
  /** One phrase. */
  reason: Schema.String
}) {
  override get message(): string {
    return `can not copy ${this.path}: ${this.reason}`
  }
}

/** Somebody listens on a host port that a sandbox wants to publish. */
export class PortTaken extends Schema.TaggedError<PortTaken>()("PortTaken", {
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
export class PortRefused extends Schema.TaggedError<PortRefused>()("PortRefused", {
  port: Schema.Int,
  reason: Schema.String
}) {
  override get message(): string {
    return `nothing answers on port ${this.port} in the guest: ${this.reason}`
  }
}
