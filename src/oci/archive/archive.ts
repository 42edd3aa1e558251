/**
 * Opens what `load` is given: an OCI layout directory, an OCI archive or a `docker save` archive, plain, gzip or zstd.
 * Decides by content, never by file name; unpacks nothing (a compressed archive is inflated once to a private file).
 */

import { createReadStream, createWriteStream } from "node:fs"
import fs from "node:fs/promises"
import os from "node:os"
import path from "node:path"
import { Transform } from "node:stream"
import { pipeline } from "node:stream/promises"
import zlib from "node:zlib"
import { Effect } from "effect"
import { ArchiveInvalid } from "../../domain/errors/image.ts"
import { DiskFull } from "../../domain/errors/store.ts"
import { layerBytesMax } from "../../domain/image/descriptor.ts"
import { looksLikeTar } from "../tar/fileLocations.ts"
import { type Bundle, directoryBundle, openFile, reasonOf, tarBundle } from "./bundle.ts"
import { savedImages } from "./dockerSave.ts"
import { layoutImages } from "./layout.ts"

/** Options of `openArchive`. */
export interface ArchiveOptions {
  /** Where compressed archives are inflated to; default: the system's directory for temporary files. */
  readonly spoolDirectory?: string
}

/** An inflated archive may be this many times its compressed size, once past the first 16 MiB. */
const inflateRatioMax = 1_000
const inflateFreeBytes = 16 * 1024 * 1024

type Compression = "gzip" | "zstd"

const compressionOf = (head: Uint8Array): Compression | undefined => {
  if (head[0] === 0x1f && head[1] === 0x8b) return "gzip"
  return head[0] === 0x28 && head[1] === 0xb5 && head[2] === 0x2f && head[3] === 0xfd ? "zstd" : undefined
}

/** Why bytes are no tar archive, for a person. */
const reasonAgainst = (head: Uint8Array, sizeBytes: number): string | undefined => {
  if (sizeBytes === 0) return "it is empty"
  if (looksLikeTar(head)) return undefined
  const start = new TextDecoder().decode(head.subarray(0, 64)).trimStart().toLowerCase()
  if (start.startsWith("<"))
    return "it is an HTML or XML page, perhaps a login or error page saved in place of the archive"
  return sizeBytes < 512 ? "it is too short for an archive" : "it is not a tar archive"
}

const headOf = (handle: fs.FileHandle): Promise<Uint8Array> =>
  handle.read(new Uint8Array(512), 0, 512, 0).then(({ buffer, bytesRead }) => buffer.subarray(0, bytesRead))

/** Inflates to a file that only we can read and that goes with the scope. */
const spool = Effect.fn("oci.archive.spool")(function* (
  file: string,
  compression: Compression,
  sizeBytes: number,
  parent: string
) {
  const fail = (cause: unknown, verb: string) =>
    (cause as NodeJS.ErrnoException).code === "ENOSPC"
      ? new DiskFull({ path: parent })
      : new ArchiveInvalid({ path: file, reason: `${verb}: ${reasonOf(cause)}` })
  const directory = yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: () => fs.mkdtemp(path.join(parent, "bunker-load-")),
      catch: (cause) => fail(cause, `no temporary file can be made in ${parent}`)
    }),
    (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }).catch(() => undefined))
  )
  const target = path.join(directory, "archive.tar")
  const most = Math.min(layerBytesMax, Math.max(inflateFreeBytes, sizeBytes * inflateRatioMax))
  let length = 0
  const meter = new Transform({
    transform: (chunk: Uint8Array, _encoding, done) => {
      length += chunk.length
      done(length > most ? new Error(`it grows to more than ${most} bytes`) : null, chunk)
    }
  })
  yield* Effect.tryPromise({
    try: (signal) => {
      const inflate = compression === "gzip" ? zlib.createGunzip() : zlib.createZstdDecompress()
      return pipeline(createReadStream(file), inflate, meter, createWriteStream(target, { mode: 0o600, flags: "wx" }), {
        signal
      })
    },
    catch: (cause) => fail(cause, `its ${compression} compression is damaged or can not be undone`)
  })
  return target
})

const openTar = Effect.fnUntraced(function* (file: string, options: ArchiveOptions) {
  const attempt = <A>(run: () => Promise<A>) =>
    Effect.tryPromise({ try: run, catch: (cause) => new ArchiveInvalid({ path: file, reason: reasonOf(cause) }) })
  let handle = yield* openFile(file, file)
  let stat = yield* attempt(() => handle.stat())
  if (!stat.isFile()) return yield* new ArchiveInvalid({ path: file, reason: "it is neither a file nor a directory" })
  let head = yield* attempt(() => headOf(handle))
  const compression = compressionOf(head)
  if (compression !== undefined) {
    const inflated = yield* spool(file, compression, stat.size, options.spoolDirectory ?? os.tmpdir())
    handle = yield* openFile(file, inflated)
    stat = yield* attempt(() => handle.stat())
    head = yield* attempt(() => headOf(handle))
  }
  const reason = reasonAgainst(head, stat.size)
  if (reason !== undefined) return yield* new ArchiveInvalid({ path: file, reason })
  return yield* tarBundle(file, handle, stat.size)
})

const imagesOf = Effect.fnUntraced(function* (bundle: Bundle) {
  const images = (yield* layoutImages(bundle)) ?? (yield* savedImages(bundle))
  if (images !== undefined) return images
  return yield* new ArchiveInvalid({
    path: bundle.path,
    reason: "it holds neither an index.json (OCI) nor a manifest.json (docker save)"
  })
})

/**
 * Opens an archive or layout until the scope ends. `names` has one entry for each image (for each tag, in a `docker save`
 * archive); `source(i)` reads the image of `names[i]`. Fails with `ArchiveInvalid` for what is no archive, and with
 * `DiskFull` when there is no room to inflate it.
 */
export const openArchive = Effect.fn("oci.openArchive")(function* (file: string, options: ArchiveOptions = {}) {
  const stat = yield* Effect.tryPromise({
    try: () => fs.stat(file),
    catch: (cause) => new ArchiveInvalid({ path: file, reason: reasonOf(cause) })
  })
  const bundle = stat.isDirectory() ? yield* directoryBundle(file) : yield* openTar(file, options)
  const images = yield* imagesOf(bundle)
  return {
    names: images.map((image) => image.name),
    /** How many different images the names are of. */
    count: new Set(images.map((image) => image.content)).size,
    source: (index: number) => {
      const image = images[index]
      if (image === undefined)
        throw new RangeError(`the archive holds ${images.length} images, there is no number ${index}`)
      return image.source
    }
  }
})
