/** Builds small images for tests in memory: layers from entry lists, OCI layouts, archives. Its tar writer is plain ustar with pax for the rest. */

import fs from "node:fs/promises"
import path from "node:path"
import { mediaTypes } from "../../src/domain/image/descriptor.ts"
import { normalizePlatform, type Platform } from "../../src/domain/image/platform.ts"

/** One tar entry; what is absent has the default in brackets. */
export interface Entry {
  readonly path: string
  /** [file] */
  readonly type?: "file" | "directory" | "symlink" | "hardlink" | "char" | "block" | "fifo"
  readonly content?: string | Uint8Array
  /** [0o644, directories 0o755] */
  readonly mode?: number
  readonly uid?: number
  readonly gid?: number
  /** Seconds since 1970 [1,700,000,000]. */
  readonly mtime?: number
  /** Target of a symlink or hardlink. */
  readonly link?: string
  readonly major?: number
  readonly minor?: number
  readonly xattrs?: Readonly<Record<string, string>>
}

export const directory = (name: string, rest: Partial<Entry> = {}): Entry => ({
  path: name,
  type: "directory",
  ...rest
})
export const file = (name: string, content: string | Uint8Array, rest: Partial<Entry> = {}): Entry => ({
  path: name,
  content,
  ...rest
})
export const symlink = (name: string, link: string): Entry => ({ path: name, type: "symlink", link })
export const hardlink = (name: string, link: string): Entry => ({ path: name, type: "hardlink", link })
/** An OCI whiteout: removes `name` of the layers below. */
export const whiteout = (name: string): Entry =>
  file(path.posix.join(path.posix.dirname(name), `.wh.${path.posix.basename(name)}`), "")
/** An OCI opaque whiteout: hides all that the layers below have in a directory. */
export const opaque = (name: string): Entry => file(path.posix.join(name, ".wh..wh..opq"), "")

const typeFlags = { file: "0", hardlink: "1", symlink: "2", char: "3", block: "4", directory: "5", fifo: "6" } as const

const header = (name: string, flag: string, size: number, entry: Partial<Entry>): Buffer => {
  const block = Buffer.alloc(512)
  const octal = (value: number, at: number, width: number) => {
    block.write(value.toString(8).padStart(width - 1, "0") + "\0", at, "latin1")
  }
  block.write(name, 0, 100)
  octal(entry.mode ?? (flag === "5" ? 0o755 : 0o644), 100, 8)
  octal(entry.uid ?? 0, 108, 8)
  octal(entry.gid ?? 0, 116, 8)
  octal(size, 124, 12)
  octal(entry.mtime ?? 1_700_000_000, 136, 12)
  block.write("        ", 148, "latin1")
  block.write(flag, 156, "latin1")
  block.write(entry.link ?? "", 157, 100)
  block.write("ustar\x0000", 257, "latin1")
  octal(entry.major ?? 0, 329, 8)
  octal(entry.minor ?? 0, 337, 8)
  let sum = 0
  for (const byte of block) sum += byte
  block.write(sum.toString(8).padStart(6, "0") + "\0 ", 148, "latin1")
  return block
}

const padded = (content: Uint8Array): ReadonlyArray<Uint8Array> => [content, Buffer.alloc(-content.length & 511)]

const paxRecord = (key: string, value: string): Buffer => {
  const rest = Buffer.byteLength(` ${key}=${value}\n`)
  let length = rest + String(rest).length
  if (String(length).length !== String(rest).length) length = rest + String(length).length
  return Buffer.from(`${length} ${key}=${value}\n`)
}

/** A tar archive of the entries in their order, with two zero blocks at its end. */
export const tarOf = (entries: ReadonlyArray<Entry>): Buffer => {
  const parts: Array<Uint8Array> = []
  for (const entry of entries) {
    const flag = typeFlags[entry.type ?? "file"]
    const content = Buffer.from(entry.content ?? "")
    const name = flag === "5" && !entry.path.endsWith("/") ? `${entry.path}/` : entry.path
    const pax: Array<Buffer> = []
    if (Buffer.byteLength(name) > 100) pax.push(paxRecord("path", name))
    if (Buffer.byteLength(entry.link ?? "") > 100) pax.push(paxRecord("linkpath", entry.link ?? ""))
    for (const [key, value] of Object.entries(entry.xattrs ?? {})) pax.push(paxRecord(`SCHILY.xattr.${key}`, value))
    if (pax.length > 0) {
      const records = Buffer.concat(pax)
      parts.push(header("PaxHeaders/entry", "x", records.length, {}), ...padded(records))
    }
    parts.push(header(name.slice(0, 100), flag, content.length, entry), ...padded(content))
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)])
}

const sha256 = (bytes: Uint8Array): string => `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`

/** A blob with the descriptor that announces it. */
export interface ImageBlob {
  readonly bytes: Uint8Array
  readonly descriptor: { readonly mediaType: string; readonly digest: string; readonly size: number }
}

export const blobOf = (mediaType: string, bytes: Uint8Array): ImageBlob => ({
  bytes,
  descriptor: { mediaType, digest: sha256(bytes), size: bytes.length }
})

export const jsonBlob = (mediaType: string, value: unknown): ImageBlob =>
  blobOf(mediaType, Buffer.from(JSON.stringify(value)))

/** What `imageOf` makes. */
export interface TestImage {
  readonly manifest: ImageBlob
  readonly config: ImageBlob
  readonly layers: ReadonlyArray<ImageBlob>
  readonly diffIds: ReadonlyArray<string>
  /** Uncompressed layers. */
  readonly tars: ReadonlyArray<Uint8Array>
  readonly platform: Platform
  /** Every blob, the manifest included. */
  readonly blobs: ReadonlyArray<ImageBlob>
}

