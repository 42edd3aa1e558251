/** Moves bytes between streams of this process and files of a sandbox, over messages. Opens no file of this machine. */
import { Effect, Stream } from "effect"
import { VmSupervisor } from "../sandboxes/VmSupervisor.ts"
import { feedFile } from "./feedFile.ts"
import type { FileTarget } from "./treeStream.ts"

/** The bytes of a file of a sandbox; with `tree`, of whatever is there, as records of a tree. */
export const readGuestFile = (target: FileTarget & { readonly tree?: boolean; readonly follow?: boolean }) =>
  Stream.unwrap(Effect.map(VmSupervisor, (vms) => vms.FileRead(target)))

/** Writes a file of a sandbox, or a tree below a directory of it, from a stream. A file is not replaced unless all of it came. */
export const writeGuestFile = Effect.fn("Files.write")(function* <E, R>(
  target: FileTarget & { readonly tree?: boolean; readonly owners?: boolean; readonly mode?: number },
  source: Stream.Stream<Uint8Array, E, R>
) {
  const vms = yield* VmSupervisor
  const { name } = target
  yield* feedFile(
    vms.FileWrite(target),
    (message) => vms.FileInput({ name, ...message }),
    (message) => vms.FileEnd({ name, ...message }),
    source
  )
})
