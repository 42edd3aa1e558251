/**
 * Grants leases by rows that several processes share: maintenance leases (who sweeps) and content leases (what a pull or a boot
 * is using). Never blocks and never waits for a holder; does no maintenance itself.
 *
 * Invariants: a refused attempt is one indexed read and no write; the conditional UPDATE decides who wins, not the read;
 * a lease that nobody renews ends by itself.
 */
import { Clock, Context, Effect, Option, Result, Schedule, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { isAhead } from "../../domain/elapsed.ts"
import { DatabaseErrors } from "../../domain/errors/groups.ts"
import { InstallInProgress, LeaseLost } from "../../domain/errors/store.ts"
import { Database, type DatabaseError } from "../../store/database/Database.ts"
import { isAbandoned, leaseMsMax, leaseToken } from "../../store/processes/processToken.ts"
import { type Address, layerLocal } from "../kit/Actor.ts"

/** Name of the lease that keeps everybody else out while a home directory is upgraded. */
export const installExclusive = "install_exclusive"
/** How long it lasts unless told otherwise, in milliseconds. */
export const installLeaseMs = 30 * 60_000

/** Proof of holding a maintenance lease. */
export class Lease extends Schema.Class<Lease>("Lease")({
  name: Schema.String,
  /** Secret of this holder: only it can renew or complete. */
  token: Schema.String,
  /** Unix milliseconds. */
  expiresAt: Schema.Int
}) {}

/** A lease that is held, for whoever looks; its token is its holder's alone. */
export class HeldLease extends Schema.Class<HeldLease>("HeldLease")({
  /** `maintenance`: a task that one process at a time may do. `content`: content that is in use and is not collected. */
  kind: Schema.Literals(["maintenance", "content"]),
  /** Name of the task; digest of the content. */
  name: Schema.String,
  /** When it ends unless it is renewed, unix milliseconds. */
  expiresAt: Schema.Int
}) {}

/** No lease of upkeep is longer, in milliseconds. */
export const sweepLeaseMsMax = 10 * 60_000
const milliseconds = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: leaseMsMax }))
const WithLeaseLost = Schema.Union([LeaseLost, ...DatabaseErrors.members])

export class LeaseProtocol extends RpcGroup.make(
  /** Answers the lease, or null when it is held or was completed less than `minIntervalMs` ago. */
  Rpc.make("TryAcquire", {
    payload: { name: Schema.NonEmptyString, durationMs: milliseconds, minIntervalMs: Schema.Int },
    success: Schema.NullOr(Lease),
    error: DatabaseErrors
  }),
  Rpc.make("Renew", { payload: { lease: Lease, durationMs: milliseconds }, success: Lease, error: WithLeaseLost }),
  /** Frees the lease without a completion, so that the next attempt need not wait; nothing when it is no longer held. */
  Rpc.make("Release", { payload: { lease: Lease }, error: DatabaseErrors }),
  /** Keeps every other start and migration out. Unlike other leases it answers why not. */
  Rpc.make("InstallAcquire", {
    payload: { durationMs: milliseconds },
    success: Lease,
    error: Schema.Union([InstallInProgress, ...DatabaseErrors.members])
  }),
  /** Moves the deadline; demands the exact row, token and deadline. */
  Rpc.make("InstallRenew", {
    payload: { lease: Lease, durationMs: milliseconds },
    success: Lease,
    error: WithLeaseLost
  }),
  /** Ends it; demands the exact row, token and deadline. */
  Rpc.make("InstallClear", { payload: { lease: Lease }, error: WithLeaseLost }),
  /** Stamps the completion and frees the lease, only while `lease` still holds it. */
  Rpc.make("Complete", { payload: { lease: Lease }, error: WithLeaseLost }),
  /** Holds resources (manifest digests, diff ids) against collection; the same token may hold more later. */
  Rpc.make("HoldContent", {
    payload: { token: Schema.NonEmptyString, resources: Schema.Array(Schema.NonEmptyString), durationMs: milliseconds },
    error: DatabaseErrors
  }),
  /** Answers how many resources the token still held: fewer than were taken when a lease ran out and was collected. */
  Rpc.make("RenewContent", {
    payload: { token: Schema.NonEmptyString, durationMs: milliseconds },
    success: Schema.Int,
    error: DatabaseErrors
  }),
  Rpc.make("DropContent", { payload: { token: Schema.NonEmptyString }, error: DatabaseErrors }),
  /** What is held now: maintenance first, the first thousand content leases by name. */
  Rpc.make("List", { success: Schema.Array(HeldLease), error: DatabaseErrors })
) {}

