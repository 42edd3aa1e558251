/**
 * Reads and writes the image tables: `manifest`, `image_ref`, `config`, `layer`, `manifest_layer`. Touches no files, and
 * deletes nothing but what it replaces (see imageCollection.ts).
 *
 * Invariants: an image is recorded whole or not at all; a layer's row exists only while its file was published before it.
 */
import { Data, Effect, Result, Schema } from "effect"
import { Failpoint, type Watcher } from "../../domain/failpoint.ts"
import type { Digest } from "../../domain/image/digest.ts"
import { ImageHandle, LayerInfo, RunDefaults } from "../../domain/image/image.ts"
import { canonicalReference, type Reference } from "../../domain/image/reference.ts"
import type { Service as Database, Transaction } from "./Database.ts"

const handle = `
  SELECT i.reference, m.id AS manifest_id, m.digest, m.architecture, m.os, m.layer_count, m.total_size_bytes, i.created_at, i.updated_at
  FROM image_ref i JOIN manifest m ON m.id = i.manifest_id`

/** Every statement that this module runs; a test asks EXPLAIN QUERY PLAN about each. */
export const statements = {
  byReference: `${handle} WHERE i.reference = ?`,
  byDigest: `${handle} WHERE m.digest = ? ORDER BY i.id`,
  list: `${handle} ORDER BY i.created_at DESC, i.id DESC`,
  config: "SELECT * FROM config WHERE manifest_id = ?",
  layers:
    "SELECT l.diff_id, l.blob_digest, l.media_type, l.compressed_size_bytes, l.erofs_size_bytes, j.position FROM manifest_layer j JOIN layer l ON l.id = j.layer_id WHERE j.manifest_id = ? ORDER BY j.position",
  layer: "SELECT erofs_size_bytes FROM layer WHERE diff_id = ?",
  insertLayer:
    "INSERT INTO layer (diff_id, blob_digest, media_type, compressed_size_bytes, erofs_size_bytes, created_at, last_used_at) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (diff_id) DO UPDATE SET blob_digest = excluded.blob_digest, media_type = excluded.media_type, compressed_size_bytes = excluded.compressed_size_bytes, erofs_size_bytes = excluded.erofs_size_bytes, last_used_at = excluded.last_used_at",
  /** All layers of a manifest in one statement. */
  touchLayers:
    "UPDATE layer SET last_used_at = ? WHERE id IN (SELECT layer_id FROM manifest_layer WHERE manifest_id = ?)",
  touchReference: "UPDATE image_ref SET updated_at = ? WHERE reference = ? AND manifest_id = ?",
  knownLayers:
    "SELECT count(DISTINCT l.diff_id) AS layers FROM manifest_layer j JOIN layer l ON l.id = j.layer_id WHERE j.manifest_id = ?",
  rootManifest:
    "SELECT m.id, m.digest FROM sandbox_rootfs f JOIN manifest m ON m.id = f.manifest_id WHERE f.sandbox_id = ?",
  platform: "SELECT os, architecture, variant FROM manifest WHERE id = ?",
  insertManifest:
    "INSERT INTO manifest (digest, media_type, config_digest, architecture, os, variant, layer_count, total_size_bytes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET media_type = excluded.media_type RETURNING id",
  dropConfig: "DELETE FROM config WHERE manifest_id = ?",
  insertConfig:
    "INSERT INTO config (manifest_id, digest, env, cmd, entrypoint, working_dir, user, labels, stop_signal, exposed_ports, volumes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
  dropJunctions: "DELETE FROM manifest_layer WHERE manifest_id = ?",
  insertJunction:
    "INSERT INTO manifest_layer (manifest_id, layer_id, position) SELECT ?, id, ? FROM layer WHERE diff_id = ?",
  insertReference:
    "INSERT INTO image_ref (reference, manifest_id, created_at, updated_at) VALUES (?, ?, ?, ?) ON CONFLICT (reference) DO UPDATE SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at RETURNING id"
} as const

/** What a pull learned about an image, ready to be recorded. */
export interface ImageMetadata {
  readonly manifestDigest: Digest
  readonly mediaType: string
  readonly configDigest: string
  readonly architecture: string
  readonly os: string
  readonly variant: string | undefined
  readonly totalSizeBytes: number
  /** Time of building that the image states, unix milliseconds. */
  readonly builtAt: number | null
  readonly config: RunDefaults
  /** Bottom to top; their rows exist (see `recordLayer`). */
  readonly diffIds: ReadonlyArray<Digest>
}

