/** Says what can be done with files of a guest and what is told about them, the same for every door. Pure. */
import { Schema } from "effect"

/** Absolute path in the guest, as text: a name that is not UTF-8 can only be copied as part of a tree. */
export const GuestFilePath = Schema.String.check(Schema.isPattern(/^\/[^\0]*$/)).check(Schema.isMaxLength(4095))

/** Permission bits, at most 0o7777. */
export const FileMode = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0o7777 }))

/** One operation on files of a guest; only fields that belong to it count. */
export const FileOperation = Schema.Struct({
  /** `pack` and `unpack` carry trees as records (native/guest/README.md). */
  do: Schema.Literals(["get", "put", "list", "stat", "remove", "mkdir", "pack", "unpack"]),
  path: GuestFilePath,
  /** As for commands; absent: root. */
  user: Schema.optionalKey(Schema.String.check(Schema.isMaxLength(256))),
  /** Of put and mkdir; absent: the replaced file's, else 0o644 and 0o755. */
  mode: Schema.optionalKey(FileMode),
  /** Of remove: everything below, too. Of mkdir: missing parents, too, and an existing directory is fine. */
  recursive: Schema.optionalKey(Schema.Boolean),
  /** Of stat and pack: the target of a link instead of the link. */
  follow: Schema.optionalKey(Schema.Boolean),
  /** Of unpack: owners as recorded instead of the user's own. */
  owners: Schema.optionalKey(Schema.Boolean)
})
export type FileOperation = typeof FileOperation.Type

/** A file of a guest, as `stat` and `list` show it. */
export class GuestFile extends Schema.Class<GuestFile>("GuestFile")({
  /** Last part of its path; a byte that is not UTF-8 shows as U+FFFD. */
  name: Schema.String,
  type: Schema.Literals(["file", "directory", "symlink", "char", "block", "fifo", "socket"]),
  /** Bytes. */
  size: Schema.Int,
  mode: FileMode,
  uid: Schema.Int,
  gid: Schema.Int,
  /** Unix milliseconds. */
  mtimeMs: Schema.Int,
  /** Of a symlink. */
  target: Schema.optionalKey(Schema.String)
}) {}

/** What an operation reports: `Started` first, where it takes input. */
export const FileEvent = Schema.TaggedUnion({
  /** Names the operation in FileInput and FileEnd. */
  Started: { file: Schema.Int },
  Data: { data: Schema.Uint8Array }
})
export type FileEvent = typeof FileEvent.Type
