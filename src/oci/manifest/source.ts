/** The interface between where an image's bytes come from and who unpacks them. Holds no behaviour. */
import type { Effect, Stream } from "effect"
import type {
  ArchiveInvalid,
  DigestMismatch,
  ImageNotFound,
  ManifestInvalid,
  PlatformNotFound,
  RegistryAuth,
  RegistryUnavailable,
  RootfsInvalid
} from "../../domain/errors/image.ts"
import type { ImageConfig } from "../../domain/image/descriptor.ts"
import type { Platform } from "../../domain/image/platform.ts"

/** One layer of an image as its source stores it. */
export interface ResolvedLayer {
  readonly mediaType: string
  /** Digest of the stored (compressed) bytes. */
  readonly digest: string
  /** Length of the stored bytes. */
  readonly sizeBytes: number
  /** Digest of the uncompressed tar, from the config's `rootfs.diff_ids`. */
  readonly diffId: string | undefined
}

/** One image for one platform, its manifest and config checked. */
export interface ResolvedImage {
  readonly manifestDigest: string
  readonly manifestMediaType: string
  readonly configDigest: string
  readonly config: ImageConfig
  /** Bottom to top. */
  readonly layers: ReadonlyArray<ResolvedLayer>
  /** Stored bytes of manifest, config and layers. */
  readonly totalSizeBytes: number
  readonly documents: ImageDocuments
}

/** Manifest and config byte by byte, as their digests count them. */
export interface ImageDocuments {
  readonly manifest: Uint8Array
  readonly config: Uint8Array
}

export type SourceError =
  | ImageNotFound
  | PlatformNotFound
  | ManifestInvalid
  | DigestMismatch
  | RegistryAuth
  | RegistryUnavailable
  | ArchiveInvalid
  | RootfsInvalid

/** Where an image's bytes come from: a registry repository or a file. */
export interface ImageSource {
  readonly resolve: (platform: Platform) => Effect.Effect<ResolvedImage, SourceError>
  /** Bytes as stored (compressed); length and sha256 are checked, and more bytes than announced stop the stream at once. */
  readonly blob: (layer: ResolvedLayer) => Stream.Stream<Uint8Array, SourceError>
  /**
   * The same from a byte on, for who checks length and digest of the whole. Absent where the bytes are at hand anyway, so that
   * nothing is gained by keeping them.
   */
  readonly rest?: (layer: ResolvedLayer, from: number) => Stream.Stream<Uint8Array, SourceError>
}
