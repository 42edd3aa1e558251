/**
 * Keeps OCI images on this machine: pulls or loads them, answers questions about them, and gives their space back.
 * Moves them through `imageTransfers.ts`, looks after files through `imageFiles.ts`; boots nothing.
 *
 * Invariants: an image is visible only after its files are published and recorded; what a lease, a reference or a sandbox names
 * is never collected.
 */
import { Clock, Context, Effect, Stream } from "effect"
import { Rpc, type RpcGroup } from "effect/rpc"
import { ImageInUse, ImageNotCached, ImageNotFound } from "../../domain/errors/image.ts"
import { ImageEvent, ImageInspection, LeasedImage, Usage } from "../../domain/image/image.ts"
import type { ImageOptions } from "../../domain/image/imageOptions.ts"
import { type Platform, platformScore } from "../../domain/image/platform.ts"
import { canonicalReference, parseReference, type Reference } from "../../domain/image/reference.ts"
import { Database } from "../../store/database/Database.ts"
import { pruneReferences, removeReference } from "../../store/database/imageCollection.ts"
import {
  findReferenced,
  imageConfig,
  imageLayers,
  listImages,
  rootManifest,
  touchImage
} from "../../store/database/images.ts"
import { diskUsage } from "../../store/files/files.ts"
import { Paths } from "../../store/files/Paths.ts"
import { type Address, events, type Later, layerLocal } from "../kit/Actor.ts"
import { holdContent, LeaseManager } from "../leases/LeaseManager.ts"
import { makeImageFiles } from "./cacheFiles.ts"
import type { ImageSources } from "./install.ts"
import { ImageProtocol } from "./protocol.ts"
import type { MakeWhole } from "./save.ts"
import type { Emit, PullRequest } from "./transfers.ts"

