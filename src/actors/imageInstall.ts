/**
 * Brings one image's files into the cache: layers to EROFS, fsmeta, VMDK, then the record. Part of ImageStore, which owns it.
 *
 * Invariants: files are published before they are recorded, under the layer's file lock; a content lease holds everything
 * that is fetched until the record names it; a failed install leaves no file that no record names.
 */

import fs from "node:fs"
import path from "node:path"
import { Clock, Effect, type Scope } from "effect"
import { Digest, isDigest } from "../domain/digest.ts"
import { ManifestInvalid } from "../domain/errors/image.ts"
import { ImageEvent, type ImageHandle, LayerInfo, RunDefaults } from "../domain/image.ts"
import type { Platform } from "../domain/platform.ts"
import type { Reference } from "../domain/reference.ts"
import { buildFsmeta } from "../oci/fsmeta.ts"
import { convertLayer } from "../oci/layer.ts"
import type { ImageSource, ResolvedImage, ResolvedLayer, SourceError } from "../oci/source.ts"
import { vmdkDescriptor } from "../oci/vmdk.ts"
import { Database } from "../store/Database.ts"
import { attemptFile, diskUsage, type FileError, ingest, writeAtomic } from "../store/files.ts"
import {
  type Collected,
  collectRecords,
  findImage,
  type ImageRecord,
  imageLayers,
  layerBytes,
  persistImage,
  recordLayer
} from "../store/images.ts"
import { fileLock } from "../store/lock.ts"
import { Paths } from "../store/Paths.ts"
import { type ContentHold, holdContent, LeaseManager } from "./LeaseManager.ts"

/** Where images come from; the doors' layer binds these to registries and archives. */
export interface ImageSources {
  readonly registry: (reference: Reference, options: { readonly insecure: boolean }) => ImageSource
  readonly archive: (
    path: string
  ) => Effect.Effect<
    { readonly source: (index: number) => ImageSource; readonly names: ReadonlyArray<string | undefined> },
    SourceError,
    Scope.Scope
  >
}

/** Layers that move at once. */
const layerConcurrency = 3
/** Shortest time between two progress events of a layer, in milliseconds. */
const progressEveryMs = 100

type Emit = (event: ImageEvent) => void

