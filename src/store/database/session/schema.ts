/**
 * Brings a session file's schema up to date by its `user_version`, and refuses one that is newer. Knows nothing of other databases
 * (see ../migrations.ts).
 */
import { Result } from "effect"
import init from "../../../../migrations/session/0001_init.sql" with { type: "text" }
import { SchemaMismatch } from "../../../domain/errors/store.ts"
import { type Connection, immediate } from "../Database.ts"
import { type Migration, parts } from "../migrations.ts"

/** The migrations of this build, oldest first. */
export const sessionMigrations: ReadonlyArray<Migration> = [{ version: 1, name: "init", text: init }]

const versionOf = (connection: Connection): number =>
  connection.get<{ readonly user_version: number }>("PRAGMA user_version")?.user_version ?? 0

/** Applies what is missing, a transaction each; the common case is one read and no write. */
export const migrateSession = (
  connection: Connection,
  migrations: ReadonlyArray<Migration> = sessionMigrations
): Result.Result<void, SchemaMismatch> => {
  const known = migrations.at(-1)?.version ?? 0
  for (;;) {
    const found = versionOf(connection)
    if (found > known) {
      return Result.fail(new SchemaMismatch({ found, known, reason: "a newer build wrote this session" }))
    }
    if (found === known) return Result.void
    const next = migrations[found]!
    immediate(connection, () => {
      // Another process may have applied it while this one waited for the lock.
      if (versionOf(connection) === found) {
        connection.script(parts(next.text).up)
        connection.script(`PRAGMA user_version = ${next.version}`)
      }
      return Result.void
    })
  }
}

/** Fails unless a file has the newest schema of this build; changes nothing. */
export const checkSession = (connection: Connection): Result.Result<void, SchemaMismatch> => {
  const [found, known] = [versionOf(connection), sessionMigrations.length]
  if (found === known) return Result.void
  return Result.fail(new SchemaMismatch({ found, known, reason: "another build wrote this session" }))
}
