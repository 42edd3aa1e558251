/** What every copy of a tree of files needs, whichever way it goes: batches of bytes, names, errors. Pure; moves no bytes by itself. */
import path from "node:path"
import { CopyFailed } from "../../domain/errors/guestIo.ts"
import { copyFailed } from "../../vm/trees/hostTree.ts"
import { TreeMalformed } from "../../vm/trees/treeEntries.ts"

/** A file of a sandbox, and the user of the guest that reads or writes it. */
export interface FileTarget {
  readonly name: string
  readonly path: string
  readonly user?: string
}

/** What a broken tree, or a failed call on a file, means for a copy of `shown`. */
export const asCopyFailed =
  (shown: string) =>
  (cause: unknown): CopyFailed =>
    cause instanceof TreeMalformed ? new CopyFailed({ path: shown, reason: cause.message }) : copyFailed(shown, cause)

/** Bytes of a batch. */
const batchBytes = 262_144

/** Bytes of many small pieces as few large ones. */
export async function* batched(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, void> {
  let batch: Array<Uint8Array> = []
  let bytes = 0
  for await (const piece of pieces) {
    batch.push(piece)
    bytes += piece.length
    if (bytes < batchBytes) continue
    yield Buffer.concat(batch)
    batch = []
    bytes = 0
  }
  if (bytes > 0) yield Buffer.concat(batch)
}

/** A path of a sandbox as people write it. */
export const shownGuest = (target: FileTarget): string => `${target.name}:${target.path}`

/** A name as records have it: each byte a character. */
export const binary = (text: string): string => Buffer.from(text).toString("latin1")

/** Name of the root of what is copied from a path, as records have it. */
export const rootOf = (from: string): string => binary(path.posix.basename(path.posix.normalize(from)))
