/**
 * Walks from a top manifest or index to the one image that fits a platform, checking every document on the way.
 * Reads through a `DocumentStore` only, so registries, layouts and archives share it; touches no layer.
 */
import { Effect } from "effect"
import { ManifestInvalid, PlatformNotFound } from "../../domain/errors/image.ts"
import * as D from "../../domain/image/descriptor.ts"
import type { Digest } from "../../domain/image/digest.ts"
import {
  bestMatch,
  formatPlatform,
  normalizePlatform,
  type Platform,
  platformScore
} from "../../domain/image/platform.ts"
import type { ResolvedImage, SourceError } from "./source.ts"
import { checkAnnounced, digestOf } from "./verify.ts"

/** Most documents read for one image; indexes of indexes can not make it more. */
const documentsMax = 64
/** Most platforms listed when none fits. */
const offersMax = 64

/** A manifest or index as fetched, not yet parsed. */
export interface RawDocument {
  readonly bytes: Uint8Array
  /** What its descriptor or its HTTP header calls it, if anything. */
  readonly mediaType: string | undefined
}

/** Where documents come from; both operations bound what they read, `document` checks size and digest. */
export interface DocumentStore {
  /** What the image is called in errors. */
  readonly name: string
  readonly root: Effect.Effect<RawDocument, SourceError>
  readonly document: (
    kind: "manifest" | "config",
    descriptor: { readonly digest: Digest; readonly size: number }
  ) => Effect.Effect<Uint8Array, SourceError>
}

type Opened =
  | { readonly kind: "index"; readonly index: D.Index }
  | { readonly kind: "manifest"; readonly manifest: D.Manifest; readonly mediaType: string }

/** Parses a document and finds out what it is; both lists at once are refused, so that no two readers see two images. */
const open = Effect.fnUntraced(function* (what: string, raw: RawDocument) {
  const json = yield* D.parseJson(what, raw.bytes)
  const envelope = yield* D.decodeDocument(D.Envelope, what, json)
  if (envelope.manifests !== undefined && envelope.layers !== undefined) {
    return yield* new ManifestInvalid({ what, field: "$", value: "both a list of manifests and a list of layers" })
  }
  const announced = raw.mediaType === undefined ? undefined : raw.mediaType.split(";")[0]?.trim()
  const known = announced !== undefined && (D.isIndexType(announced) || D.isManifestType(announced))
  const shape = envelope.manifests === undefined ? D.mediaTypes.ociManifest : D.mediaTypes.ociIndex
  const type = envelope.mediaType ?? (known ? announced : shape)
  if (D.isIndexType(type)) {
    return { kind: "index", index: yield* D.decodeDocument(D.Index, what, json) } satisfies Opened as Opened
  }
  if (!D.isManifestType(type)) {
    return yield* new ManifestInvalid({ what, field: "$.mediaType", value: D.shownValue(type) })
  }
  const manifest = yield* D.decodeDocument(D.Manifest, what, json)
  return { kind: "manifest", manifest, mediaType: type } satisfies Opened as Opened
})

