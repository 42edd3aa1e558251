/**
 * Brings one image's files into the cache: layers to EROFS, fsmeta, VMDK, then the record. Part of ImageStore, which owns it.
 *
 * Invariants: files are published before they are recorded, under the layer's file lock; a content lease holds everything
 * that is fetched until the record names it; a failed or interrupted install leaves no file that no record names.
 */

import fs from "node:fs"
import { Cause, Clock, Effect, Exit, Option, type Redacted, type Scope, Semaphore } from "effect"
import type { InstallError, LoginError } from "../../domain/errors/groups.ts"
import { ManifestInvalid } from "../../domain/errors/image.ts"
import { DiskFull, StoreFailed } from "../../domain/errors/store.ts"
import { Failpoint, reach } from "../../domain/failpoint.ts"
import { Digest, isDigest } from "../../domain/image/digest.ts"
import { ImageEvent, LayerInfo, RunDefaults } from "../../domain/image/image.ts"
import type { RunConfig } from "../../domain/image/imageChanges.ts"
import type { ImageLimits, ImageOptions } from "../../domain/image/imageOptions.ts"
import type { Platform } from "../../domain/image/platform.ts"
import { parseReference, type Reference } from "../../domain/image/reference.ts"
import { type ConvertOptions, convertLayer, type LayerLimits } from "../../oci/layer/layer.ts"
import type { ImageSource, ResolvedImage, ResolvedLayer, SourceError } from "../../oci/manifest/source.ts"
import type { LoginStored } from "../../oci/registry/login.ts"
import { type SpoolPolicy, spooled } from "../../oci/registry/resumableDownload.ts"
import { Database } from "../../store/database/Database.ts"
import { freeDeadLeases } from "../../store/database/imageCollection.ts"
import { LayerGone, persistImage, recordLayer } from "../../store/database/images.ts"
import { ingest } from "../../store/files/files.ts"
import { fileLock } from "../../store/files/lock.ts"
import { Paths } from "../../store/files/Paths.ts"
import { holdContent, LeaseManager } from "../leases/LeaseManager.ts"
import type { ImageFiles } from "./cacheFiles.ts"
import { keepDocuments } from "./save.ts"

/** How a registry is to be asked for one image. */
export interface RegistryRequest {
  /** Plain HTTP. */
  readonly insecure: boolean
  /** Registries and mirrors that are always asked over plain HTTP. */
  readonly insecureHosts: ReadonlyArray<string>
  /** Asked first, in order. */
  readonly mirrors: ReadonlyArray<string>
  /** Goes before all other credentials; to this registry only. */
  readonly login?: Login
}

/** User name and password for a registry. */
export interface Login {
  readonly username: string
  readonly password: Redacted.Redacted<string>
}

/** Where images come from; the doors' layer binds these to registries and archives. */
export interface ImageSources {
  readonly registry: (reference: Reference, options: RegistryRequest) => ImageSource
  readonly rootfs: (path: string, config: RunConfig) => ImageSource
  readonly archive: (
    path: string,
    /** A private directory that goes with the scope, also after a crash. */
    options: { readonly spoolDirectory: string }
  ) => Effect.Effect<
    {
      readonly source: (index: number) => ImageSource
      readonly names: ReadonlyArray<string | undefined>
      /** How many different images the names are of. */
      readonly count: number
    },
    SourceError | DiskFull,
    Scope.Scope
  >
  /** Checks a login with its registry, then keeps it. */
  readonly login: (domain: string, login: Login, insecure: boolean) => Effect.Effect<LoginStored, LoginError>
  /** Forgets a registry's login; answers whether there was one. */
  readonly logout: (domain: string) => Effect.Effect<boolean, LoginError>
  /** When a download is worth keeping for another try; see oci/registry/resumableDownload.ts. */
  readonly spool?: Partial<SpoolPolicy>
}

/** Layers that move at once: small ones wait for the network and the disk, large ones for the processor and memory. */
const layersAtOnce = { small: 12, large: 3 }
/** Stored bytes above which a layer is large. */
const smallLayerBytes = 2 ** 20
/** Shortest time between two progress events of a layer, in milliseconds. */
const progressEveryMs = 100
/** How often an image is put together again whose lease ran out meanwhile (a suspended machine, a stopped process). */
const retriesMax = 3

type Emit = (event: ImageEvent) => void
type KnownLayer = ResolvedLayer & { readonly diffId: Digest }

