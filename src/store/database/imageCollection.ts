/**
 * Decides by the records what of the image tables is garbage, and deletes those rows. Touches no files: they are the caller's
 * to remove, afterwards and under their locks.
 *
 * Invariant: marks and deletes in one transaction; what a reference, a sandbox's root file system or a live content lease
 * needs is never deleted.
 */
import { Effect, Result } from "effect"
import { Failpoint, type Watcher } from "../../domain/failpoint.ts"
import type { Digest } from "../../domain/image/digest.ts"
import { isAbandoned, leaseMsMax } from "../processes/processToken.ts"
import type { Service as Database, Transaction } from "./Database.ts"

const unleased = (resource: string) =>
  `NOT EXISTS (SELECT 1 FROM content_lease c WHERE c.resource = ${resource} AND c.expires_at > ?)`

/** Every statement that this module runs; a test asks EXPLAIN QUERY PLAN about each. */
export const statements = {
  dropReference: "DELETE FROM image_ref WHERE reference = ?",
  usersOfReference:
    "SELECT s.name FROM image_ref i JOIN sandbox_rootfs f ON f.manifest_id = i.manifest_id JOIN sandbox s ON s.id = f.sandbox_id WHERE i.reference = ? ORDER BY s.name",
  /** A lease whose end lies further ahead than any is long was written by a wrong clock. */
  dropExpiredLeases: "DELETE FROM content_lease WHERE expires_at <= ? OR expires_at > ?",
  dropLease: "DELETE FROM content_lease WHERE token = ?",
  forgottenRoot:
    "SELECT f.manifest_id FROM sandbox_rootfs f WHERE f.sandbox_id = ? AND NOT EXISTS (SELECT 1 FROM image_ref i WHERE i.manifest_id = f.manifest_id)",
  dropManifest: "DELETE FROM manifest WHERE id = ?",
  dropLayer: "DELETE FROM layer WHERE id = ?",
  /** One row while anything may still want the files of a manifest. */
  wantsManifest:
    "SELECT 1 AS wanted FROM manifest WHERE digest = ? UNION ALL SELECT 1 FROM content_lease WHERE resource = ? AND expires_at > ? LIMIT 1"
} as const

/** Statements that must look at every row, by their purpose. */
export const listingStatements = {
  named:
    "SELECT diff_id AS digest FROM layer UNION ALL SELECT digest FROM manifest UNION ALL SELECT resource FROM content_lease",
  leases: "SELECT token, min(expires_at) AS first, max(expires_at) AS last FROM content_lease GROUP BY token",
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

/** Frees what nobody holds any more: leases that ran out, and those of processes that died. */
const dropDeadLeases = (tx: Transaction, nowMs: number): void => {
  tx.run(statements.dropExpiredLeases, [nowMs, nowMs + leaseMsMax])
  for (const { token } of tx.all<{ readonly token: string }>(listingStatements.leases)) {
    if (isAbandoned(token)) tx.run(statements.dropLease, [token])
  }
}

/** Frees the leases that nobody holds any more; writes nothing when there are none. */
export const freeDeadLeases = Effect.fnUntraced(function* (db: Database, nowMs: number) {
  const held = yield* db.all<{ readonly token: string; readonly first: number; readonly last: number }>(
    listingStatements.leases
  )
  if (held.some(({ first, last, token }) => first <= nowMs || last > nowMs + leaseMsMax || isAbandoned(token)))
    yield* db.transaction((tx) => Result.succeed(dropDeadLeases(tx, nowMs)))
})

/** The given references, then manifests that nothing needs, then layers that no manifest needs. */
const collect = (tx: Transaction, references: ReadonlyArray<string>, nowMs: number, watch: Watcher): Collected => {
  type Orphan = { readonly id: number; readonly resource: Digest }
  let removed = 0
  for (const reference of references) removed += tx.run(statements.dropReference, [reference])
  const manifests = tx.all<Orphan>(listingStatements.orphanManifests, [nowMs])
  for (const manifest of manifests) tx.run(statements.dropManifest, [manifest.id])
  watch("collect.half-deleted")
  const layers = tx.all<Orphan>(listingStatements.orphanLayers, [nowMs])
  for (const layer of layers) tx.run(statements.dropLayer, [layer.id])
  const digests = (orphans: ReadonlyArray<Orphan>) => orphans.map((orphan) => orphan.resource)
  return { references: removed, manifests: digests(manifests), layers: digests(layers) }
}

/** Deletes what nothing needs, and keeps every reference. */
export const collectOrphans = (db: Database, nowMs: number) =>
  Effect.flatMap(Failpoint, (watch) =>
    db.transaction((tx) => {
      dropDeadLeases(tx, nowMs)
      return Result.succeed(collect(tx, [], nowMs, watch))
    })
  )

/** Sandboxes that are made from an image, by name. */
export class UsedBy {
  readonly _tag = "UsedBy"
  constructor(readonly sandboxes: ReadonlyArray<string>) {}
}

/** Deletes a reference and what only it needed; fails with `UsedBy` when a sandbox is made from it, unless forced. */
export const removeReference = (db: Database, reference: string, force: boolean, nowMs: number) =>
  Effect.flatMap(Failpoint, (watch) =>
    db.transaction((tx): Result.Result<Collected, UsedBy> => {
      const users = tx.all<{ readonly name: string }>(statements.usersOfReference, [reference])
      if (users.length > 0 && !force) return Result.fail(new UsedBy(users.map((user) => user.name)))
      dropDeadLeases(tx, nowMs)
      return Result.succeed(collect(tx, [reference], nowMs, watch))
    })
  )

class Rehearsed {
  readonly _tag = "Rehearsed"
  constructor(readonly collected: Collected) {}
}

/** Deletes every reference that no sandbox and no lease uses, and what only they needed. A dry run rolls back. */
export const pruneReferences = (db: Database, dryRun: boolean, nowMs: number) =>
  Effect.flatMap(Failpoint, (watch) =>
    db.transaction((tx): Result.Result<Collected, Rehearsed> => {
      dropDeadLeases(tx, nowMs)
      const unused = tx.all<{ readonly reference: string }>(listingStatements.unusedReferences, [nowMs])
      const references = unused.map((row) => row.reference)
      const collected = collect(tx, references, nowMs, watch)
      return dryRun ? Result.fail(new Rehearsed(collected)) : Result.succeed(collected)
    })
  ).pipe(Effect.catchTag("Rehearsed", ({ collected }) => Effect.succeed(collected)))

/** Every layer and manifest that a record or a lease names. */
export const namedResources = (db: Database) =>
  Effect.map(db.all<{ readonly digest: string }>(listingStatements.named), (rows) => rows.map((row) => row.digest))

/** True when the image that a sandbox was made from has no reference left: then it goes with its last sandbox. */
export const hasForgottenRoot = (db: Database, sandboxId: number) =>
  Effect.map(db.get(statements.forgottenRoot, [sandboxId]), (row) => row !== undefined)

/** True while a record or a live lease may still want the files of a manifest. */
export const wantsManifest = (db: Database, manifest: Digest, nowMs: number) =>
  Effect.map(db.get(statements.wantsManifest, [manifest, manifest, nowMs]), (row) => row !== undefined)
