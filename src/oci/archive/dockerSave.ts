/**
 * Reads images from what `docker save` writes (`manifest.json`, configs and plain layer tars; moby image spec v1.2).
 * Such an archive has no manifests, so one is derived from config and layers; its digest is stable for the same content.
 */
import { Effect, Schema, Stream } from "effect"
import { ArchiveInvalid, ManifestInvalid, PlatformNotFound } from "../../domain/errors/image.ts"
import * as D from "../../domain/image/descriptor.ts"
import { formatPlatform, normalizePlatform, type Platform, platformScore } from "../../domain/image/platform.ts"
import type { ImageSource, ResolvedImage, ResolvedLayer, SourceError } from "../manifest/source.ts"
import { digestOf, verified } from "../manifest/verify.ts"
import type { Bundle } from "./bundle.ts"
import { type ArchiveImage, shownImage } from "./layout.ts"

const imagesMax = 1_024

const SavedImages = Schema.Array(
  Schema.Struct({
    Config: Schema.String,
    RepoTags: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.String).check(Schema.isMaxLength(imagesMax)))),
    Layers: Schema.NullOr(Schema.Array(Schema.String).check(Schema.isMaxLength(D.layersMax)))
  })
).check(Schema.isMaxLength(imagesMax))
type SavedImage = (typeof SavedImages.Type)[number]

const missing = (bundle: Bundle, name: string): ArchiveInvalid =>
  new ArchiveInvalid({
    path: bundle.path,
    reason: `its manifest.json names ${JSON.stringify(name.slice(0, 200))}, which is missing`
  })

/** Docker writes plain tars; other tools put compressed ones there under the same names. */
const layerTypeOf = (head: Uint8Array): string => {
  if (head[0] === 0x1f && head[1] === 0x8b) return D.mediaTypes.dockerLayerGzip
  if (Buffer.from(head).readUIntLE(0, Math.min(4, head.length)) === 0xfd2fb528) return D.mediaTypes.dockerLayerZstd
  return D.mediaTypes.dockerLayer
}

const hashOf = (bytes: Stream.Stream<Uint8Array, ArchiveInvalid>): Effect.Effect<string, ArchiveInvalid> =>
  Effect.suspend(() => {
    const hasher = new Bun.CryptoHasher("sha256")
    return Effect.map(
      Stream.runForEach(bytes, (chunk) => Effect.sync(() => void hasher.update(chunk))),
      () => `sha256:${hasher.digest("hex")}`
    )
  })

const describeLayer = Effect.fnUntraced(function* (bundle: Bundle, name: string, diffId: string) {
  const sizeBytes = yield* bundle.size(name)
  const head = yield* bundle.head(name, 4)
  if (sizeBytes === undefined || head === undefined) return yield* missing(bundle, name)
  if (sizeBytes === 0) return yield* new ArchiveInvalid({ path: bundle.path, reason: `its layer ${name} is empty` })
  const mediaType = layerTypeOf(head)
  const digest = mediaType === D.mediaTypes.dockerLayer ? diffId : yield* hashOf(bundle.stream(name))
  return { mediaType, digest, sizeBytes, diffId } satisfies ResolvedLayer
})

/** Reads config and layer headers of one image, whatever its platform. */
const load = Effect.fnUntraced(function* (bundle: Bundle, saved: SavedImage, shown: string, fallback: Platform) {
  const bytes = yield* bundle.read(saved.Config, D.configBytesMax)
  if (bytes === undefined) return yield* missing(bundle, saved.Config)
  const what = `config ${saved.Config} of ${shown}`
  const document = yield* D.decodeDocument(D.ConfigDocument, what, yield* D.parseJson(what, bytes))
  const config = D.toImageConfig(document, fallback)
  const names = saved.Layers ?? []
  if (config.diffIds.length !== names.length) {
    const value = `${config.diffIds.length} entries for ${names.length} layers`
    return yield* new ManifestInvalid({ what, field: "$.rootfs.diff_ids", value })
  }
  const layers = yield* Effect.forEach(names, (name, position) =>
    describeLayer(bundle, name, config.diffIds[position]!)
  )
  const configDigest = digestOf(bytes)
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: D.mediaTypes.dockerManifest,
      config: { mediaType: D.mediaTypes.dockerConfig, size: bytes.length, digest: configDigest },
      layers: layers.map(({ mediaType, sizeBytes, digest }) => ({ mediaType, size: sizeBytes, digest }))
    })
  )
  const image: ResolvedImage = {
    manifestDigest: digestOf(manifest),
    manifestMediaType: D.mediaTypes.dockerManifest,
    configDigest,
    config,
    layers,
    totalSizeBytes: layers.reduce((sum, layer) => sum + layer.sizeBytes, manifest.length + bytes.length),
    documents: { manifest, config: bytes }
  }
  return { image, nameOf: new Map(layers.map((layer, position) => [layer.digest, names[position]!])) }
})

const savedImage = (bundle: Bundle, saved: SavedImage, name: string | undefined): ImageSource => {
  const shown = shownImage(bundle, name)
  let nameOf: ReadonlyMap<string, string> | undefined
  const resolve = Effect.fn("oci.dockerSave.resolve")(function* (platform: Platform) {
    const wanted = normalizePlatform(platform)
    const loaded = yield* load(bundle, saved, shown, wanted)
    nameOf = loaded.nameOf
    const { architecture, os, variant } = loaded.image.config
    const offered = variant === undefined ? { os, architecture } : { os, architecture, variant }
    if (platformScore(wanted, offered) !== undefined) return loaded.image
    const available = [formatPlatform(offered)]
    return yield* new PlatformNotFound({ reference: shown, wanted: formatPlatform(wanted), available })
  })
  const blob = (layer: ResolvedLayer): Stream.Stream<Uint8Array, SourceError> =>
    Stream.unwrap(
      Effect.gen(function* () {
        nameOf ??= (yield* load(bundle, saved, shown, { os: "linux", architecture: "amd64" })).nameOf
        const file = nameOf.get(layer.digest)
        if (file === undefined) return yield* missing(bundle, layer.digest)
        return verified(`layer ${layer.digest} of ${shown}`, layer, bundle.stream(file))
      })
    )
  return { resolve, blob }
}

/** The images of a `docker save` archive, one for each tag; undefined when there is no `manifest.json`. */
export const savedImages = Effect.fn("oci.dockerSave")(function* (bundle: Bundle) {
  const bytes = yield* bundle.read("manifest.json", D.manifestBytesMax)
  if (bytes === undefined) return undefined
  const what = `manifest.json of ${bundle.path}`
  const saved = yield* D.decodeDocument(SavedImages, what, yield* D.parseJson(what, bytes))
  if (saved.length === 0)
    return yield* new ArchiveInvalid({ path: bundle.path, reason: "its manifest.json names no image" })
  return saved.flatMap((image): ReadonlyArray<ArchiveImage> => {
    const names: ReadonlyArray<string | undefined> = image.RepoTags?.length ? image.RepoTags : [undefined]
    return names.map((name) => ({ name, content: image.Config, source: savedImage(bundle, image, name) }))
  })
})
