/** Reads images from an OCI image layout (image spec v1.1, "Image Layout"), be it a directory or inside an archive. Follows no URLs. */
import { Effect, Result, Stream } from "effect"
import { ArchiveInvalid } from "../../domain/errors/image.ts"
import { type Descriptor, decodeDocument, Index, manifestBytesMax, parseJson } from "../../domain/image/descriptor.ts"
import { type Digest, digestHex, isDigest } from "../../domain/image/digest.ts"
import { referenceResult } from "../../domain/image/reference.ts"
import { type DocumentStore, resolveImage } from "../manifest/resolve.ts"
import type { ImageSource, ResolvedLayer, SourceError } from "../manifest/source.ts"
import { checkAnnounced, checkBytes, verified } from "../manifest/verify.ts"
import type { Bundle } from "./bundle.ts"

/** The images of a file, with the names that the file gives them. */
export interface ArchiveImage {
  /** Reference, tag or other name; undefined when the file gives none. */
  readonly name: string | undefined
  /** Equal for names of one image: its digest, or the file that describes it. */
  readonly content: string
  readonly source: ImageSource
}

/** Annotations that name an image, best first: containerd's holds a full reference, OCI's usually a tag. */
const nameAnnotations = ["io.containerd.image.name", "org.opencontainers.image.ref.name"] as const

/**
 * What a descriptor is called. In a directory a bare name is a tag (umoci, skopeo and buildah write it so), and the directory's name
 * is the image's: `12` in `debian` is `debian:12`.
 */
const nameOf = (bundle: Bundle, descriptor: Descriptor): string | undefined => {
  const name = nameAnnotations
    .map((key) => descriptor.annotations?.[key])
    .find((each) => each !== undefined && each !== "")
  if (name === undefined || bundle.directoryName === undefined || /[:/@]/.test(name)) return name
  const tagged = `${bundle.directoryName}:${name}`
  return Result.isSuccess(referenceResult(tagged)) ? tagged : name
}

const blobName = (digest: Digest): string => `blobs/sha256/${digestHex(digest)}`

/** What an image is called in errors; a name that could play tricks on a terminal is left out. */
export const shownImage = (bundle: Bundle, name: string | undefined): string =>
  name !== undefined && /^[\x21-\x7e]{1,512}$/.test(name) ? `${name} in ${bundle.path}` : bundle.path

/** One image of a layout: the one that `top` describes, or what the whole index offers. */
const layoutImage = (bundle: Bundle, name: string | undefined, top: Descriptor | Uint8Array): ImageSource => {
  const shown = shownImage(bundle, name)
  const document: DocumentStore["document"] = Effect.fnUntraced(function* (kind, descriptor) {
    const bytes = yield* bundle.read(blobName(descriptor.digest), descriptor.size)
    if (bytes === undefined) return yield* absent(bundle, descriptor.digest)
    return yield* checkBytes(
      `${kind} ${descriptor.digest} of ${shown}`,
      { digest: descriptor.digest, sizeBytes: descriptor.size },
      bytes
    )
  })
  const root = Effect.gen(function* () {
    if (top instanceof Uint8Array) return { bytes: top, mediaType: undefined }
    yield* checkAnnounced(`manifest ${top.digest} of ${shown}`, top.size, manifestBytesMax)
    return { bytes: yield* document("manifest", top), mediaType: top.mediaType }
  })
  return {
    resolve: (platform) => resolveImage({ name: shown, root, document }, platform),
    blob: (layer: ResolvedLayer): Stream.Stream<Uint8Array, SourceError> =>
      isDigest(layer.digest)
        ? verified(`layer ${layer.digest} of ${shown}`, layer, bundle.stream(blobName(layer.digest)))
        : Stream.fail(absent(bundle, layer.digest))
  }
}

const absent = (bundle: Bundle, digest: string): ArchiveInvalid =>
  new ArchiveInvalid({ path: bundle.path, reason: `the blob ${digest} is missing` })

/** The images of a layout; undefined when there is no `index.json`. Fails with `ManifestInvalid` for a broken index. */
export const layoutImages = Effect.fn("oci.layout")(function* (bundle: Bundle) {
  const bytes = yield* bundle.read("index.json", manifestBytesMax)
  if (bytes === undefined) return undefined
  const what = `index.json of ${bundle.path}`
  const index = yield* decodeDocument(Index, what, yield* parseJson(what, bytes))
  const [first, second] = index.manifests
  if (first === undefined)
    return yield* new ArchiveInvalid({ path: bundle.path, reason: "its index.json names no image" })
  // Several entries without names are one image for several platforms.
  if (second !== undefined && index.manifests.every((entry) => nameOf(bundle, entry) === undefined)) {
    return [
      { name: undefined, content: "index.json", source: layoutImage(bundle, undefined, bytes) }
    ] satisfies ReadonlyArray<ArchiveImage>
  }
  return index.manifests.map((entry): ArchiveImage => {
    const name = nameOf(bundle, entry)
    return { name, content: entry.digest, source: layoutImage(bundle, name, entry) }
  })
})