export interface ImageOptions {
  /** [linux/amd64] */
  readonly platform?: Platform
  /** [gzip] */
  readonly compression?: "none" | "gzip" | "zstd"
  /** The config's `config` member, Docker's capitals: `Env`, `Cmd` … */
  readonly config?: Readonly<Record<string, unknown>>
  /** Media types of OCI or of Docker schema 2 [oci]. */
  readonly flavour?: "oci" | "docker"
}

const compress = {
  none: (bytes: Uint8Array): Uint8Array => bytes,
  gzip: (bytes: Uint8Array): Uint8Array => Bun.gzipSync(new Uint8Array(bytes)),
  zstd: (bytes: Uint8Array): Uint8Array => Bun.zstdCompressSync(bytes)
}

const layerType = {
  oci: { none: mediaTypes.ociLayer, gzip: mediaTypes.ociLayerGzip, zstd: mediaTypes.ociLayerZstd },
  docker: { none: mediaTypes.dockerLayer, gzip: mediaTypes.dockerLayerGzip, zstd: mediaTypes.dockerLayerZstd }
}

/** An image of one platform, layers bottom to top; the same arguments give the same digests. */
export const imageOf = (layers: ReadonlyArray<ReadonlyArray<Entry>>, options: ImageOptions = {}): TestImage => {
  const flavour = options.flavour ?? "oci"
  const compression = options.compression ?? "gzip"
  const platform = normalizePlatform(options.platform ?? { os: "linux", architecture: "amd64" })
  const tars = layers.map(tarOf)
  const diffIds = tars.map(sha256)
  const layerBlobs = tars.map((tar) => blobOf(layerType[flavour][compression], compress[compression](tar)))
  const config = jsonBlob(flavour === "oci" ? mediaTypes.ociConfig : mediaTypes.dockerConfig, {
    ...platform,
    created: "2024-01-01T00:00:00Z",
    config: { Env: ["PATH=/usr/bin:/bin"], Cmd: ["/bin/sh"], ...options.config },
    rootfs: { type: "layers", diff_ids: diffIds }
  })
  const mediaType = flavour === "oci" ? mediaTypes.ociManifest : mediaTypes.dockerManifest
  const manifest = jsonBlob(mediaType, {
    schemaVersion: 2,
    mediaType,
    config: config.descriptor,
    layers: layerBlobs.map((layer) => layer.descriptor)
  })
  return { manifest, config, layers: layerBlobs, diffIds, tars, platform, blobs: [...layerBlobs, config, manifest] }
}

/** An index over images or other indexes. */
export const indexOf = (
  entries: ReadonlyArray<{
    readonly blob: ImageBlob
    readonly platform?: Platform
    readonly annotations?: Readonly<Record<string, string>>
  }>,
  mediaType: string = mediaTypes.ociIndex
): ImageBlob =>
  jsonBlob(mediaType, {
    schemaVersion: 2,
    mediaType,
    manifests: entries.map(({ blob, platform, annotations }) => ({
      ...blob.descriptor,
      ...(platform === undefined ? {} : { platform }),
      ...(annotations === undefined ? {} : { annotations })
    }))
  })

/** One image of a layout: `top` is its manifest or index, `blobs` all that it needs besides. */
export interface LayoutImage {
  readonly name?: string
  readonly top: ImageBlob
  readonly platform?: Platform
  readonly blobs: ReadonlyArray<ImageBlob>
}

/** A layout's files by name. */
export const layoutFiles = (images: ReadonlyArray<LayoutImage>): ReadonlyMap<string, Uint8Array> => {
  const files = new Map<string, Uint8Array>([["oci-layout", Buffer.from('{"imageLayoutVersion":"1.0.0"}')]])
  const index = indexOf(
    images.map(({ top, name, platform }) => ({
      blob: top,
      ...(platform === undefined ? {} : { platform }),
      ...(name === undefined ? {} : { annotations: { "org.opencontainers.image.ref.name": name } })
    }))
  )
  files.set("index.json", index.bytes)
  for (const { top, blobs } of images) {
    for (const blob of [top, ...blobs]) files.set(`blobs/sha256/${blob.descriptor.digest.slice(7)}`, blob.bytes)
  }
  return files
}

/** The files of a `docker save` archive, with the old folder-per-layer names. */
export const savedFiles = (image: TestImage, tags: ReadonlyArray<string>): ReadonlyMap<string, Uint8Array> => {
  const files = new Map<string, Uint8Array>()
  const names = image.tars.map((tar, position) => {
    const name = `${sha256(Buffer.from(`${position} ${image.diffIds[position]}`)).slice(7)}/layer.tar`
    files.set(name, tar)
    return name
  })
  const config = `${image.config.descriptor.digest.slice(7)}.json`
  files.set(config, image.config.bytes)
  files.set("manifest.json", Buffer.from(JSON.stringify([{ Config: config, RepoTags: tags, Layers: names }])))
  return files
}

/** A tar archive of files by name. */
export const archiveOf = (files: ReadonlyMap<string, Uint8Array>): Buffer =>
  tarOf([...files].map(([name, content]) => file(name, content)))

/** Writes files below a directory, which is made. */
export const writeFiles = async (root: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> => {
  for (const [name, content] of files) {
    const target = path.join(root, name)
    await fs.mkdir(path.dirname(target), { recursive: true })
    await fs.writeFile(target, content)
  }
}