interface HandleRow {
  readonly reference: string
  readonly manifest_id: number
  readonly digest: string
  readonly architecture: string
  readonly os: string
  readonly layer_count: number
  readonly total_size_bytes: number
  readonly created_at: number
  readonly updated_at: number
}

const toHandle = (row: HandleRow): ImageHandle =>
  new ImageHandle({
    reference: row.reference,
    manifestDigest: row.digest as Digest,
    architecture: row.architecture,
    os: row.os,
    layerCount: row.layer_count,
    totalSizeBytes: row.total_size_bytes,
    createdAt: row.created_at,
    lastUsedAt: row.updated_at
  })

export interface ImageRecord {
  readonly manifestId: number
  readonly image: ImageHandle
}

const toRecord = (row: HandleRow): ImageRecord => ({ manifestId: row.manifest_id, image: toHandle(row) })

export const findImage = (db: Database, reference: string) =>
  Effect.map(db.get<HandleRow>(statements.byReference, [reference]), (row): ImageRecord | undefined =>
    row === undefined ? undefined : toRecord(row)
  )

/**
 * The image that a reference names: the one recorded under it, or, where it pins a digest, one of this digest that is recorded under
 * another tag of the same repository. The tag beside a digest means nothing, as in docker.
 */
export const findReferenced = Effect.fnUntraced(function* (db: Database, reference: Reference) {
  const exact = yield* findImage(db, canonicalReference(reference))
  const { digest, domain, path } = reference
  if (exact !== undefined || digest === undefined) return exact
  const rows = yield* db.all<HandleRow>(statements.byDigest, [digest])
  const found = rows.find(
    (row) =>
      /^[:@]/.test(row.reference.slice(`${domain}/${path}`.length)) && row.reference.startsWith(`${domain}/${path}`)
  )
  return found === undefined ? undefined : toRecord(found)
})

/** The manifest that a sandbox was made from, undefined when there is no such sandbox. */
export const rootManifest = (db: Database, sandboxId: number) =>
  db.get<{ readonly id: number; readonly digest: Digest }>(statements.rootManifest, [sandboxId])

/** Newest first, ties by id. */
export const listImages = (db: Database) => Effect.map(db.all<HandleRow>(statements.list), (rows) => rows.map(toHandle))

const Strings = Schema.fromJsonString(Schema.Array(Schema.String))
const StringMap = Schema.fromJsonString(Schema.Record(Schema.String, Schema.String))

/** A broken column is logged and reads as empty: a damaged record never makes an image unusable. */
const lenient = <S extends Schema.Codec<unknown, string>>(
  schema: S,
  column: string,
  text: unknown,
  empty: S["Type"]
) =>
  text === null || text === undefined
    ? Effect.succeed(empty)
    : Schema.decodeUnknownEffect(schema)(text).pipe(
        Effect.catch(() => Effect.as(Effect.logWarning(`config column ${column} is broken and reads as empty`), empty))
      )

export const imageConfig = Effect.fnUntraced(function* (db: Database, manifestId: number) {
  const row = (yield* db.get<Record<string, string | null>>(statements.config, [manifestId])) ?? {}
  return new RunDefaults({
    env: yield* lenient(Strings, "env", row["env"], []),
    cmd: yield* lenient(Strings, "cmd", row["cmd"], []),
    entrypoint: yield* lenient(Strings, "entrypoint", row["entrypoint"], []),
    workingDir: row["working_dir"] ?? "",
    user: row["user"] ?? "",
    labels: yield* lenient(StringMap, "labels", row["labels"], {}),
    stopSignal: row["stop_signal"] ?? null,
    exposedPorts: yield* lenient(Strings, "exposed_ports", row["exposed_ports"], []),
    volumes: yield* lenient(Strings, "volumes", row["volumes"], [])
  })
})

/** The platform that a recorded manifest is for. */
export const imagePlatform = (db: Database, manifestId: number) =>
  Effect.map(
    db.get<{ readonly os: string; readonly architecture: string; readonly variant: string | null }>(
      statements.platform,
      [manifestId]
    ),
    (row) => ({ os: row?.os ?? "", architecture: row?.architecture ?? "", variant: row?.variant ?? undefined })
  )

interface LayerRow {
  readonly diff_id: string
  readonly blob_digest: string
  readonly media_type: string
  readonly compressed_size_bytes: number
  readonly erofs_size_bytes: number
  readonly position: number
}

