/** Says how images look to those who ask about them, and what a pull reports while it goes on. Pure. */
import { Schema } from "effect"
import { Digest } from "./digest.ts"

/** One image, as `images` lists it. Times are unix milliseconds, sizes bytes. */
export class ImageHandle extends Schema.Class<ImageHandle>("ImageHandle")({
  /** Canonical reference. */
  reference: Schema.String,
  manifestDigest: Digest,
  architecture: Schema.String,
  os: Schema.String,
  layerCount: Schema.Int,
  /** Stored (compressed) bytes of manifest, config and layers. */
  totalSizeBytes: Schema.Int,
  createdAt: Schema.Int,
  lastUsedAt: Schema.Int
}) {}

/** How an image wants to be run; empty where it says nothing. */
export class RunDefaults extends Schema.Class<RunDefaults>("RunDefaults")({
  env: Schema.Array(Schema.String),
  cmd: Schema.Array(Schema.String),
  entrypoint: Schema.Array(Schema.String),
  workingDir: Schema.String,
  user: Schema.String,
  labels: Schema.Record(Schema.String, Schema.String),
  stopSignal: Schema.NullOr(Schema.String),
  exposedPorts: Schema.Array(Schema.String),
  volumes: Schema.Array(Schema.String)
}) {}

export class LayerInfo extends Schema.Class<LayerInfo>("LayerInfo")({
  diffId: Digest,
  blobDigest: Digest,
  mediaType: Schema.String,
  compressedSizeBytes: Schema.Int,
  erofsSizeBytes: Schema.Int,
  /** 0 is the bottom. */
  position: Schema.Int
}) {}

export class ImageInspection extends Schema.Class<ImageInspection>("ImageInspection")({
  image: ImageHandle,
  config: RunDefaults,
  layers: Schema.Array(LayerInfo)
}) {}

/**
 * An image whose files were found whole and which a content lease keeps so: what a boot needs. Only ImageStore makes one.
 */
export class LeasedImage extends Schema.Class<LeasedImage>("LeasedImage")({
  reference: Schema.String,
  manifestDigest: Digest,
  /** Path of the disk that shows the merged layers. */
  disk: Schema.String,
  config: RunDefaults
}) {}

export const PullPolicy = Schema.Literals(["if-missing", "always", "never"])
export type PullPolicy = typeof PullPolicy.Type

/** What a pull or load reports, in this order; layers interleave. */
export const ImageEvent = Schema.TaggedUnion({
  /** The manifest is known. */
  Resolved: { reference: Schema.String, manifestDigest: Digest, layers: Schema.Int, totalSizeBytes: Schema.Int },
  /** A layer moves: bytes of its stored form so far. At most ten a second for each layer. */
  LayerProgress: { digest: Schema.String, bytes: Schema.Int, totalBytes: Schema.Int },
  /** A layer is there, fetched now or found. */
  LayerDone: { digest: Schema.String, cached: Schema.Boolean },
  /** The layers are stitched into one disk. */
  Assembled: { manifestDigest: Digest },
  /** The image is recorded; the last event. */
  Done: { image: ImageHandle, cached: Schema.Boolean }
})
export type ImageEvent = typeof ImageEvent.Type

/** What a collection removed, or would remove: records, files, and the bytes that left the disk. */
export class CollectReport extends Schema.Class<CollectReport>("CollectReport")({
  image_refs_removed: Schema.Int,
  manifests_removed: Schema.Int,
  /** Layer records, and layer files that no record named. */
  layers_removed: Schema.Int,
  /** Files of merged metadata. */
  fsmeta_removed: Schema.Int,
  /** Disk descriptors. */
  vmdk_removed: Schema.Int,
  /** Blocks times 512, temporary files included; absent when no file was removed. */
  bytes_reclaimed: Schema.optionalKey(Schema.Int)
}) {}

/** Where the bytes of a home directory are, as `df` shows it. */
export class Usage extends Schema.Class<Usage>("Usage")({
  images: Schema.Struct({ count: Schema.Int, bytes: Schema.Int }),
  layers: Schema.Struct({ count: Schema.Int, bytes: Schema.Int }),
  sandboxes: Schema.Struct({ count: Schema.Int, bytes: Schema.Int }),
  temporary: Schema.Struct({ count: Schema.Int, bytes: Schema.Int })
}) {}