export const makeInstaller = Effect.fnUntraced(function* (
  files: ImageFiles,
  sources: ImageSources,
  options: ImageOptions
) {
  const limits = layerLimits(options.limits ?? {})

  /** The registry, or a mirror of it, that an image comes from. */
  const registrySource = (
    reference: Reference,
    request: { readonly insecure?: boolean; readonly login?: Login } = {}
  ) =>
    sources.registry(reference, {
      insecure: request.insecure === true,
      insecureHosts: options.insecureRegistries ?? [],
      mirrors: options.mirrors?.[reference.domain] ?? [],
      ...(request.login === undefined ? {} : { login: request.login })
    })

  const db = yield* Database
  const paths = yield* Paths
  const leases = yield* LeaseManager

  /** Brings a layer's bytes into an image, going on from what an earlier try kept. The caller holds the layer's lock. */
  const convert = (source: ImageSource, layer: KnownLayer, temporary: string, options: ConvertOptions) => {
    const partial = paths.partial(layer.diffId, Digest.make(layer.digest))
    const forget = () => fs.rmSync(partial, { force: true })
    let resumed = false
    const attempt = Effect.gen(function* () {
      const { rest } = source
      if (rest === undefined) return yield* convertLayer({ ...layer, bytes: source.blob(layer) }, temporary, options)
      const { bytes, kept } = yield* spooled(partial, layer.sizeBytes, (from) => rest(layer, from), sources.spool)
      resumed = kept > 0
      return yield* convertLayer({ ...layer, bytes }, temporary, options)
    }).pipe(Effect.scoped)
    return attempt.pipe(
      // What was kept may be wrong, and the rest right: once more from the start.
      Effect.catchTag(["DigestMismatch", "LayerRejected"], (error) => {
        if (!resumed) return Effect.fail(error)
        forget()
        return attempt
      }),
      Effect.onExit((exit) => (wasCut(exit) ? Effect.void : Effect.sync(forget)))
    )
  }

  const fetchLayer = Effect.fn("ImageStore.layer")(
    function* (source: ImageSource, layer: KnownLayer, emit: Emit) {
      const { digest, diffId } = layer
      if (yield* files.haveLayer(diffId)) return emit(ImageEvent.cases.LayerDone.make({ digest, cached: true }))
      // Whoever comes second waits here and finds the first one's file.
      yield* fileLock(paths.lockFile(diffId))
      yield* reach("layer.locked")
      if (yield* files.haveLayer(diffId)) return emit(ImageEvent.cases.LayerDone.make({ digest, cached: true }))
      let last = 0
      const watch = yield* Failpoint
      const onBytes = (bytes: number) => {
        if (2 * bytes >= layer.sizeBytes) watch("blob.half")
        if (bytes === layer.sizeBytes) watch("blob.whole")
        const now = performance.now()
        if (now - last < progressEveryMs && bytes !== layer.sizeBytes) return
        last = now
        emit(ImageEvent.cases.LayerProgress.make({ digest, bytes, totalBytes: layer.sizeBytes }))
      }
      yield* ingest(
        paths.temporary,
        paths.layerImage(diffId),
        (temporary) =>
          Effect.tap(convert(source, layer, temporary, { onBytes, limits }), () => reach("layer.converted")),
        {
          kind: "layer",
          record: (converted) => {
            const info = new LayerInfo({
              diffId,
              blobDigest: Digest.make(converted.blobDigest),
              mediaType: converted.mediaType,
              compressedSizeBytes: converted.compressedBytes,
              erofsSizeBytes: converted.erofsBytes,
              position: 0
            })
            return Effect.flatMap(Clock.currentTimeMillis, (now) => recordLayer(db, info, now)).pipe(
              Effect.andThen(reach("layer.recorded"))
            )
          }
        }
      )
      emit(ImageEvent.cases.LayerDone.make({ digest, cached: false }))
    },
    Effect.scoped,
    (effect, _source, layer) => Effect.mapError(effect, needing(layer.sizeBytes))
  )

  /** A full disk as people know it: by the home, not by a temporary name, with the least that would have helped. */
  const needing =
    (neededBytes?: number) =>
    <E extends { readonly _tag: string }>(error: E | DiskFull): E | DiskFull =>
      error._tag === "DiskFull"
        ? new DiskFull({ path: paths.home, ...(neededBytes === undefined ? {} : { neededBytes }) })
        : error

  const fetchAll = (source: ImageSource, layers: ReadonlyArray<KnownLayer>, emit: Emit) => {
    const distinct = [...new Map(layers.map((layer) => [layer.diffId, layer])).values()]
    const large = Semaphore.makeUnsafe(layersAtOnce.large)
    const fetch = (layer: KnownLayer) =>
      layer.sizeBytes > smallLayerBytes
        ? large.withPermits(1)(fetchLayer(source, layer, emit))
        : fetchLayer(source, layer, emit)
    return Effect.forEach(distinct, fetch, { concurrency: layersAtOnce.small, discard: true }).pipe(
      // A full disk is no place for what might be gone on with; another process that does so now has its file open.
      Effect.tapError((error) =>
        error._tag === "DiskFull"
          ? Effect.sync(() => {
              for (const { diffId, digest } of distinct) {
                fs.rmSync(paths.partial(diffId, Digest.make(digest)), { force: true })
              }
            })
          : Effect.void
      )
    )
  }

  const removedAgain = ({ diffId }: LayerGone) =>
    Effect.fail(
      new StoreFailed({
        operation: "record",
        path: paths.layerImage(diffId),
        reason: "it was removed again and again while the image was put together; try again"
      })
    )

  const install = Effect.fn("ImageStore.install")(
    function* (source: ImageSource, reference: string, platform: Platform, emit: Emit) {
      yield* files.sweepTemporary()
      yield* freeDeadLeases(db, yield* Clock.currentTimeMillis)
      const hold = yield* holdContent(leases)
      const resolved = yield* source.resolve(platform)
      yield* reach("manifest")
      yield* checkLimits(resolved, options.limits ?? {})
      const layers = yield* withDiffIds(resolved)
      const diffIds = layers.map((layer) => layer.diffId)
      const manifestDigest = Digest.make(resolved.manifestDigest)
      const { totalSizeBytes } = resolved
      emit(ImageEvent.cases.Resolved.make({ reference, manifestDigest, layers: layers.length, totalSizeBytes }))
      const putTogether = Effect.andThen(
        files.assemble(manifestDigest, diffIds),
        keepDocuments(paths, manifestDigest, resolved.documents)
      ).pipe(Effect.catch((error) => Effect.andThen(checkLayers(files, diffIds), Effect.fail(error))))
      const image = yield* Effect.gen(function* () {
        yield* hold.add([manifestDigest, ...diffIds])
        yield* reach("lease.held")
        yield* fetchAll(source, layers, emit)
        yield* putTogether
        return yield* persistImage(
          db,
          reference,
          metadata(resolved, manifestDigest, diffIds),
          yield* Clock.currentTimeMillis
        )
      }).pipe(
        Effect.retry({ while: (error) => error._tag === "LayerGone", times: retriesMax }),
        Effect.catchTag("LayerGone", removedAgain)
      )
      yield* reach("image.recorded")
      // A collector may have taken these files if the lease ran out for a while; now the record keeps them.
      yield* Effect.catchTag(putTogether, "LayerGone", removedAgain)
      emit(ImageEvent.cases.Assembled.make({ manifestDigest }))
      return image
    },
    Effect.scoped,
    Effect.tap(() => reach("lease.dropped")),
    // The lease is dropped by now: what a failed install fetched, and nobody else holds, goes away again.
    Effect.onError(() => Effect.ignore(files.collectUnused))
  )

  /** Fetches layers of a recorded image again that are missing or damaged. The caller holds a lease of the manifest. */
  const fetchAgain = Effect.fnUntraced(function* (reference: string, missing: ReadonlyArray<LayerInfo>) {
    yield* files.sweepTemporary()
    const source = registrySource(yield* parseReference(reference))
    yield* fetchAll(source, missing.map(asStored), () => undefined).pipe(
      Effect.mapError((error) => lostLayer(reference, missing[0]!.diffId, error))
    )
  })

  return { install, fetchAgain, registrySource }
})

