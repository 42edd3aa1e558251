/**
 * Makes an image of one layer out of a root file system: a directory, or a tar of one, plain, gzip or zstd. The same tree and
 * configuration give the same digests, for no clock goes in. Reads everything twice: once for the digests, once to unpack.
 */
import fs from "node:fs"
import { CryptoHasher } from "bun"
import { Effect, Stream } from "effect"
import { RootfsInvalid } from "../../domain/errors/image.ts"
import { mediaTypes, toImageConfig } from "../../domain/image/descriptor.ts"
import type { Digest } from "../../domain/image/digest.ts"
import type { RunConfig } from "../../domain/image/imageChanges.ts"
import { normalizePlatform, type Platform } from "../../domain/image/platform.ts"
import { type Compression, Inflater } from "../layer/inflate.ts"
import type { ImageSource, ResolvedImage } from "../manifest/source.ts"
import { digestOf, verified } from "../manifest/verify.ts"
import { RejectedInput } from "../tar/rejected.ts"
import { reasonOf } from "./bundle.ts"
import { directoryTar, type ReadXattrs } from "./rootfs.ts"

const PIECE = 512 * 1024

function* fileBytes(file: string): Generator<Uint8Array, void> {
  const fd = fs.openSync(file, "r")
  try {
    for (;;) {
      const piece = Buffer.allocUnsafeSlow(PIECE)
      const got = fs.readSync(fd, piece)
      if (got === 0) return
      yield piece.subarray(0, got)
    }
  } finally {
    fs.closeSync(fd)
  }
}

const layerTypes: Readonly<Record<Compression, string>> = {
  none: mediaTypes.ociLayer,
  gzip: mediaTypes.ociLayerGzip,
  zstd: mediaTypes.ociLayerZstd
}

/** Bytes after which others get their turn: files are read synchronously. */
const turnBytes = 8 * 2 ** 20

/** What a walk over all bytes finds out. */
const measure = async (pieces: Iterable<Uint8Array>, signal: AbortSignal) => {
  const stored = new CryptoHasher("sha256")
  const tar = new CryptoHasher("sha256")
  let sizeBytes = 0
  const inflater = new Inflater((bytes) => void tar.update(bytes))
  try {
    for (const piece of pieces) {
      stored.update(piece)
      const before = sizeBytes
      sizeBytes += piece.length
      await inflater.push(piece)
      if (Math.floor(before / turnBytes) === Math.floor(sizeBytes / turnBytes)) continue
      await new Promise((resolve) => setImmediate(resolve))
      signal.throwIfAborted()
    }
    await inflater.finish()
  } finally {
    inflater.close()
  }
  const digest = `sha256:${stored.digest("hex")}` as Digest
  const diffId = `sha256:${tar.digest("hex")}` as Digest
  return { mediaType: layerTypes[inflater.compression ?? "none"], digest, diffId, sizeBytes }
}

const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value))

/** The root file system at `path` as the source of an image that runs as `config` says. Fails with `RootfsInvalid` naming what can not be read. */
export const importSource = (path: string, config: RunConfig, readXattrs?: ReadXattrs): ImageSource => {
  const invalid = (cause: unknown) => {
    if (cause instanceof RootfsInvalid) return cause
    const reason = cause instanceof RejectedInput ? cause.reason : reasonOf(cause)
    return new RootfsInvalid({ path, reason })
  }
  const pieces = (): Iterable<Uint8Array> => {
    const stat = fs.statSync(path)
    if (stat.isDirectory()) return directoryTar(path, readXattrs)
    if (!stat.isFile()) throw new RootfsInvalid({ path, reason: "it is neither a file nor a directory" })
    if (stat.size === 0) throw new RootfsInvalid({ path, reason: "it is empty" })
    return fileBytes(path)
  }
  const resolve = Effect.fn("oci.import")(function* (wanted: Platform) {
    const platform = normalizePlatform(wanted)
    const layer = yield* Effect.tryPromise({ try: async (signal) => measure(pieces(), signal), catch: invalid })
    const document = {
      architecture: platform.architecture,
      ...(platform.variant === undefined ? {} : { variant: platform.variant }),
      os: platform.os,
      config,
      rootfs: { type: "layers", diff_ids: [layer.diffId] },
      history: [{ created_by: "bunker import" }]
    } as const
    const configBytes = json(document)
    const configDigest = digestOf(configBytes)
    const manifest = json({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: mediaTypes.ociConfig, digest: configDigest, size: configBytes.length },
      layers: [{ mediaType: layer.mediaType, digest: layer.digest, size: layer.sizeBytes }]
    })
    return {
      manifestDigest: digestOf(manifest),
      manifestMediaType: mediaTypes.ociManifest,
      configDigest,
      config: toImageConfig(document, platform),
      layers: [layer],
      totalSizeBytes: manifest.length + configBytes.length + layer.sizeBytes,
      documents: { manifest, config: configBytes }
    } satisfies ResolvedImage as ResolvedImage
  })
  return {
    resolve,
    blob: (layer) => {
      const again = (async function* () {
        yield* pieces()
      })()
      return verified(`the root file system ${path}`, layer, Stream.fromAsyncIterable(again, invalid))
    }
  }
}
