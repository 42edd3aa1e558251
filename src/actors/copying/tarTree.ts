/** Gives trees of a sandbox as tar streams, and takes them so. Loaded by who carries one: most messages about files do not. */

import { Effect, Stream } from "effect"
import type { CopyFailed } from "../../domain/errors/guestIo.ts"
import { shownName } from "../../vm/trees/hostTree.ts"
import { renameRecord, TreeReader } from "../../vm/trees/treeEntries.ts"
import { asCopyFailed, batched } from "./treeStream.ts"
import { TarToTree, TarWriter } from "./treeTar.ts"

/** Told of what is left out, and why. */
type Skipped = (what: string) => void

/** Records of a tree as tar, with `root` in place of the name that they have. `shown`: what is copied, for an error. */
export const tarOf = <E, R>(
  records: Stream.Stream<Uint8Array, E, R>,
  { root, shown, skipped }: { readonly root: string; readonly shown: string; readonly skipped: Skipped }
): Stream.Stream<Uint8Array, E | CopyFailed, R> =>
  Stream.suspend(() => {
    let out: Array<Uint8Array> = []
    const tar = new TarWriter(
      (bytes) => void out.push(bytes),
      (what) => skipped(shownName(what))
    )
    const reader = new TreeReader({
      record: (record) => tar.record(renameRecord(record, root)),
      data: (bytes) => tar.data(bytes),
      fileEnd: () => tar.fileEnd()
    })
    const after = (act: () => void) =>
      Effect.try({
        try: () => {
          act()
          const bytes = Buffer.concat(out)
          out = []
          return bytes
        },
        catch: asCopyFailed(shown)
      })
    const pieces = Stream.mapEffect(records, (bytes) => after(() => reader.push(bytes)))
    const last = Stream.fromEffect(Effect.suspend(() => after(() => reader.finish())))
    return Stream.filter(Stream.concat(pieces, last), (bytes) => bytes.length > 0)
  })

/** A tar stream as records of a tree. */
export const recordsOf = (
  tarBytes: AsyncIterable<Uint8Array>,
  { shown, skipped }: { readonly shown: string; readonly skipped: Skipped }
): Stream.Stream<Uint8Array, CopyFailed> => {
  const pieces = async function* () {
    let out: Array<Uint8Array> = []
    const tar = new TarToTree(
      (bytes) => void out.push(bytes),
      (what) => skipped(shownName(what))
    )
    for await (const chunk of tarBytes) {
      tar.push(chunk)
      yield* out
      out = []
    }
    tar.finish()
    yield* out
  }
  return Stream.fromAsyncIterable(batched(pieces()), asCopyFailed(shown))
}
