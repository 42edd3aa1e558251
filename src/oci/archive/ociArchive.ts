/**
 * Lays images out as an OCI archive (image spec v1.1, "Image Layout", in a tar) that `docker load` reads, too (`manifest.json`).
 * Layers go in as plain tars named by their diff ids; configs byte by byte. Reads no layer: whoever writes the tar brings them.
 */
import { Effect } from "effect"
import type { ManifestInvalid } from "../../domain/errors/image.ts"
import { decodeDocument, Manifest, mediaTypes, parseJson } from "../../domain/image/descriptor.ts"
import type { Digest } from "../../domain/image/digest.ts"
import type { ImageDocuments } from "../manifest/source.ts"
import { digestOf } from "../manifest/verify.ts"
import { paddingOf, tarEnd, tarHeader } from "../tar/writer.ts"

/** An image to be saved. */
export interface SavedImage {
  /** `NAME:TAG`; undefined for one that only a digest names. */
  readonly name: string | undefined
  readonly os: string
  readonly architecture: string
  readonly variant: string | undefined
  readonly documents: ImageDocuments
  /** Bottom to top, with the bytes of their tars. */
  readonly layers: ReadonlyArray<{ readonly diffId: Digest; readonly tarBytes: number }>
}

/** One file of the archive: its bytes, or the layer that they are the tar of. */
export interface ArchiveFile {
  readonly path: string
  readonly content: Uint8Array | { readonly diffId: Digest; readonly tarBytes: number }
}

const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value))
const blobPath = (digest: string): string => `blobs/sha256/${digest.slice("sha256:".length)}`

const annotationsIn = (document: unknown): Readonly<Record<string, string>> | undefined => {
  const { annotations } = document as { readonly annotations?: unknown }
  if (typeof annotations !== "object" || annotations === null) return undefined
  const texts = Object.entries(annotations).filter((entry): entry is [string, string] => typeof entry[1] === "string")
  return texts.length === 0 ? undefined : Object.fromEntries(texts)
}

/**
 * The manifest that goes into the archive: the image's own where it names plain tars already, else one of the same config over
 * the layers' tars, with the same annotations.
 */
const archiveManifest = Effect.fnUntraced(function* (image: SavedImage) {
  const what = `the manifest of ${image.name ?? "the image"}`
  const document = yield* parseJson(what, image.documents.manifest)
  const manifest = yield* decodeDocument(Manifest, what, document)
  const plain =
    manifest.mediaType === mediaTypes.ociManifest &&
    manifest.layers.every(
      (layer, i) => layer.mediaType === mediaTypes.ociLayer && layer.digest === image.layers[i]?.diffId
    )
  if (plain) return image.documents.manifest
  const { config } = image.documents
  const annotations = annotationsIn(document)
  return json({
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: { mediaType: mediaTypes.ociConfig, digest: digestOf(config), size: config.length },
    layers: image.layers.map(({ diffId, tarBytes }) => ({
      mediaType: mediaTypes.ociLayer,
      digest: diffId,
      size: tarBytes
    })),
    ...(annotations === undefined ? {} : { annotations })
  })
})

/** The files of an archive of the images, each once, the index first. */
export const archiveFiles = Effect.fn("oci.archiveFiles")(function* (
  images: ReadonlyArray<SavedImage>
): Effect.fn.Return<ReadonlyArray<ArchiveFile>, ManifestInvalid> {
  const blobs = new Map<string, ArchiveFile>()
  const put = (digest: string, content: ArchiveFile["content"]) => {
    const path = blobPath(digest)
    if (!blobs.has(path)) blobs.set(path, { path, content })
  }
  const manifests: Array<unknown> = []
  const saved: Array<unknown> = []
  for (const image of images) {
    const manifest = yield* archiveManifest(image)
    const digest = digestOf(manifest)
    const configDigest = digestOf(image.documents.config)
    put(digest, manifest)
    put(configDigest, image.documents.config)
    for (const layer of image.layers) put(layer.diffId, layer)
    const { architecture, name, os, variant } = image
    manifests.push({
      mediaType: mediaTypes.ociManifest,
      digest,
      size: manifest.length,
      platform: { architecture, os, ...(variant === undefined ? {} : { variant }) },
      // containerd reads the first, everybody else the second.
      ...(name === undefined
        ? {}
        : { annotations: { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name } })
    })
    saved.push({
      Config: blobPath(configDigest),
      RepoTags: name === undefined ? null : [name],
      Layers: image.layers.map((layer) => blobPath(layer.diffId))
    })
  }
  return [
    { path: "oci-layout", content: json({ imageLayoutVersion: "1.0.0" }) },
    { path: "index.json", content: json({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests }) },
    { path: "manifest.json", content: json(saved) },
    ...blobs.values()
  ]
})

const plain = { mode: 0o644, uid: 0, gid: 0, mtimeSeconds: 0 } as const

/** The archive in order: pieces that are there, and layers whose tars belong between them. */
export function* archivePieces(
  files: ReadonlyArray<ArchiveFile>
): Generator<Uint8Array | { readonly diffId: Digest; readonly tarBytes: number }, void> {
  const directory = (path: string) => tarHeader({ ...plain, type: "directory", path, mode: 0o755, size: 0 })
  yield Buffer.concat([directory("blobs/"), directory("blobs/sha256/")])
  for (const { content, path } of files) {
    const size = content instanceof Uint8Array ? content.length : content.tarBytes
    yield tarHeader({ ...plain, type: "file", path, size })
    yield content
    yield paddingOf(size)
  }
  yield tarEnd
}
