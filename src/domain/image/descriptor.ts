/**
 * Schemas and media types of OCI and Docker image documents: descriptor, manifest, index and image config
 * (OCI image spec v1.1; Docker image manifest v2 schema 2). Fetches and hashes nothing.
 */
import { Effect, Schema, SchemaIssue } from "effect"
import { ManifestInvalid } from "../errors/image.ts"
import { Digest } from "./digest.ts"
import { Platform } from "./platform.ts"

/** Most bytes in a manifest or an index. */
export const manifestBytesMax = 4 * 1024 * 1024
/** Most bytes in an image config. */
export const configBytesMax = 8 * 1024 * 1024
/** Most layers in an image. */
export const layersMax = 256
/** Most entries in an index. */
const indexEntriesMax = 1_024
/** Most bytes in a layer as stored. */
export const layerBytesMax = 64 * 1024 ** 3
/** Most indexes within indexes that are followed. */
export const indexDepthMax = 4

export const mediaTypes = {
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  ociLayer: "application/vnd.oci.image.layer.v1.tar",
  ociLayerGzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  ociLayerZstd: "application/vnd.oci.image.layer.v1.tar+zstd",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerIndex: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
  dockerLayer: "application/vnd.docker.image.rootfs.diff.tar",
  dockerLayerGzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
  dockerLayerZstd: "application/vnd.docker.image.rootfs.diff.tar.zstd"
} as const

export const isIndexType = (type: string): boolean => type === mediaTypes.ociIndex || type === mediaTypes.dockerIndex
export const isManifestType = (type: string): boolean =>
  type === mediaTypes.ociManifest || type === mediaTypes.dockerManifest
export const isConfigType = (type: string): boolean => type === mediaTypes.ociConfig || type === mediaTypes.dockerConfig

/** How a layer's tar is compressed; undefined for a media type that is no layer this build reads. */
export const layerCompression = (type: string): "none" | "gzip" | "zstd" | undefined => {
  if (type === mediaTypes.ociLayer || type === mediaTypes.dockerLayer) return "none"
  if (type === mediaTypes.ociLayerGzip || type === mediaTypes.dockerLayerGzip) return "gzip"
  if (type === mediaTypes.ociLayerZstd || type === mediaTypes.dockerLayerZstd) return "zstd"
  return undefined
}

const SizeBytes = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))
const MediaType = Schema.String.check(Schema.isMaxLength(255))
/** Go writes empty lists and maps as null. */
const nullable = <S extends Schema.Constraint>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))
const Strings = Schema.Array(Schema.String)
const StringMap = Schema.Record(Schema.String, Schema.String)
const KeySet = Schema.Record(Schema.String, Schema.Unknown)

/** OCI image spec, "Content Descriptors". */
export const Descriptor = Schema.Struct({
  mediaType: MediaType,
  digest: Digest,
  size: SizeBytes,
  annotations: nullable(StringMap),
  platform: nullable(Platform)
})
export type Descriptor = typeof Descriptor.Type

/** OCI image manifest, and Docker's schema 2 manifest. */
export const Manifest = Schema.Struct({
  schemaVersion: Schema.Literal(2),
  mediaType: Schema.optionalKey(MediaType),
  config: Descriptor,
  layers: Schema.Array(Descriptor).check(Schema.isMaxLength(layersMax))
})
export type Manifest = typeof Manifest.Type

/** OCI image index, and Docker's manifest list. */
export const Index = Schema.Struct({
  schemaVersion: Schema.Literal(2),
  mediaType: Schema.optionalKey(MediaType),
  manifests: Schema.Array(Descriptor).check(Schema.isMaxLength(indexEntriesMax))
})
export type Index = typeof Index.Type

/** The part of any manifest document that says which one it is. */
export const Envelope = Schema.Struct({
  schemaVersion: Schema.Literal(2),
  mediaType: Schema.optionalKey(MediaType),
  manifests: Schema.optionalKey(Schema.Unknown),
  layers: Schema.optionalKey(Schema.Unknown)
})

/** OCI image configuration, as written on the wire. */
export const ConfigDocument = Schema.Struct({
  architecture: Schema.optionalKey(Schema.String),
  os: Schema.optionalKey(Schema.String),
  variant: nullable(Schema.String),
  created: nullable(Schema.String),
  config: nullable(
    Schema.Struct({
      Env: nullable(Strings),
      Cmd: nullable(Strings),
      Entrypoint: nullable(Strings),
      WorkingDir: nullable(Schema.String),
      User: nullable(Schema.String),
      Labels: nullable(StringMap),
      StopSignal: nullable(Schema.String),
      ExposedPorts: nullable(KeySet),
      Volumes: nullable(KeySet)
    })
  ),
  rootfs: Schema.Struct({
    type: Schema.Literal("layers"),
    diff_ids: Schema.NullOr(Schema.Array(Digest).check(Schema.isMaxLength(layersMax)))
  })
})

