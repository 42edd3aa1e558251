/**
 * Decides by the records what of the image tables is garbage, and deletes those rows. Touches no files: they are the caller's
 * to remove, afterwards and under their locks.
 *
 * Invariant: marks and deletes in one transaction; what a reference, a sandbox's root file system or a live content lease
 * needs is never deleted.
 */
import { Effect, Result } from "effect"
import type { Digest } from "../domain/digest.ts"
import type { Service as Database, Transaction } from "./Database.ts"

const unleased = (resource: string) =>
  `NOT EXISTS (SELECT 1 FROM content_lease c WHERE c.resource = ${resource} AND c.expires_at > ?)`

/** Every statement that this module runs; a test asks EXPLAIN QUERY PLAN about each. */
export const statements = {
  dropReference: "DELETE FROM image_ref WHERE reference = ?",
  usersOfReference:
    "SELECT s.name FROM image_ref i JOIN sandbox_rootfs f ON f.manifest_id = i.manifest_id JOIN sandbox s ON s.id = f.sandbox_id WHERE i.reference = ? ORDER BY s.name",
  dropExpiredLeases: "DELETE FROM content_lease WHERE expires_at <= ?",
  dropManifest: "DELETE FROM manifest WHERE id = ?",
  dropLayer: "DELETE FROM layer WHERE id = ?",
  /** One row while anything may still want the files of a manifest. */
  wantsManifest:
    "SELECT 1 AS wanted FROM manifest WHERE digest = ? UNION ALL SELECT 1 FROM content_lease WHERE resource = ? AND expires_at > ? LIMIT 1"
} as const

/** Statements that must look at every row, by their purpose. */
const listingStatements = {
  orphanManifests: `SELECT m.id AS id, m.digest AS resource FROM manifest m
    WHERE NOT EXISTS (SELECT 1 FROM image_ref i WHERE i.manifest_id = m.id)
      AND NOT EXISTS (SELECT 1 FROM sandbox_rootfs f WHERE f.manifest_id = m.id) AND ${unleased("m.digest")}`,
  orphanLayers: `SELECT l.id AS id, l.diff_id AS resource FROM layer l
    WHERE NOT EXISTS (SELECT 1 FROM manifest_layer j WHERE j.layer_id = l.id) AND ${unleased("l.diff_id")}`,
  /** References whose image is the root of no sandbox and is being neither fetched nor booted. */
  unusedReferences: `SELECT i.reference FROM image_ref i JOIN manifest m ON m.id = i.manifest_id
    WHERE NOT EXISTS (SELECT 1 FROM sandbox_rootfs f WHERE f.manifest_id = i.manifest_id) AND ${unleased("m.digest")}`
} as const

/** What a collection deleted from the records. */
export interface Collected {
  readonly references: number
  readonly manifests: ReadonlyArray<Digest>
  readonly layers: ReadonlyArray<Digest>
}

/** The given references, then manifests that nothing needs, then layers that no manifest needs. */
const collect = (tx: Transaction, references: ReadonlyArray<string>, nowMs: number): Collected => {
  type Orphan = { readonly id: number; readonly resource: Digest }
  tx.run(statements.dropExpiredLeases, [nowMs])
  let removed = 0
  for (const reference of references) removed += tx.run(statements.dropReference, [reference])
  const manifests = tx.all<Orphan>(listingStatements.orphanManifests, [nowMs])
  for (const manifest of manifests) tx.run(statements.dropManifest, [manifest.id])
  const layers = tx.all<Orphan>(listingStatements.orphanLayers, [nowMs])
  for (const layer of layers) tx.run(statements.dropLayer, [layer.id])
  const digests = (orphans: ReadonlyArray<Orphan>) => orphans.map((orphan) => orphan.resource)
  return { references: removed, manifests: digests(manifests), layers: digests(layers) }
}

/** Deletes what nothing needs, and keeps every reference. */
export const collectOrphans = (db: Database, nowMs: number) =>
  db.transaction((tx) => Result.succeed(collect(tx, [], nowMs)))

/** Sandboxes that are made from an image, by name. */
export class UsedBy {
  readonly _tag = "UsedBy"
  constructor(readonly sandboxes: ReadonlyArray<string>) {}
}

/** Deletes a reference and what only it needed; fails with `UsedBy` when a sandbox is made from it, unless forced. */
export const removeReference = (db: Database, reference: string, force: boolean, nowMs: number) =>
  db.transaction((tx): Result.Result<Collected, UsedBy> => {
    const users = tx.all<{ readonly name: string }>(statements.usersOfReference, [reference])
    if (users.length > 0 && !force) return Result.fail(new UsedBy(users.map((user) => user.name)))
    return Result.succeed(collect(tx, [reference], nowMs))
  })

class Rehearsed {
  readonly _tag = "Rehearsed"
  constructor(readonly collected: Collected) {}
}

/** Deletes every reference that no sandbox and no lease uses, and what only they needed. A dry run rolls back. */
export const pruneReferences = (db: Database, dryRun: boolean, nowMs: number) =>
  db
    .transaction((tx): Result.Result<Collected, Rehearsed> => {
      const unused = tx.all<{ readonly reference: string }>(listingStatements.unusedReferences, [nowMs])
      const references = unused.map((row) => row.reference)
      const collected = collect(tx, references, nowMs)
      return dryRun ? Result.fail(new Rehearsed(collected)) : Result.succeed(collected)
    })
    .pipe(Effect.catchTag("Rehearsed", ({ collected }) => Effect.succeed(collected)))

/** True while a record or a live lease may still want the files of a manifest. */
export const wantsManifest = (db: Database, manifest: Digest, nowMs: number) =>
  Effect.map(db.get(statements.wantsManifest, [manifest, manifest, nowMs]), (row) => row !== undefined)