/** Every statement that this actor runs; a test asks EXPLAIN QUERY PLAN about each. */
export const statements = {
  read: "SELECT lease_expires_at, last_completed_at, holder_token FROM maintenance_lease WHERE name = ?",
  seed: "INSERT OR IGNORE INTO maintenance_lease (name, lease_expires_at) VALUES (?, 0)",
  claim:
    "UPDATE maintenance_lease SET holder_pid = ?, holder_token = ?, lease_expires_at = ? WHERE name = ? AND (lease_expires_at <= ? OR lease_expires_at > ? OR holder_token = ?) AND (last_completed_at IS NULL OR last_completed_at <= ? OR last_completed_at > ?)",
  renew:
    "UPDATE maintenance_lease SET lease_expires_at = ? WHERE name = ? AND holder_token = ? AND lease_expires_at > ?",
  complete:
    "UPDATE maintenance_lease SET last_completed_at = ?, lease_expires_at = 0, holder_pid = NULL, holder_token = NULL WHERE name = ? AND holder_token = ? AND lease_expires_at > ?",
  release:
    "UPDATE maintenance_lease SET lease_expires_at = 0, holder_pid = NULL, holder_token = NULL WHERE name = ? AND holder_token = ?",
  installRenew:
    "UPDATE maintenance_lease SET lease_expires_at = ? WHERE name = ? AND holder_token = ? AND lease_expires_at = ? AND lease_expires_at > ?",
  installClear:
    "UPDATE maintenance_lease SET lease_expires_at = 0, holder_pid = NULL, holder_token = NULL, last_completed_at = NULL WHERE name = ? AND holder_token = ? AND lease_expires_at = ? AND lease_expires_at > ?",
  hold: "INSERT INTO content_lease (token, resource, expires_at) VALUES (?, ?, ?) ON CONFLICT (token, resource) DO UPDATE SET expires_at = excluded.expires_at",
  renewContent: "UPDATE content_lease SET expires_at = ? WHERE token = ?",
  dropContent: "DELETE FROM content_lease WHERE token = ?",
  heldTasks:
    "SELECT name, lease_expires_at AS expires_at FROM maintenance_lease WHERE lease_expires_at > ? ORDER BY name",
  heldContent:
    "SELECT resource AS name, max(expires_at) AS expires_at FROM content_lease WHERE expires_at > ? GROUP BY resource ORDER BY resource LIMIT 1000",
  held: "SELECT 1 AS held FROM content_lease WHERE resource = ? AND expires_at > ? LIMIT 1"
} as const

/** What a row says of a maintenance lease. */
export interface MaintenanceRow {
  readonly lease_expires_at: number
  readonly last_completed_at: number | null
  readonly holder_token: string | null
}

/** Leases of one name have one duration, but for the install lease; what ends later than any was written by a wrong clock. */
const longestLeaseMs = (claim: Claim): number =>
  claim.name === installExclusive ? leaseMsMax : Math.max(claim.durationMs, sweepLeaseMsMax)

/** True while a lease is somebody's: its holder is not known to be dead, and its end is to come and no further off than it can be. */
export const isHeld = (row: MaintenanceRow, longestMs: number, nowMs: number): boolean =>
  isAhead(row.lease_expires_at, longestMs, nowMs) && !(row.holder_token !== null && isAbandoned(row.holder_token))