export const imageLayers = (db: Database, manifestId: number) =>
  Effect.map(db.all<LayerRow>(statements.layers, [manifestId]), (rows) =>
    rows.map(
      (row) =>
        new LayerInfo({
          diffId: row.diff_id as Digest,
          blobDigest: row.blob_digest as Digest,
          mediaType: row.media_type,
          compressedSizeBytes: row.compressed_size_bytes,
          erofsSizeBytes: row.erofs_size_bytes,
          position: row.position
        })
    )
  )

/** Length that a layer's file must have, undefined when no such layer is recorded. */
export const layerBytes = (db: Database, diffId: Digest) =>
  Effect.map(db.get<{ readonly erofs_size_bytes: number }>(statements.layer, [diffId]), (row) => row?.erofs_size_bytes)

export const recordLayer = (db: Database, layer: Omit<LayerInfo, "position">, nowMs: number) =>
  db.run(statements.insertLayer, [
    layer.diffId,
    layer.blobDigest,
    layer.mediaType,
    layer.compressedSizeBytes,
    layer.erofsSizeBytes,
    nowMs,
    nowMs
  ])

/**
 * Moves the times of last use of an image that was found whole: two UPDATEs, no other write. Answers false when the reference
 * names another manifest by now, or is gone.
 */
export const touchImage = Effect.fnUntraced(function* (
  db: Database,
  record: { readonly manifestId: number; readonly image: ImageHandle },
  nowMs: number
) {
  yield* db.run(statements.touchLayers, [nowMs, record.manifestId])
  return (yield* db.run(statements.touchReference, [nowMs, record.image.reference, record.manifestId])) === 1
})

/** A layer that was there when the image was put together has no record now: its lease ran out and a collector took it. */
export class LayerGone extends Data.TaggedError("LayerGone")<{ readonly diffId: Digest }> {}

/**
 * Records an image and answers how it is listed. A reference that names the same manifest already, with every layer recorded,
 * only has its times of use moved; otherwise manifest, config, junctions and reference are written in one transaction, config
 * and junctions replaced whole. Fails with `LayerGone` and records nothing when a layer has no record.
 */
export const persistImage = Effect.fnUntraced(function* (
  db: Database,
  reference: string,
  meta: ImageMetadata,
  nowMs: number
) {
  const known = yield* findImage(db, reference)
  if (known?.image.manifestDigest === meta.manifestDigest) {
    // By distinct diff id: an image may hold the same layer twice.
    const recorded = yield* db.get<{ readonly layers: number }>(statements.knownLayers, [known.manifestId])
    const whole = recorded?.layers === new Set(meta.diffIds).size && known.image.layerCount === meta.diffIds.length
    if (whole && (yield* touchImage(db, known, nowMs))) return new ImageHandle({ ...known.image, lastUsedAt: nowMs })
  }
  return yield* writeImage(db, reference, meta, nowMs, yield* Failpoint)
})

const writeImage = (db: Database, reference: string, meta: ImageMetadata, nowMs: number, watch: Watcher) =>
  db.transaction((tx): Result.Result<ImageHandle, LayerGone> => {
    const manifest = tx.get<{ readonly id: number }>(statements.insertManifest, [
      meta.manifestDigest,
      meta.mediaType,
      meta.configDigest,
      meta.architecture,
      meta.os,
      meta.variant ?? null,
      meta.diffIds.length,
      meta.totalSizeBytes,
      nowMs
    ])!
    writeConfig(tx, manifest.id, meta)
    tx.run(statements.dropJunctions, [manifest.id])
    for (const [position, diffId] of meta.diffIds.entries()) {
      if (tx.run(statements.insertJunction, [manifest.id, position, diffId]) !== 1) {
        return Result.fail(new LayerGone({ diffId }))
      }
    }
    watch("image.half-recorded")
    tx.run(statements.touchLayers, [nowMs, manifest.id])
    tx.run(statements.insertReference, [reference, manifest.id, nowMs, nowMs])
    // Read here: a moment later another process may have removed it again.
    return Result.succeed(toHandle(tx.get<HandleRow>(statements.byReference, [reference])!))
  })

const writeConfig = (tx: Transaction, manifestId: number, { config, configDigest, builtAt }: ImageMetadata): void => {
  tx.run(statements.dropConfig, [manifestId])
  tx.run(statements.insertConfig, [
    manifestId,
    configDigest,
    JSON.stringify(config.env),
    JSON.stringify(config.cmd),
    JSON.stringify(config.entrypoint),
    config.workingDir,
    config.user,
    JSON.stringify(config.labels),
    config.stopSignal,
    JSON.stringify(config.exposedPorts),
    JSON.stringify(config.volumes),
    builtAt
  ])
}
