/**
 * Keeps OCI images on this machine: pulls or loads them, answers questions about them, and gives their space back.
 * Converts and fetches through `imageInstall.ts`; boots nothing.
 *
 * Invariants: an image is visible only after its files are published and recorded; what a lease, a reference or a sandbox names
 * is never collected.
 */
import { Clock, Context, Effect, Option, Queue, Schema, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { ImageLookupErrors, ImageRemoveErrors, InstallErrors, StoreErrors } from "../domain/errors/groups.ts"
import { ArchiveInvalid, ImageInUse, ImageNotCached, ImageNotFound } from "../domain/errors/image.ts"
import {
  CollectReport,
  ImageEvent,
  ImageHandle,
  ImageInspection,
  LeasedImage,
  PullPolicy,
  Usage
} from "../domain/image.ts"
import { defaultPlatform, Platform } from "../domain/platform.ts"
import { canonicalReference, parseReference } from "../domain/reference.ts"
import { Database } from "../store/Database.ts"
import { diskUsage } from "../store/files.ts"
import {
  collectRecords,
  findImage,
  imageConfig,
  imageLayers,
  listImages,
  touchImage,
  unusedReferences
} from "../store/images.ts"
import { Paths } from "../store/Paths.ts"
import { usersOfManifest } from "../store/sandboxes.ts"
import { type Address, layerLocal } from "./Actor.ts"
import { type ImageSources, makeInstaller } from "./imageInstall.ts"
import { LeaseManager } from "./LeaseManager.ts"

const Reference = Schema.String.check(Schema.isMaxLength(1024))

export class ImageProtocol extends RpcGroup.make(
  /** Makes the image be here; the last event is `Done`. */
  Rpc.make("Pull", {
    payload: {
      reference: Reference,
      policy: PullPolicy,
      platform: Schema.optionalKey(Platform),
      /** Allows plain HTTP and unverified TLS for a registry that is not on this machine. */
      insecure: Schema.optionalKey(Schema.Boolean)
    },
    success: ImageEvent,
    error: InstallErrors,
    stream: true
  }),
  /** Loads an OCI layout directory, an OCI archive or a `docker save` archive; `tag` names an image that has no name. */
  Rpc.make("Load", {
    payload: { path: Schema.String, tag: Schema.optionalKey(Reference), platform: Schema.optionalKey(Platform) },
    success: ImageEvent,
    error: InstallErrors,
    stream: true
  }),
  /** An image ready to boot; `token` names a content lease of the caller that is made to hold it first. */
  Rpc.make("Lease", {
    payload: { reference: Reference, token: Schema.NonEmptyString, durationMs: Schema.Int },
    success: LeasedImage,
    error: InstallErrors
  }),
  Rpc.make("Get", { payload: { reference: Reference }, success: ImageHandle, error: ImageLookupErrors }),
  Rpc.make("List", { success: Schema.Array(ImageHandle), error: StoreErrors }),
  Rpc.make("Inspect", { payload: { reference: Reference }, success: ImageInspection, error: ImageLookupErrors }),
  Rpc.make("Remove", {
    payload: { reference: Reference, force: Schema.Boolean },
    success: CollectReport,
    error: ImageRemoveErrors
  }),
  /** Removes every image that is the root of no sandbox. */
  Rpc.make("Prune", { success: CollectReport, error: StoreErrors }),
  Rpc.make("Usage", { success: Usage, error: StoreErrors })
) {}

const make = (sources: ImageSources) =>
  Effect.gen(function* () {
    const db = yield* Database
    const paths = yield* Paths
    const leases = yield* LeaseManager
    const installer = yield* makeInstaller

    const lookup = Effect.fnUntraced(function* (text: string) {
      const reference = canonicalReference(yield* parseReference(text))
      const found = yield* findImage(db, reference)
      if (found === undefined) return yield* new ImageNotFound({ reference: text })
      return found
    })

    const pull = Effect.fn("ImageStore.pull")(function* (
      request: {
        readonly reference: string
        readonly policy: PullPolicy
        readonly platform?: Platform
        readonly insecure?: boolean
      },
      emit: (event: ImageEvent) => void
    ) {
      const parsed = yield* parseReference(request.reference)
      const reference = canonicalReference(parsed)
      if (request.policy !== "always") {
        const cached = yield* findImage(db, reference)
        if (cached !== undefined && (yield* installer.isComplete(cached))) {
          const layers = yield* imageLayers(db, cached.manifestId)
          yield* touchImage(db, reference, new Set(layers.map((layer) => layer.diffId)), yield* Clock.currentTimeMillis)
          return emit(ImageEvent.cases.Done.make({ image: cached.image, cached: true }))
        }
        if (request.policy === "never") return yield* new ImageNotCached({ reference: request.reference })
      }
      const source = sources.registry(parsed, { insecure: request.insecure === true })
      const platform = request.platform ?? defaultPlatform
      const image = yield* installer.install(source, reference, platform, emit)
      emit(ImageEvent.cases.Done.make({ image, cached: false }))
    })

    const load = Effect.fn("ImageStore.load")(function* (
      request: {
        readonly path: string
        readonly tag?: string
        readonly platform?: Platform
      },
      emit: (event: ImageEvent) => void
    ) {
      const tag = request.tag === undefined ? undefined : canonicalReference(yield* parseReference(request.tag))
      const archive = yield* sources.archive(request.path)
      const named: Array<readonly [number, string]> = []
      if (tag !== undefined) named.push([0, tag])
      else {
        for (const [index, name] of archive.names.entries()) {
          if (name !== undefined) named.push([index, canonicalReference(yield* parseReference(name))])
        }
      }
      if (named.length === 0) {
        return yield* new ArchiveInvalid({
          path: request.path,
          reason: "no image in it has a name; give one with -t NAME"
        })
      }
      for (const [index, reference] of named) {
        const platform = request.platform ?? defaultPlatform
        const image = yield* installer.install(archive.source(index), reference, platform, emit)
        emit(ImageEvent.cases.Done.make({ image, cached: false }))
      }
    }, Effect.scoped)

    const lease = Effect.fn("ImageStore.lease")(function* (request: {
      readonly reference: string
      readonly token: string
      readonly durationMs: number
    }) {
      const { image, manifestId } = yield* lookup(request.reference)
      yield* leases
        .HoldContent({ token: request.token, resources: [image.manifestDigest], durationMs: request.durationMs })
        .pipe(Effect.catchTag("RpcClientError", Effect.die))
      yield* installer.repair(manifestId, image)
      return new LeasedImage({
        reference: image.reference,
        manifestDigest: image.manifestDigest,
        disk: paths.vmdk(image.manifestDigest),
        config: yield* imageConfig(db, manifestId)
      })
    })

    const remove = Effect.fn("ImageStore.remove")(function* (text: string, force: boolean) {
      const { image } = yield* lookup(text)
      const sandboxes = yield* usersOfManifest(db, image.manifestDigest)
      if (sandboxes.length > 0 && !force) return yield* new ImageInUse({ reference: text, sandboxes })
      return yield* collect([image.reference])
    })

    const collect = Effect.fn("ImageStore.collect")(function* (references: ReadonlyArray<string>) {
      const gone = yield* collectRecords(db, references, yield* Clock.currentTimeMillis)
      const bytes = yield* installer.removeFiles(gone)
      return new CollectReport({
        image_refs_removed: gone.references,
        manifests_removed: gone.manifests.length,
        layers_removed: gone.layers.length,
        bytes_reclaimed: bytes
      })
    })

    const usage = Effect.fn("ImageStore.usage")(function* () {
      const images = yield* listImages(db)
      return new Usage({
        images: { count: images.length, bytes: diskUsage(paths.fsmetas) + diskUsage(paths.vmdks) },
        layers: yield* installer.countFiles(paths.layers),
        sandboxes: yield* installer.countFiles(paths.sandboxes),
        temporary: yield* installer.countFiles(paths.temporary)
      })
    })

    return ImageProtocol.of({
      Pull: (request) => Rpc.fork(events((emit) => pull(request, emit))),
      Load: (request) => Rpc.fork(events((emit) => load(request, emit))),
      Lease: lease,
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
      Prune: () => Effect.flatMap(unusedReferences(db), collect),
      Usage: () => usage()
    })
  })

/** Runs work that emits events as a stream of them; interrupting the stream interrupts the work. */
const events = <E>(work: (emit: (event: ImageEvent) => void) => Effect.Effect<void, E>): Stream.Stream<ImageEvent, E> =>
  Stream.callback<ImageEvent, E>((queue) =>
    work((event) => void Queue.offerUnsafe(queue, event)).pipe(
      Effect.matchCauseEffect({
        onFailure: (cause) => Queue.failCause(queue, cause),
        onSuccess: () => Queue.end(queue)
      })
    )
  )

export class ImageStore extends Context.Service<ImageStore, Address<RpcGroup.Rpcs<typeof ImageProtocol>>>()(
  "bunker/ImageStore"
) {
  static readonly layer = (sources: ImageSources) => layerLocal(ImageStore, ImageProtocol, make(sources))
}

/** The image of the last event of a pull or load. Dies when the stream ends without one, which it never does. */
export const lastImage = <E>(stream: Stream.Stream<ImageEvent, E>): Effect.Effect<ImageHandle, E> =>
  Effect.map(Stream.runLast(stream), (event) => {
    const last = Option.getOrThrow(event)
    if (last._tag !== "Done") throw new Error("a pull ended without Done")
    return last.image
  })
