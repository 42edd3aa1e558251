/**
 * Writes images out again as an OCI archive: configs and layers byte by byte what they were, rebuilt from the cache.
 * Also keeps the documents that this takes. Part of ImageStore; asks the network only for layers that are missing here.
 *
 * Invariant: every layer's digest is checked while it is written; an archive that ends without an error is right.
 */
import fs from "node:fs"
import { Effect, Schema, Stream } from "effect"
import type { InstallError, SaveError } from "../../domain/errors/groups.ts"
import { ImageNotFound, ImageNotSavable } from "../../domain/errors/image.ts"
import type { Digest } from "../../domain/image/digest.ts"
import { canonicalReference, parseReference } from "../../domain/image/reference.ts"
import { archiveFiles, archivePieces, type SavedImage } from "../../oci/archive/ociArchive.ts"
import { TarRecord } from "../../oci/layer/tarSplit.ts"
import type { ImageDocuments } from "../../oci/manifest/source.ts"
import { digestOf } from "../../oci/manifest/verify.ts"
import { RejectedInput } from "../../oci/tar/rejected.ts"
import { Database } from "../../store/database/Database.ts"
import { findReferenced, imageLayers, imagePlatform } from "../../store/database/images.ts"
import { fileError, writeAtomic } from "../../store/files/files.ts"
import { Paths } from "../../store/files/Paths.ts"
import { holdContent, LeaseManager } from "../leases/LeaseManager.ts"

/** The file beside fsmeta: both documents in base64, for a digest is of bytes and not of text. */
const Kept = Schema.fromJsonString(
  Schema.Struct({ manifest: Schema.Uint8ArrayFromBase64, config: Schema.Uint8ArrayFromBase64 })
)

/** Keeps the documents of a manifest unless they are there. The caller holds a lease or a record of the manifest. */
export const keepDocuments = Effect.fn("ImageStore.keepDocuments")(function* (
  paths: Paths["Service"],
  manifest: Digest,
  documents: ImageDocuments
) {
  const file = paths.documents(manifest)
  if (fs.existsSync(file)) return
  const text = yield* Effect.orDie(Schema.encodeEffect(Kept)(documents))
  yield* writeAtomic(file, text, { temporaryDirectory: paths.temporary })
})

/** Fetches and stitches again what is missing of a recorded image. */
export type MakeWhole = (
  image: { readonly manifestId: number; readonly manifestDigest: Digest },
  reference: string
) => Effect.Effect<void, InstallError>

export const makeSaver = Effect.fnUntraced(function* (makeWhole: MakeWhole) {
  const db = yield* Database
  const paths = yield* Paths
  const leases = yield* LeaseManager

  const documentsOf = Effect.fnUntraced(function* (reference: string, manifest: Digest) {
    const lost = (reason: string) => new ImageNotSavable({ reference, reason, again: "pull" })
    const text = yield* Effect.try({
      try: () => fs.readFileSync(paths.documents(manifest), "utf8"),
      catch: () => lost("its manifest and config were not kept")
    })
    const kept = yield* Effect.mapError(Schema.decodeEffect(Kept)(text), () => lost("its kept manifest is damaged"))
    if (digestOf(kept.manifest) !== manifest) return yield* lost("its kept manifest is damaged")
    return kept
  })

  /** Opens the record of a layer's tar for the scope. */
  const openRecord = (reference: string, diffId: Digest) =>
    Effect.acquireRelease(
      Effect.try({
        try: () => TarRecord.open(paths.layerImage(diffId), diffId),
        catch: (cause) => wrong(reference, diffId, cause)
      }).pipe(
        Effect.filterOrFail(
          (record) => record !== undefined,
          () =>
            new ImageNotSavable({
              reference,
              reason: `its layer ${diffId} came without a record of its tar`,
              again: "remove"
            })
        )
      ),
      (record) => Effect.sync(() => record.close())
    )

  const wrong = (reference: string, diffId: Digest, cause: unknown) =>
    cause instanceof RejectedInput
      ? new ImageNotSavable({
          reference,
          reason: `its layer ${diffId} is damaged here: ${cause.reason}`,
          again: "remove"
        })
      : fileError("read", paths.layerImage(diffId), cause)

  /** The record of an image that a lease of this scope keeps from being removed. */
  const holdImage = Effect.fnUntraced(function* (text: string) {
    const parsed = yield* parseReference(text)
    const find = Effect.flatMap(findReferenced(db, parsed), (found) =>
      found === undefined ? Effect.fail(new ImageNotFound({ reference: text })) : Effect.succeed(found)
    )
    const hold = yield* holdContent(leases)
    const held = Effect.gen(function* () {
      const { image, manifestId } = yield* find
      yield* hold.add([image.manifestDigest])
      // Looked up again: it may have been removed, or replaced by another, before the lease held it.
      return (yield* find).manifestId === manifestId ? { parsed, manifestId, ...image } : undefined
    })
    return (yield* Effect.repeat(held, { until: (image) => image !== undefined }))!
  })

  /** Everything about an image but the bytes of its layers; the scope keeps its files from being removed. */
  const describe = Effect.fnUntraced(function* (text: string) {
    const { manifestDigest, manifestId, parsed } = yield* holdImage(text)
    yield* makeWhole({ manifestId, manifestDigest }, text)
    const layers = yield* imageLayers(db, manifestId)
    const tars = yield* Effect.forEach(layers, ({ diffId }) =>
      Effect.scoped(Effect.map(openRecord(text, diffId), (record) => ({ diffId, tarBytes: record.bytes })))
    )
    return {
      name: parsed.tag === undefined ? undefined : canonicalReference({ ...parsed, digest: undefined }),
      ...(yield* imagePlatform(db, manifestId)),
      documents: yield* documentsOf(text, manifestDigest),
      layers: tars
    } satisfies SavedImage as SavedImage
  })

  const layerTar = (reference: string, diffId: Digest): Stream.Stream<Uint8Array, SaveError> =>
    Stream.unwrap(
      Effect.map(openRecord(reference, diffId), (record) => {
        const hasher = new Bun.CryptoHasher("sha256")
        const pieces = (async function* () {
          for (const piece of record.pieces()) {
            hasher.update(piece)
            yield piece as Uint8Array
          }
          if (`sha256:${hasher.digest("hex")}` !== diffId)
            throw new RejectedInput("its bytes are not those of its digest")
        })()
        return Stream.fromAsyncIterable(pieces, (cause) => wrong(reference, diffId, cause))
      })
    )

  /** The archive of the images, in pieces. Nothing is given before all of them were found whole and savable. */
  return (references: ReadonlyArray<string>): Stream.Stream<Uint8Array, SaveError> =>
    Stream.unwrap(
      Effect.gen(function* () {
        const owners = new Map<Digest, string>()
        const images = yield* Effect.forEach(new Set(references), (reference) =>
          Effect.tap(describe(reference), ({ layers }) => {
            for (const { diffId } of layers) owners.set(diffId, reference)
            return Effect.void
          })
        )
        return Stream.fromIterable(archivePieces(yield* archiveFiles(images))).pipe(
          Stream.flatMap(
            (piece): Stream.Stream<Uint8Array, SaveError> =>
              piece instanceof Uint8Array ? Stream.succeed(piece) : layerTar(owners.get(piece.diffId)!, piece.diffId)
          )
        )
      }).pipe(Effect.withSpan("ImageStore.save"))
    )
})
