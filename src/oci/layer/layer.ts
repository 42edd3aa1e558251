/**
 * Converts a layer of an image into an EROFS image in one streaming pass: hash and count what is stored, inflate, hash, parse
 * the tar, write. Checks size, digest and diff id. On any failure and on interruption the file is gone. Renames nothing.
 */

import fs from "node:fs"
import { CryptoHasher } from "bun"
import { Effect, Stream } from "effect"
import { DigestMismatch, LayerRejected } from "../../domain/errors/image.ts"
import { DiskFull, StoreFailed } from "../../domain/errors/store.ts"
import { QueuedOutput } from "../erofs/output.ts"
import { layerUuid } from "../erofs/seal.ts"
import { RejectedInput, readable } from "../tar/rejected.ts"
import { INFLATE_LIMITS, Inflater } from "./inflate.ts"
import { TREE_LIMITS } from "./layerTree.ts"
import { LayerWriter } from "./writer.ts"

/** Bounds of one layer; past one it is refused with the limit and the entry in the reason. */
export interface LayerLimits {
  /** Entries, directories without one of their own included. Default 1 million. */
  readonly entriesMax: number
  /** Bytes of a path. Default 4096. */
  readonly pathBytesMax: number
  /** Components of a path. Default 128. */
  readonly depthMax: number
  /** Bytes of one file. Default 16 GiB. */
  readonly fileBytesMax: number
  /** Bytes of the uncompressed tar, and of the EROFS image. Default 64 GiB. */
  readonly bytesMax: number
  /** Inflated bytes per compressed byte. Default 1000. */
  readonly ratioMax: number
  /** Inflated bytes before the ratio counts. Default 16 MiB. */
  readonly ratioFreeBytes: number
}

const LAYER_LIMITS: LayerLimits = { ...TREE_LIMITS, ...INFLATE_LIMITS }

export interface LayerSource<E> {
  /** From the manifest. The compression is told from the bytes, not from this. */
  readonly mediaType: string
  /** Digest of the stored bytes, `sha256:` and 64 hex digits. */
  readonly digest: string
  /** Length of the stored bytes. */
  readonly sizeBytes: number
  /** From the config; undefined when unknown. */
  readonly diffId: string | undefined
  /** The stored bytes, in pieces of any size. */
  readonly bytes: Stream.Stream<Uint8Array, E>
}

export interface ConvertedLayer {
  /** Digest of the uncompressed tar. */
  readonly diffId: string
  readonly blobDigest: string
  readonly mediaType: string
  readonly compressedBytes: number
  /** Length of the EROFS image; a multiple of 4096. */
  readonly erofsBytes: number
}

export interface ConvertOptions {
  readonly limits?: Partial<LayerLimits>
  /** Told how many stored bytes were taken so far. */
  readonly onBytes?: (compressedBytes: number) => void
}

type Failure = LayerRejected | DigestMismatch | DiskFull | StoreFailed

/** What byte-level code threw, as a typed error; throws anything unexpected on, which makes it a defect. */
export const toFailure =
  (layer: string, outPath: string) =>
  (cause: unknown): Failure => {
    if (cause instanceof LayerRejected || cause instanceof DigestMismatch) return cause
    if (cause instanceof RejectedInput) {
      const entry = cause.entry === undefined ? {} : { entry: readable(cause.entry) }
      return new LayerRejected({ layer, reason: cause.reason, ...entry })
    }
    const { code, path, syscall } = (cause ?? {}) as Partial<Record<"code" | "path" | "syscall", unknown>>
    if (code === "ENOSPC" || code === "EDQUOT") return new DiskFull({ path: outPath })
    if (typeof code === "string" && typeof syscall === "string") {
      return new StoreFailed({ operation: syscall, path: typeof path === "string" ? path : outPath, reason: code })
    }
    throw cause
  }

/** Everything between the stored bytes and the file; `push` and `finish` reject with what the parts throw. */
class Conversion {
  readonly #stored = new CryptoHasher("sha256")
  readonly #tar = new CryptoHasher("sha256")
  readonly #out: QueuedOutput
  readonly #writer: LayerWriter
  readonly #inflater: Inflater
  #compressedBytes = 0
  #closed = false