/** True when another try can go on from what was kept: the network failed, or somebody lost patience. */
const wasCut = (exit: Exit.Exit<unknown, { readonly _tag: string }>): boolean =>
  Exit.isFailure(exit) &&
  (Cause.hasInterruptsOnly(exit.cause) ||
    Option.exists(Cause.findErrorOption(exit.cause), (error) => error._tag === "RegistryUnavailable"))

/** Fails with the first layer that is here no more: then its absence is why something else failed. */
const checkLayers = (files: ImageFiles, diffIds: ReadonlyArray<Digest>) =>
  Effect.forEach(
    diffIds,
    (diffId) =>
      Effect.flatMap(files.haveLayer(diffId), (here) => (here ? Effect.void : Effect.fail(new LayerGone({ diffId })))),
    { discard: true }
  )

const asStored = (layer: LayerInfo): KnownLayer => ({
  mediaType: layer.mediaType,
  digest: layer.blobDigest,
  sizeBytes: layer.compressedSizeBytes,
  diffId: layer.diffId
})

/** Failures of this machine stay what they are; a source that has the layer no more is told as what it means. */
const lostLayer = (reference: string, diffId: Digest, error: InstallError) =>
  error._tag === "DiskFull" || error._tag === "HomeUnusable"
    ? error
    : new ManifestInvalid({
        what: `the cached image "${reference}"`,
        field: "layer",
        value: `missing or damaged (${diffId}), and it can not be fetched again (${error.message}); pull or load the image again`
      })

const layerLimits = (limits: ImageLimits): Partial<LayerLimits> => {
  const given = {
    entriesMax: limits.entries,
    pathBytesMax: limits.pathBytes,
    depthMax: limits.depth,
    fileBytesMax: limits.fileBytes,
    bytesMax: limits.layerBytes,
    ratioMax: limits.inflateRatio
  }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}

/** The owner's bounds, which are never above those that a document was read with. */
const checkLimits = (resolved: ResolvedImage, limits: ImageLimits): Effect.Effect<void, ManifestInvalid> => {
  const { documents, layers, manifestDigest } = resolved
  const past = (
    [
      ["layers", layers.length, limits.layers],
      ["size of the manifest", documents.manifest.length, limits.manifestBytes],
      ["size of the config", documents.config.length, limits.configBytes]
    ] as const
  ).find(([, count, most]) => most !== undefined && count > most)
  if (past === undefined) return Effect.void
  const [field, count, most] = past
  const value = `${count}, more than the ${most} that this machine's limits allow`
  return Effect.fail(new ManifestInvalid({ what: `image ${manifestDigest}`, field, value }))
}

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
