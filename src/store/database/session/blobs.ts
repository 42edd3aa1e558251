/**
 * Keeps a session's blobs under the sha256 of their bytes. Deletes none (see collect.ts).
 *
 * Invariants: what is read back has its hash; a put of what is there makes it young again, so that a collection spares it until
 * the commit that it is for.
 */
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib"
import { Result } from "effect"
import {
  BlobMismatch,
  BlobNotFound,
  BlobTooLarge,
  type SessionNotFound,
  StoredDataCorrupt
} from "../../../domain/errors/session.ts"
import { type BlobHash, type BlobKind, blobBytesMax } from "../../../domain/session/session.ts"
import { immediate } from "../Database.ts"
import { headStatements, readHead, type SessionFile, snapshot } from "./head.ts"

/** Bytes from which a compressible blob is compressed. */
const compressFrom = { low_latency: Number.POSITIVE_INFINITY, balanced: 4096, compact: 1024 } as const
export type CompressionProfile = keyof typeof compressFrom

export interface PutOptions {
  readonly kind: BlobKind
  readonly compressible: boolean
  readonly profile: CompressionProfile
  /** The hash that the bytes must have. */
  readonly expected?: BlobHash
}

/** Keys that a hash may have: its first 13 digits as a number, and as many after it as collide. */
const probes = 8
export const blobKey = (hash: BlobHash): number => Number.parseInt(hash.slice(0, 13), 16)
/** The condition that finds a blob by the parameters `?1` (key) and `?2` (hash). */
export const blobIs = `id BETWEEN ?1 AND ?1 + ${probes - 1} AND hash = ?2`

export const blobStatements = {
  find: `SELECT id, hash, kind, compression, content FROM blob WHERE ${blobIs}`,
  exists: `SELECT 1 AS found FROM blob WHERE ${blobIs}`,
  taken: `SELECT id, hash FROM blob WHERE id BETWEEN ?1 AND ?1 + ${probes - 1}`,
  insert: "INSERT INTO blob (id, hash, kind, compression, created_at, content) VALUES (?, ?, ?, ?, ?, ?)",
  renew: "UPDATE blob SET created_at = max(created_at, ?) WHERE id = ?",
  repair: "UPDATE blob SET compression = ?, content = ?, created_at = max(created_at, ?) WHERE id = ?"
} as const

export interface BlobRow {
  readonly id: number
  readonly hash: BlobHash
  readonly kind: BlobKind
  readonly compression: string
  readonly content: Uint8Array
}

export const hashOf = (bytes: Uint8Array): BlobHash => new Bun.CryptoHasher("sha256").update(bytes).digest("hex")

/** The bytes of a stored blob, undefined when they are not what was put. */
export const openBlob = (row: Pick<BlobRow, "hash" | "compression" | "content">): Uint8Array | undefined => {
  try {
    const bytes =
      row.compression === "none"
        ? row.content
        : new Uint8Array(zstdDecompressSync(row.content, { maxOutputLength: blobBytesMax }))
    return hashOf(bytes) === row.hash ? bytes : undefined
  } catch {
    return undefined
  }
}

interface Packed {
  readonly compression: "none" | "zstd"
  readonly content: Uint8Array
}

/** zstd where that is worth it (RFC 8878), level 3. */
export const packBlob = (
  bytes: Uint8Array,
  { compressible, profile }: Pick<PutOptions, "compressible" | "profile">
): Packed => {
  if (!compressible || bytes.length < compressFrom[profile]) return { compression: "none", content: bytes }
  const content = zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 3 } })
  return content.length < bytes.length ? { compression: "zstd", content } : { compression: "none", content: bytes }
}

/** G5: stores bytes and answers their hash; the second time nothing but their age changes. Stored bytes that went bad are replaced. */
export const putBlob = (
  file: SessionFile,
  bytes: Uint8Array,
  options: PutOptions,
  nowMs: number
): Result.Result<BlobHash, BlobTooLarge | BlobMismatch | SessionNotFound | StoredDataCorrupt> => {
  const { id: sessionId, connection } = file
  if (bytes.length > blobBytesMax) return Result.fail(new BlobTooLarge({ sessionId, bytesMax: blobBytesMax }))
  const hash = hashOf(bytes)
  const { expected } = options
  if (expected !== undefined && expected !== hash) {
    return Result.fail(new BlobMismatch({ sessionId, expected, actual: hash }))
  }
  const packed = packBlob(bytes, options)
  return immediate(connection, () =>
    Result.gen(function* () {
      yield* readHead(file)
      storeBlob(file, hash, options.kind, packed, nowMs)
      connection.run(headStatements.touch, [nowMs])
      return hash
    })
  )
}

/** Inserts, renews or repairs, inside the caller's transaction. */
export const storeBlob = (
  { connection }: Pick<SessionFile, "connection">,
  hash: BlobHash,
  kind: BlobKind,
  { compression, content }: Packed,
  nowMs: number
): void => {
  const key = blobKey(hash)
  const known = connection.get<BlobRow>(blobStatements.find, [key, hash])
  if (known !== undefined) {
    if (openBlob(known) !== undefined) connection.run(blobStatements.renew, [nowMs, known.id])
    else connection.run(blobStatements.repair, [compression, content, nowMs, known.id])
    return
  }
  const taken = connection.all<{ readonly id: number }>(blobStatements.taken, [key]).map((row) => row.id)
  let id = key
  while (taken.includes(id)) id += 1
  // Nobody finds nine inputs whose hashes share 52 bits.
  if (id >= key + probes) throw new Error(`no key is free for blob ${hash}`)
  connection.run(blobStatements.insert, [id, hash, kind, compression, nowMs, content])
}

/** The row of a blob, bytes as stored. */
export const findBlob = ({ connection }: Pick<SessionFile, "connection">, hash: BlobHash): BlobRow | undefined =>
  connection.get<BlobRow>(blobStatements.find, [blobKey(hash), hash])

/** True for a blob that is there, whole or not. */
export const blobExists = ({ connection }: Pick<SessionFile, "connection">, hash: BlobHash): boolean =>
  connection.get(blobStatements.exists, [blobKey(hash), hash]) !== undefined

export interface Blob {
  readonly hash: BlobHash
  readonly kind: BlobKind
  readonly bytes: Uint8Array
}

/** G5: the bytes under a hash, verified. */
export const getBlob = (
  file: SessionFile,
  hash: BlobHash
): Result.Result<Blob, BlobNotFound | SessionNotFound | StoredDataCorrupt> =>
  snapshot(file.connection, () =>
    Result.gen(function* () {
      yield* readHead(file)
      const row = findBlob(file, hash)
      if (row === undefined) return yield* Result.fail(new BlobNotFound({ sessionId: file.id, hash }))
      const bytes = openBlob(row)
      if (bytes === undefined) return yield* Result.fail(damagedBlob(file, hash))
      return { hash, kind: row.kind, bytes }
    })
  )

export const damagedBlob = ({ id }: SessionFile, hash: BlobHash): StoredDataCorrupt =>
  new StoredDataCorrupt({ sessionId: id, what: "blob", item: hash, reason: "its bytes do not have its hash" })