/** An image's configuration with every default filled in. */
export interface ImageConfig {
  readonly architecture: string
  readonly os: string
  readonly variant: string | undefined
  /** RFC 3339 time of building as the image states it, unchecked. */
  readonly created: string | undefined
  /** `NAME=value` entries. */
  readonly env: ReadonlyArray<string>
  readonly cmd: ReadonlyArray<string>
  readonly entrypoint: ReadonlyArray<string>
  /** Directory in the image; empty when not set. */
  readonly workingDir: string
  /** `user[:group]` by name or number; empty when not set. */
  readonly user: string
  readonly labels: Readonly<Record<string, string>>
  readonly stopSignal: string | undefined
  /** `80/tcp` entries. */
  readonly exposedPorts: ReadonlyArray<string>
  readonly volumes: ReadonlyArray<string>
  /** Digests of the uncompressed layers, bottom to top. */
  readonly diffIds: ReadonlyArray<Digest>
}

/** Fills the defaults of a config; an image that names no platform is taken to be for `fallback`. */
export const toImageConfig = (document: typeof ConfigDocument.Type, fallback: Platform): ImageConfig => {
  const run = document.config ?? {}
  return {
    architecture: document.architecture || fallback.architecture,
    os: document.os || fallback.os,
    variant: document.variant || undefined,
    created: document.created || undefined,
    env: run.Env ?? [],
    cmd: run.Cmd ?? [],
    entrypoint: run.Entrypoint ?? [],
    workingDir: run.WorkingDir ?? "",
    user: run.User ?? "",
    labels: run.Labels ?? {},
    stopSignal: run.StopSignal || undefined,
    exposedPorts: Object.keys(run.ExposedPorts ?? {}),
    volumes: Object.keys(run.Volumes ?? {}),
    diffIds: document.rootfs.diff_ids ?? []
  }
}

/** What terminals obey, and JSON lets through: written as JSON writes other control characters. */
const withoutControls = (text: string): string =>
  text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)

/** A value for an error message: JSON, cut at 120 characters. */
export const shownValue = (value: unknown): string => {
  const text = withoutControls(value === undefined ? "missing" : (JSON.stringify(value) ?? String(value)))
  return text.length > 120 ? `${text.slice(0, 117)}...` : text
}

const fieldName = (path: ReadonlyArray<PropertyKey>): string =>
  withoutControls(
    ["$", ...path.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`))].join("").slice(0, 256)
  )

const valueAt = (document: unknown, path: ReadonlyArray<PropertyKey>): unknown =>
  path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], document)

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

/** Checks a parsed document; fails with `ManifestInvalid` that names the first bad field and its value. */
export const decodeDocument = <S extends Schema.Codec<unknown, unknown>>(
  schema: S,
  what: string,
  document: unknown
): Effect.Effect<S["Type"], ManifestInvalid> =>
  Schema.decodeUnknownEffect(schema)(document).pipe(
    Effect.mapError((error) => {
      const path = (formatIssue(error.issue).issues[0]?.path ?? []).map((part) =>
        typeof part === "object" ? part.key : part
      )
      return new ManifestInvalid({ what, field: fieldName(path), value: shownValue(valueAt(document, path)) })
    })
  )

/** Levels of arrays and objects in one document; what is deeper takes seconds to refuse, and overflows who writes it again. */
const nestingMax = 256

const isTooDeep = (bytes: Uint8Array): boolean => {
  let depth = 0
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at]
    if (byte === 0x22) {
      for (at += 1; at < bytes.length && bytes[at] !== 0x22; at += 1) if (bytes[at] === 0x5c) at += 1
    } else if (byte === 0x5b || byte === 0x7b) {
      depth += 1
      if (depth > nestingMax) return true
    } else if (byte === 0x5d || byte === 0x7d) depth -= 1
  }
  return false
}

/** Parses UTF-8 JSON; anything else, such as an HTML page, fails with `ManifestInvalid` showing how it starts. */
export const parseJson = (what: string, bytes: Uint8Array): Effect.Effect<unknown, ManifestInvalid> => {
  if (isTooDeep(bytes)) {
    return Effect.fail(new ManifestInvalid({ what, field: "$", value: `nested deeper than ${nestingMax} levels` }))
  }
  return Effect.try({
    try: (): unknown => JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)),
    catch: () => {
      const start = new TextDecoder().decode(bytes.subarray(0, 100))
      const kind = bytes.length === 0 ? "empty" : /^\s*</.test(start) ? "HTML or XML, not JSON" : "not JSON"
      return new ManifestInvalid({ what, field: "$", value: `${kind}: ${shownValue(start)}` })
    }
  })
}