const behaviour = Effect.gen(function* () {
  const db = yield* Database

  const tryAcquire = Effect.fn("LeaseManager.tryAcquire")(function* (claim: Claim) {
    const now = yield* Clock.currentTimeMillis
    const cutoff = now - claim.minIntervalMs
    const longest = longestLeaseMs(claim)
    const row = yield* db.get<MaintenanceRow>(statements.read, [claim.name])
    if (row !== undefined) {
      if (isHeld(row, longest, now)) return null
      if (row.last_completed_at !== null && row.last_completed_at > cutoff && row.last_completed_at <= now) return null
    } else yield* db.run(statements.seed, [claim.name])
    const lease = new Lease({ name: claim.name, token: leaseToken(), expiresAt: now + claim.durationMs })
    // Of a dead holder's row only; nobody has the empty token.
    const dead = row?.holder_token != null && isAbandoned(row.holder_token) ? row.holder_token : ""
    const changes = [process.pid, lease.token, lease.expiresAt] as const
    const won = yield* db.run(statements.claim, [...changes, claim.name, now, now + longest, dead, cutoff, now])
    return won === 1 ? lease : null
  })

  const renew = Effect.fn("LeaseManager.renew")(function* (lease: Lease, durationMs: number) {
    const now = yield* Clock.currentTimeMillis
    const expiresAt = now + durationMs
    if ((yield* db.run(statements.renew, [expiresAt, lease.name, lease.token, now])) !== 1) {
      return yield* new LeaseLost({ lease: lease.name })
    }
    return new Lease({ ...lease, expiresAt })
  })

  const complete = Effect.fn("LeaseManager.complete")(function* (lease: Lease) {
    const now = yield* Clock.currentTimeMillis
    if ((yield* db.run(statements.complete, [now, lease.name, lease.token, now])) !== 1) {
      return yield* new LeaseLost({ lease: lease.name })
    }
  })

  const installAcquire = Effect.fn("LeaseManager.installAcquire")(function* (durationMs: number) {
    const lease = yield* tryAcquire({ name: installExclusive, durationMs, minIntervalMs: 0 })
    if (lease !== null) return lease
    const row = yield* db.get<{ readonly lease_expires_at: number }>(statements.read, [installExclusive])
    return yield* new InstallInProgress({ deadline: row?.lease_expires_at ?? 0 })
  })

  /** The install lease's conditional updates: a row that is not exactly the caller's is a lost lease. */
  const exactly = Effect.fnUntraced(function* (lease: Lease, sql: string, before: ReadonlyArray<number>) {
    const now = yield* Clock.currentTimeMillis
    const changed = yield* db.run(sql, [...before, installExclusive, lease.token, lease.expiresAt, now])
    if (changed !== 1) return yield* new LeaseLost({ lease: installExclusive })
  })

  const installRenew = Effect.fn("LeaseManager.installRenew")(function* (lease: Lease, durationMs: number) {
    const expiresAt = (yield* Clock.currentTimeMillis) + durationMs
    yield* exactly(lease, statements.installRenew, [expiresAt])
    return new Lease({ ...lease, expiresAt })
  })

  const hold = Effect.fn("LeaseManager.holdContent")(function* (
    token: string,
    resources: ReadonlyArray<string>,
    durationMs: number
  ) {
    const expiresAt = (yield* Clock.currentTimeMillis) + durationMs
    yield* db.transaction((tx) => {
      for (const resource of resources) tx.run(statements.hold, [token, resource, expiresAt])
      return Result.void
    })
  })

  const list = Effect.gen(function* () {
    const now = yield* Clock.currentTimeMillis
    const read = Effect.fnUntraced(function* (kind: HeldLease["kind"], sql: string) {
      const rows = yield* db.all<{ readonly name: string; readonly expires_at: number }>(sql, [now])
      return rows.map((row) => new HeldLease({ kind, name: row.name, expiresAt: row.expires_at }))
    })
    return [...(yield* read("maintenance", statements.heldTasks)), ...(yield* read("content", statements.heldContent))]
  }).pipe(Effect.withSpan("LeaseManager.list"))

  return LeaseProtocol.of({
    List: () => list,
    TryAcquire: tryAcquire,
    Renew: ({ lease, durationMs }) => renew(lease, durationMs),
    Complete: ({ lease }) => complete(lease),
    Release: ({ lease }) => Effect.asVoid(db.run(statements.release, [lease.name, lease.token])),
    InstallAcquire: ({ durationMs }) => installAcquire(durationMs),
    InstallRenew: ({ lease, durationMs }) => installRenew(lease, durationMs),
    InstallClear: ({ lease }) => exactly(lease, statements.installClear, []),
    HoldContent: ({ token, resources, durationMs }) => hold(token, resources, durationMs),
    RenewContent: ({ token, durationMs }) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => db.run(statements.renewContent, [now + durationMs, token])),
    DropContent: ({ token }) => Effect.asVoid(db.run(statements.dropContent, [token]))
  })
})