  constructor(
    fd: number,
    readonly source: Omit<LayerSource<never>, "bytes">,
    readonly options: ConvertOptions
  ) {
    const limits = { ...LAYER_LIMITS, ...options.limits }
    this.#out = new QueuedOutput(fd)
    this.#writer = new LayerWriter(this.#out, limits)
    this.#inflater = new Inflater((bytes) => {
      if (this.#inflater.compression !== "none") this.#tar.update(bytes)
      this.#writer.tar.push(bytes)
      return this.#out.room()
    }, limits)
  }

  async push(bytes: Uint8Array): Promise<void> {
    if (this.#closed) return
    this.#compressedBytes += bytes.length
    if (this.#compressedBytes > this.source.sizeBytes) this.#mismatch("size", `${this.source.sizeBytes} bytes`, "more")
    this.#stored.update(bytes)
    await this.#inflater.push(bytes)
    this.options.onBytes?.(this.#compressedBytes)
  }

  async finish(): Promise<ConvertedLayer> {
    const { digest, mediaType, sizeBytes } = this.source
    if (this.#compressedBytes !== sizeBytes)
      this.#mismatch("size", `${sizeBytes} bytes`, `${this.#compressedBytes} bytes`)
    const blobDigest = `sha256:${this.#stored.digest("hex")}`
    if (blobDigest !== digest) this.#mismatch("digest", digest, blobDigest)
    await this.#inflater.finish()
    const { endMark } = this.#writer.tar.finish()
    const diffId = this.#inflater.compression === "none" ? blobDigest : `sha256:${this.#tar.digest("hex")}`
    if (this.source.diffId !== undefined && this.source.diffId !== diffId) {
      this.#mismatch("diff id", this.source.diffId, diffId)
    }
    // Some builders leave the end mark out; only a diff id proves then that nothing is missing.
    if (!endMark && this.source.diffId === undefined)
      throw new RejectedInput("the tar has no end mark: it may have been cut")
    this.#writer.finish(Buffer.from(layerUuid(diffId), "hex"))
    await this.#out.settled()
    return { diffId, blobDigest, mediaType, compressedBytes: this.#compressedBytes, erofsBytes: this.#out.position }
  }

  /** After this nothing more reaches the file, whose descriptor may soon belong to another. */
  async close(): Promise<void> {
    this.#closed = true
    this.#inflater.close()
    await this.#out.settled().catch(() => undefined)
  }

  #mismatch(what: string, expected: string, actual: string): never {
    throw new DigestMismatch({ what: `${what} of layer ${this.source.digest}`, expected, actual })
  }
}

/**
 * Creates the file of an image (replacing a leftover) and hands its descriptor to `use`; after a failure the file is gone.
 * Whoever publishes it syncs it.
 */
export const writingFile = <A, E>(
  outPath: string,
  layer: string,
  use: (fd: number) => Effect.Effect<A, E>
): Effect.Effect<A, E | Failure> => {
  return Effect.acquireUseRelease(
    Effect.try({ try: () => fs.openSync(outPath, "w", 0o600), catch: toFailure(layer, outPath) }),
    use,
    (fd, exit) =>
      Effect.sync(() => {
        fs.closeSync(fd)
        if (exit._tag === "Failure") fs.rmSync(outPath, { force: true })
      })
  )
}

/**
 * One streaming pass: count and hash the stored bytes, inflate, hash, parse the tar, write the EROFS file at `outPath`
 * (created, removed on any failure).
 *
 * Fails with `DigestMismatch` (size, digest or diff id), `LayerRejected` (format, limit or forbidden entry), `DiskFull`,
 * `StoreFailed`, and with whatever `source.bytes` fails with.
 */
export const convertLayer: <E>(
  source: LayerSource<E>,
  outPath: string,
  options?: ConvertOptions
) => Effect.Effect<ConvertedLayer, E | LayerRejected | DigestMismatch | DiskFull | StoreFailed> = Effect.fn(
  "Layer.convert"
)(function* <E>(source: LayerSource<E>, outPath: string, options: ConvertOptions = {}) {
  const failure = toFailure(source.digest, outPath)
  return yield* writingFile(outPath, source.digest, (fd) => {
    const conversion = new Conversion(fd, source, options)
    return Stream.runForEachArray(source.bytes, (pieces) =>
      Effect.tryPromise({
        try: async () => {
          for (const piece of pieces) await conversion.push(piece)
        },
        catch: failure
      })
    ).pipe(
      Effect.andThen(Effect.tryPromise({ try: () => conversion.finish(), catch: failure })),
      Effect.ensuring(Effect.promise(() => conversion.close()))
    )
  })
})