export const makeInstaller = Effect.gen(function* () {
  const db = yield* Database
  const paths = yield* Paths
  const leases = yield* LeaseManager

  const sizeOf = (file: string): number | undefined => fs.statSync(file, { throwIfNoEntry: false })?.size

  const haveLayer = Effect.fnUntraced(function* (diffId: Digest) {
    const recorded = yield* layerBytes(db, diffId)
    return recorded !== undefined && sizeOf(paths.layerImage(diffId)) === recorded
  })

  const fetchLayer = Effect.fn("ImageStore.layer")(function* (
    source: ImageSource,
    layer: ResolvedLayer & { readonly diffId: Digest },
    emit: Emit
  ) {
    const { digest, diffId } = layer
    if (yield* haveLayer(diffId)) return emit(ImageEvent.cases.LayerDone.make({ digest, cached: true }))
    // Whoever comes second waits here and finds the first one's file.
    yield* fileLock(paths.lockFile(diffId))
    if (yield* haveLayer(diffId)) return emit(ImageEvent.cases.LayerDone.make({ digest, cached: true }))
    let last = 0
    const onBytes = (bytes: number) => {
      const now = performance.now()
      if (now - last < progressEveryMs && bytes !== layer.sizeBytes) return
      last = now
      emit(ImageEvent.cases.LayerProgress.make({ digest, bytes, totalBytes: layer.sizeBytes }))
    }
    const converted = yield* ingest(paths.temporary, paths.layerImage(diffId), (temporary) =>
      convertLayer({ ...layer, bytes: source.blob(layer) }, temporary, { onBytes })
    )
    yield* recordLayer(
      db,
      new LayerInfo({
        diffId,
        blobDigest: Digest.make(converted.blobDigest),
        mediaType: converted.mediaType,
        compressedSizeBytes: converted.compressedBytes,
        erofsSizeBytes: converted.erofsBytes,
        position: 0
      }),
      yield* Clock.currentTimeMillis
    )
    emit(ImageEvent.cases.LayerDone.make({ digest, cached: false }))
  }, Effect.scoped)

  /** Stitches layers into fsmeta and VMDK unless they are there. */
  const assemble = Effect.fn("ImageStore.assemble")(function* (manifest: Digest, diffIds: ReadonlyArray<Digest>) {
    if (sizeOf(paths.vmdk(manifest)) !== undefined && sizeOf(paths.fsmeta(manifest)) !== undefined) return
    yield* fileLock(paths.lockFile(manifest))
    const fsmeta = paths.fsmeta(manifest)
    const { bytes, extents } = yield* ingest(paths.temporary, fsmeta, (temporary) =>
      buildFsmeta(
        diffIds.map((diffId) => paths.layerImage(diffId)),
        temporary
      )
    )
    // The first extent is fsmeta itself, under the temporary name that it was built with.
    const descriptor = vmdkDescriptor(path.dirname(paths.vmdk(manifest)), [
      { path: fsmeta, bytes },
      ...extents.slice(1)
    ])
    yield* writeAtomic(paths.vmdk(manifest), descriptor)
  }, Effect.scoped)

  const install = Effect.fn("ImageStore.install")(function* (
    source: ImageSource,
    reference: string,
    platform: Platform,
    emit: Emit
  ) {
    return yield* Effect.gen(function* () {
      const hold = yield* holdContent(leases)
      const resolved = yield* source.resolve(platform)
      const layers = yield* withDiffIds(resolved)
      const manifestDigest = Digest.make(resolved.manifestDigest)
      emit(
        ImageEvent.cases.Resolved.make({
          reference,
          manifestDigest,
          layers: layers.length,
          totalSizeBytes: resolved.totalSizeBytes
        })
      )
      yield* fetchAll(source, layers, manifestDigest, hold, emit)
      const diffIds = layers.map((layer) => layer.diffId)
      yield* assemble(manifestDigest, diffIds)
      emit(ImageEvent.cases.Assembled.make({ manifestDigest }))
      yield* persistImage(db, reference, metadata(resolved, manifestDigest, diffIds), yield* Clock.currentTimeMillis)
      const found = yield* findImage(db, reference)
      return found!.image
    }).pipe(
      Effect.scoped,
      // The lease is dropped by now: what a failed install fetched and nobody else holds goes away again.
      Effect.onError(() => Effect.ignore(collectLeftovers()))
    )
  })

  const fetchAll = (
    source: ImageSource,
    layers: ReadonlyArray<ResolvedLayer & { readonly diffId: Digest }>,
    manifest: Digest,
    hold: ContentHold,
    emit: Emit
  ) =>
    Effect.gen(function* () {
      yield* hold.add([manifest, ...layers.map((layer) => layer.diffId)])
      const distinct = [...new Map(layers.map((layer) => [layer.diffId, layer])).values()]
      yield* Effect.forEach(distinct, (layer) => fetchLayer(source, layer, emit), {
        concurrency: layerConcurrency,
        discard: true
      })
    })

  const collectLeftovers = Effect.fnUntraced(function* () {
    const gone = yield* collectRecords(db, [], yield* Clock.currentTimeMillis)
    yield* removeFiles(gone)
  })

  /** Removes files that no record names any more, each under its lock and only if it was not recorded again meanwhile. */
  const removeFiles = Effect.fn("ImageStore.removeFiles")(function* (gone: Pick<Collected, "manifests" | "layers">) {
    let bytes = 0
    const removeFile = (file: string) =>
      attemptFile("remove", file, () => {
        bytes += diskUsage(file)
        fs.rmSync(file, { force: true })
      })
    for (const manifest of gone.manifests) {
      yield* removeFile(paths.vmdk(manifest))
      yield* removeFile(paths.fsmeta(manifest))
      yield* removeFile(paths.lockFile(manifest))
    }
    for (const diffId of gone.layers) {
      yield* Effect.gen(function* () {
        yield* fileLock(paths.lockFile(diffId))
        if ((yield* layerBytes(db, diffId)) === undefined) yield* removeFile(paths.layerImage(diffId))
      }).pipe(Effect.scoped)
    }
    return bytes
  })

  /** True when every file of a recorded image is there with its recorded length. */
  const isComplete = Effect.fnUntraced(function* (record: ImageRecord) {
    const manifest = record.image.manifestDigest
    if (sizeOf(paths.vmdk(manifest)) === undefined || sizeOf(paths.fsmeta(manifest)) === undefined) return false
    const layers = yield* imageLayers(db, record.manifestId)
    return layers.length > 0 && layers.every((layer) => sizeOf(paths.layerImage(layer.diffId)) === layer.erofsSizeBytes)
  })

  /** Makes a recorded image bootable without the network: stitches again what is missing. Fails when a layer is gone. */
  const repair = Effect.fn("ImageStore.repair")(function* (manifestId: number, image: ImageHandle) {
    const layers = yield* imageLayers(db, manifestId)
    for (const layer of layers) {
      if (sizeOf(paths.layerImage(layer.diffId)) !== layer.erofsSizeBytes) {
        return yield* new ManifestInvalid({
          what: `the cached image "${image.reference}"`,
          field: "layer",
          value: `missing or damaged (${layer.diffId}); fetch it again with 'bunker pull --pull always ${image.reference}'`
        })
      }
    }
    yield* assemble(
      image.manifestDigest,
      layers.map((layer) => layer.diffId)
    )
  })

  const countFiles = (
    directory: string
  ): Effect.Effect<{ readonly count: number; readonly bytes: number }, FileError> =>
    attemptFile("read", directory, () => ({ count: fs.readdirSync(directory).length, bytes: diskUsage(directory) }))

  return { install, isComplete, repair, removeFiles, countFiles }
})

const withDiffIds = Effect.fnUntraced(function* (resolved: ResolvedImage) {
  const what = `image ${resolved.manifestDigest}`
  return yield* Effect.forEach(resolved.layers, (layer, index) =>
    layer.diffId !== undefined && isDigest(layer.diffId)
      ? Effect.succeed({ ...layer, diffId: layer.diffId })
      : Effect.fail(new ManifestInvalid({ what, field: `$.rootfs.diff_ids[${index}]`, value: String(layer.diffId) }))
  )
})

const metadata = (resolved: ResolvedImage, manifestDigest: Digest, diffIds: ReadonlyArray<Digest>) => {
  const { config } = resolved
  const built = config.created === undefined ? Number.NaN : Date.parse(config.created)
  return {
    manifestDigest,
    mediaType: resolved.manifestMediaType,
    configDigest: resolved.configDigest,
    architecture: config.architecture,
    os: config.os,
    variant: config.variant,
    totalSizeBytes: resolved.totalSizeBytes,
    builtAt: Number.isNaN(built) ? null : built,
    config: new RunDefaults({ ...config, stopSignal: config.stopSignal ?? null }),
    diffIds
  }
}