export class LeaseManager extends Context.Service<LeaseManager, Address<RpcGroup.Rpcs<typeof LeaseProtocol>>>()(
  "bunker/LeaseManager"
) {
  static readonly layer = layerLocal(LeaseManager, LeaseProtocol, behaviour)
}

/** What a lease is asked for with. */
export interface Claim {
  readonly name: string
  /** Milliseconds until it ends by itself. */
  readonly durationMs: number
  /** Milliseconds since the last completion that must have passed. */
  readonly minIntervalMs: number
}

/**
 * Runs an effect while holding a maintenance lease: renewed at a third of its duration, completed when the effect succeeds,
 * released when it fails or is interrupted. `None` when the lease is not to be had. Fails with `LeaseLost`, having interrupted the
 * effect, when somebody else took it (this process slept past the deadline).
 */
export const withLease = <A, E, R>(leases: LeaseManager["Service"], claim: Claim, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const lease = yield* leases.TryAcquire(claim)
    if (lease === null) return Option.none<A>()
    const keep = leases
      .Renew({ lease, durationMs: claim.durationMs })
      .pipe(
        Effect.delay(Math.floor(claim.durationMs / 3)),
        Effect.repeat(Schedule.forever),
        Effect.andThen(Effect.never)
      )
    const done = yield* Effect.raceFirst(effect, keep).pipe(
      Effect.onExit((exit) => (exit._tag === "Success" ? Effect.void : Effect.ignore(leases.Release({ lease }))))
    )
    yield* leases.Complete({ lease })
    return Option.some(done)
  })

/** How long a content lease lives without renewal: the crash backstop. */
export const contentLeaseMs = 60_000

/**
 * Renews a token's leases until the scope ends. What it holds no more (this process slept past the deadline, and a collector
 * came by) is taken again: it keeps what is there from now on, and tells nobody that something has gone.
 */
export const renewContent = (leases: LeaseManager["Service"], token: string, held: () => ReadonlyArray<string>) =>
  leases.RenewContent({ token, durationMs: contentLeaseMs }).pipe(
    Effect.flatMap((renewed) => {
      const resources = held()
      return renewed >= resources.length
        ? Effect.void
        : leases.HoldContent({ token, resources, durationMs: contentLeaseMs })
    }),
    Effect.ignore,
    Effect.schedule(Schedule.spaced(contentLeaseMs / 3)),
    Effect.forkScoped
  )

/** Resources held for the current scope: renewed at a third of the duration, dropped when the scope closes however it ends. */
export interface ContentHold {
  readonly add: (resources: ReadonlyArray<string>) => Effect.Effect<void, DatabaseError>
}

/** Opens a content lease in the current scope. */
export const holdContent = Effect.fn("LeaseManager.hold")(function* (leases: LeaseManager["Service"]) {
  const token = leaseToken()
  const held = new Set<string>()
  yield* Effect.addFinalizer(() => Effect.ignore(leases.DropContent({ token })))
  yield* renewContent(leases, token, () => [...held])
  return {
    add: (resources) =>
      leases.HoldContent({ token, resources, durationMs: contentLeaseMs }).pipe(
        Effect.catchTag("RpcClientError", Effect.die),
        Effect.tap(() => Effect.sync(() => resources.forEach((resource) => void held.add(resource))))
      )
  } satisfies ContentHold as ContentHold
})
