/** The messages of the VmSupervisor about files and measurements of running sandboxes. Runs none of them (see files.ts, stats.ts). */
import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { FilePutErrors, FileReachErrors, ReachErrors } from "../../domain/errors/groups.ts"
import { FileEvent, FileMode, GuestFile, GuestFilePath } from "../../domain/sandbox/guestFiles.ts"
import { SandboxStats } from "../../domain/sandbox/stats.ts"

const target = {
  name: Schema.String,
  path: GuestFilePath,
  /** As for commands; absent: root. */
  user: Schema.optionalKey(Schema.String.check(Schema.isMaxLength(256)))
}
export const operation = Schema.Struct({ name: Schema.String, file: Schema.Int })
const flag = Schema.optionalKey(Schema.Boolean)

export const SandboxFiles = RpcGroup.make(
  /** Bytes of a file, or, with `tree`, of whatever is there as records of a tree (native/guest/README.md). */
  Rpc.make("FileRead", {
    payload: { ...target, tree: flag, follow: flag },
    success: Schema.Uint8Array,
    error: FileReachErrors,
    stream: true
  }),
  /** Replaces a file at once when its input has ended; with `tree`: makes what the records say below a directory. */
  Rpc.make("FileWrite", {
    payload: { ...target, mode: Schema.optionalKey(FileMode), tree: flag, owners: flag },
    success: FileEvent,
    error: FileReachErrors,
    stream: true
  }),
  /** The same with the bytes of a file of this machine: for doors that keep what is sent to them as a file. */
  Rpc.make("FilePut", {
    payload: { ...target, mode: Schema.optionalKey(FileMode), tree: flag, owners: flag, source: Schema.String },
    error: FilePutErrors
  }),
  /** Whatever is there as a tar stream (POSIX pax), below the last part of its path. */
  Rpc.make("TreeRead", {
    payload: { ...target, follow: flag },
    success: Schema.Uint8Array,
    error: FilePutErrors,
    stream: true
  }),
  /** Makes what a tar file of this machine says below a directory. `owners`: as recorded instead of the user's own. */
  Rpc.make("TreePut", {
    payload: { ...target, owners: flag, source: Schema.String },
    /** What was left out, and why, at most a thousand. */
    success: Schema.Struct({ skipped: Schema.Array(Schema.String) }),
    error: FilePutErrors
  }),
  Rpc.make("FileInput", { payload: { ...operation.fields, data: Schema.Uint8Array }, error: FileReachErrors }),
  Rpc.make("FileEnd", { payload: operation, error: FileReachErrors }),
  Rpc.make("FileStat", { payload: { ...target, follow: flag }, success: GuestFile, error: FileReachErrors }),
  /** The entries of a directory, by name. */
  Rpc.make("FileList", { payload: target, success: Schema.Array(GuestFile), error: FileReachErrors }),
  Rpc.make("FileRemove", { payload: { ...target, recursive: flag }, error: FileReachErrors }),
  /** `recursive`: missing parents, too, and an existing directory is fine. */
  Rpc.make("FileMkdir", {
    payload: { ...target, mode: Schema.optionalKey(FileMode), recursive: flag },
    error: FileReachErrors
  })
)

export const SandboxStatsMessages = RpcGroup.make(
  /** One sample, or with `watch` one a second until the sandbox ends. */
  Rpc.make("Stats", {
    payload: { name: Schema.String, watch: Schema.Boolean },
    success: SandboxStats,
    error: ReachErrors,
    stream: true
  })
)