/** Finds the image for `platform`. Fails with `PlatformNotFound` naming what there is instead. */
export const resolveImage = Effect.fn("oci.resolve")(function* (store: DocumentStore, platform: Platform) {
  const wanted = normalizePlatform(platform)
  const available = new Set<string>()
  const offer = (platform: Platform) => {
    // Shown to people, so nothing that could play tricks on a terminal.
    const text = formatPlatform(platform)
    if (available.size < offersMax && /^[\w./+-]{1,100}$/.test(text)) available.add(text)
  }
  let documents = 0

  const read = Effect.fnUntraced(function* (
    kind: "manifest" | "config",
    what: string,
    descriptor: { readonly digest: Digest; readonly size: number }
  ) {
    documents += 1
    if (documents > documentsMax) {
      return yield* new ManifestInvalid({
        what,
        field: "$",
        value: `part of a tree of more than ${documentsMax} documents`
      })
    }
    yield* checkAnnounced(what, descriptor.size, kind === "config" ? D.configBytesMax : D.manifestBytesMax)
    return yield* store.document(kind, descriptor)
  })

  const build = Effect.fnUntraced(function* (
    what: string,
    raw: RawDocument,
    manifest: D.Manifest,
    mediaType: string,
    chosen: boolean
  ): Effect.fn.Return<ResolvedImage | undefined, SourceError> {
    yield* checkManifest(what, manifest)
    const configName = `config ${manifest.config.digest} of ${store.name}`
    const bytes = yield* read("config", configName, manifest.config)
    const json = yield* D.parseJson(configName, bytes)
    const document = yield* D.decodeDocument(D.ConfigDocument, configName, json)
    const config = D.toImageConfig(document, wanted)
    // An index is trusted about its entries' platforms; builders get the config's wrong more often.
    if (!chosen && platformScore(wanted, platformOfConfig(config)) === undefined) {
      offer(platformOfConfig(config))
      return undefined
    }
    if (config.diffIds.length !== manifest.layers.length) {
      const value = `${config.diffIds.length} entries for ${manifest.layers.length} layers`
      return yield* new ManifestInvalid({ what: configName, field: "$.rootfs.diff_ids", value })
    }
    const layers = manifest.layers.map((layer, position) => ({
      mediaType: layer.mediaType,
      digest: layer.digest,
      sizeBytes: layer.size,
      diffId: config.diffIds[position]
    }))
    return {
      manifestDigest: digestOf(raw.bytes),
      manifestMediaType: mediaType,
      configDigest: manifest.config.digest,
      config,
      layers,
      totalSizeBytes: layers.reduce((sum, layer) => sum + layer.sizeBytes, raw.bytes.length + manifest.config.size),
      documents: { manifest: raw.bytes, config: bytes }
    }
  })

  const walk = Effect.fnUntraced(function* (
    what: string,
    raw: RawDocument,
    depth: number,
    chosen: boolean
  ): Effect.fn.Return<ResolvedImage | undefined, SourceError> {
    const opened = yield* open(what, raw)
    if (opened.kind === "manifest") return yield* build(what, raw, opened.manifest, opened.mediaType, chosen)
    if (depth > D.indexDepthMax) {
      const value = `an index inside more than ${D.indexDepthMax} indexes`
      return yield* new ManifestInvalid({ what, field: "$.manifests", value })
    }
    const enter = Effect.fnUntraced(function* (entry: D.Descriptor, fits: boolean) {
      const name = `manifest ${entry.digest} of ${store.name}`
      const bytes = yield* read("manifest", name, entry)
      return yield* walk(name, { bytes, mediaType: entry.mediaType }, depth + 1, fits)
    })
    const entries = opened.index.manifests
    const images = entries.filter((entry) => D.isManifestType(entry.mediaType))
    const best = bestMatch(wanted, images, (entry) => entry.platform ?? undefined)
    if (best !== undefined) return yield* enter(best, true)
    // Attestations are entries for the platform unknown/unknown.
    for (const { platform } of images) if (platform && platform.os !== "unknown") offer(platform)
    const unsure = [
      ...entries.filter((entry) => D.isIndexType(entry.mediaType)),
      ...images.filter((entry) => !entry.platform)
    ]
    for (const entry of unsure) {
      if (entry.platform && platformScore(wanted, entry.platform) === undefined) continue
      const found: ResolvedImage | undefined = yield* enter(entry, false)
      if (found !== undefined) return found
    }
    return undefined
  })

  const found = yield* walk(`manifest of ${store.name}`, yield* store.root, 1, false)
  if (found !== undefined) return found
  return yield* new PlatformNotFound({
    reference: store.name,
    wanted: formatPlatform(wanted),
    available: [...available]
  })
})

const platformOfConfig = (config: D.ImageConfig): Platform => {
  const base = { os: config.os, architecture: config.architecture }
  return config.variant === undefined ? base : { ...base, variant: config.variant }
}

const checkManifest = (what: string, manifest: D.Manifest): Effect.Effect<void, ManifestInvalid> => {
  const refuse = (field: string, value: unknown) =>
    Effect.fail(new ManifestInvalid({ what, field, value: D.shownValue(value) }))
  if (!D.isConfigType(manifest.config.mediaType)) return refuse("$.config.mediaType", manifest.config.mediaType)
  for (const [position, layer] of manifest.layers.entries()) {
    if (D.layerCompression(layer.mediaType) === undefined)
      return refuse(`$.layers[${position}].mediaType`, layer.mediaType)
    if (layer.size > D.layerBytesMax) return refuse(`$.layers[${position}].size`, layer.size)
  }
  return Effect.void
}