const make = (sources: Later<ImageSources>, options: ImageOptions) =>
  Effect.gen(function* () {
    const db = yield* Database
    const paths = yield* Paths
    const leases = yield* LeaseManager
    const files = yield* makeImageFiles
    const context = yield* Effect.context<Database | Paths | LeaseManager>()
    /** What moves images in and out, loaded when an image is to move. */
    const transfers = yield* Effect.promise(async () => {
      const { makeTransfers } = await import("./transfers.ts")
      return makeTransfers(files, makeWhole, await sources(), options)
    }).pipe(Effect.flatten, Effect.provideContext(context), Effect.uninterruptible, Effect.cached)

    /**
     * Makes a recorded image whole: fetches layers again that are missing or damaged, stitches again what is missing, the latter
     * without network. The caller holds a lease of the manifest. Fails when a layer can not be had.
     */
    const makeWhole: MakeWhole = Effect.fn("ImageStore.repair")(function* (image, reference) {
      const layers = yield* imageLayers(db, image.manifestId)
      const missing = layers.filter((layer) => !files.isWhole(layer))
      if (missing.length > 0) yield* (yield* transfers).fetchAgain(reference, missing)
      const diffIds = layers.map((layer) => layer.diffId)
      if (!files.isAssembled(image.manifestDigest, diffIds)) yield* files.assemble(image.manifestDigest, diffIds)
    })

    const lookup = Effect.fnUntraced(function* (text: string) {
      const found = yield* findReferenced(db, yield* parseReference(text))
      if (found === undefined) return yield* new ImageNotFound({ reference: text })
      return found
    })

    /** The record of an image of the wanted platform whose layers are all here. */
    const complete = Effect.fnUntraced(function* (reference: Reference, platform: Platform | undefined) {
      const found = yield* findReferenced(db, reference)
      if (found === undefined || (platform !== undefined && platformScore(platform, found.image) === undefined))
        return undefined
      const layers = yield* imageLayers(db, found.manifestId)
      if (layers.length !== found.image.layerCount || !layers.every(files.isWhole)) return undefined
      return { ...found, diffIds: layers.map((layer) => layer.diffId) }
    })

    /** The recorded image as it may be used without the network, put in order if need be; undefined when it may not. */
    const cached = Effect.fnUntraced(function* (reference: Reference, platform: Platform | undefined) {
      const found = yield* complete(reference, platform)
      if (found === undefined) return undefined
      const { manifestDigest } = found.image
      if (!files.isAssembled(manifestDigest, found.diffIds)) {
        const assembled = yield* Effect.scoped(
          Effect.gen(function* () {
            yield* (yield* holdContent(leases)).add([manifestDigest, ...found.diffIds])
            // Looked up again: it may have been removed before the lease held it.
            const held = yield* complete(reference, platform)
            if (held?.image.manifestDigest !== manifestDigest) return false
            yield* files.assemble(manifestDigest, held.diffIds)
            return true
          })
        )
        if (!assembled) return undefined
      }
      return (yield* touchImage(db, found, yield* Clock.currentTimeMillis)) ? found.image : undefined
    })

    const pull = Effect.fn("ImageStore.pull")(function* (request: PullRequest, emit: Emit) {
      const parsed = yield* parseReference(request.reference)
      if (request.policy !== "always") {
        const image = yield* cached(parsed, request.platform)
        if (image !== undefined) return emit(ImageEvent.cases.Done.make({ image, cached: true }))
        if (request.policy === "never") return yield* new ImageNotCached({ reference: request.reference })
      }
      yield* (yield* transfers).pull(parsed, request, emit)
    })

    const lease = Effect.fn("ImageStore.lease")(function* (request: {
      readonly reference: string
      readonly sandboxId?: number
      readonly token: string
      readonly durationMs: number
    }) {
      const find = Effect.gen(function* () {
        const root = request.sandboxId === undefined ? undefined : yield* rootManifest(db, request.sandboxId)
        if (root !== undefined) return { manifestId: root.id, manifestDigest: root.digest }
        const { image, manifestId } = yield* lookup(request.reference)
        return { manifestId, manifestDigest: image.manifestDigest }
      })
      const hold = Effect.gen(function* () {
        const found = yield* find
        const { token, durationMs } = request
        yield* leases
          .HoldContent({ token, resources: [found.manifestDigest], durationMs })
          .pipe(Effect.catchTag("RpcClientError", Effect.die))
        // Looked up again: it may have been removed, or replaced by another, before the lease held it.
        return (yield* find).manifestId === found.manifestId ? found : undefined
      })
      const found = yield* Effect.repeat(hold, { until: (held) => held !== undefined })
      yield* makeWhole(found!, request.reference)
      return new LeasedImage({
        reference: canonicalReference(yield* parseReference(request.reference)),
        manifestDigest: found!.manifestDigest,
        disk: paths.vmdk(found!.manifestDigest),
        config: yield* imageConfig(db, found!.manifestId)
      })
    })

    const remove = Effect.fn("ImageStore.remove")(function* (text: string, force: boolean) {
      const { image } = yield* lookup(text)
      const gone = yield* removeReference(db, image.reference, force, yield* Clock.currentTimeMillis).pipe(
        Effect.catchTag("UsedBy", ({ sandboxes }) => Effect.fail(new ImageInUse({ reference: text, sandboxes })))
      )
      return yield* files.removeFiles(gone)
    })

    const prune = Effect.fn("ImageStore.prune")(function* (dryRun: boolean) {
      const gone = yield* pruneReferences(db, dryRun, yield* Clock.currentTimeMillis)
      return yield* files.removeAndSweep(gone, dryRun)
    })

    const usage = Effect.fn("ImageStore.usage")(function* () {
      const images = yield* listImages(db)
      return new Usage({
        images: { count: images.length, bytes: diskUsage(paths.fsmetas) + diskUsage(paths.vmdks) },
        layers: yield* files.countFiles(paths.layers),
        sandboxes: yield* files.countFiles(paths.sandboxes),
        temporary: yield* files.countFiles(paths.temporary)
      })
    })

    return ImageProtocol.of({
      Pull: (request) => Rpc.fork(events((emit) => pull(request, emit))),
      Load: (request) => Rpc.fork(events((emit) => Effect.flatMap(transfers, ({ load }) => load(request, emit)))),
      Import: (request) =>
        Rpc.fork(events((emit) => Effect.flatMap(transfers, (each) => each.importRootfs(request, emit)))),
      Save: ({ references }) => Rpc.fork(Stream.unwrap(Effect.map(transfers, ({ save }) => save(references)))),
      Login: (request) => Rpc.fork(Effect.flatMap(transfers, ({ login }) => login(request))),
      Logout: ({ registry }) =>
        Rpc.fork(
          Effect.flatMap(transfers, ({ logout }) => Effect.map(logout(registry), (forgotten) => ({ forgotten })))
        ),
      // A layer that must be fetched again holds up nobody else.
      Lease: (request) => Rpc.fork(lease(request)),
      Get: ({ reference }) => Effect.map(lookup(reference), ({ image }) => image),
      List: () => listImages(db),
      Inspect: Effect.fn("ImageStore.inspect")(function* ({ reference }: { readonly reference: string }) {
        const { image, manifestId } = yield* lookup(reference)
        return new ImageInspection({
          image,
          config: yield* imageConfig(db, manifestId),
          layers: yield* imageLayers(db, manifestId)
        })
      }),
      Remove: ({ reference, force }) => remove(reference, force),
      Prune: ({ dryRun }) => prune(dryRun === true),
      Usage: () => usage()
    })
  })

export class ImageStore extends Context.Service<ImageStore, Address<RpcGroup.Rpcs<typeof ImageProtocol>>>()(
  "bunker/ImageStore"
) {
  static readonly layer = (sources: Later<ImageSources>, options: ImageOptions = {}) =>
    layerLocal(ImageStore, ImageProtocol, make(sources, options))
}
