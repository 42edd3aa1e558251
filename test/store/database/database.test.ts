import { Database as Sqlite } from "bun:sqlite"
import { describe, expect } from "bun:test"
import { chmodSync, readdirSync, statSync } from "node:fs"
import path from "node:path"
import { Effect, Exit, Layer, Result } from "effect"
import { statements as leaseStatements } from "../../../src/actors/leases/LeaseManager.ts"
import { connect, Database, immediate } from "../../../src/store/database/Database.ts"
import { statements as collectionStatements } from "../../../src/store/database/imageCollection.ts"
import { statements as imageStatements } from "../../../src/store/database/images.ts"
import { builtIn, type Migration, parts } from "../../../src/store/database/migrations.ts"
import { statements as modelStatements } from "../../../src/store/database/models.ts"
import { statements as sandboxStatements } from "../../../src/store/database/sandboxes.ts"
import { freshHome, homeAt, temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

describe("Database", () => {
  it.live("rolls back what fails and keeps what succeeds", () =>
    Effect.gen(function* () {
      const db = yield* Database
      yield* db.run("CREATE TABLE t (x INTEGER) STRICT")
      const failed = yield* Effect.flip(
        db.transaction((tx) => {
          tx.run("INSERT INTO t VALUES (1)")
          return Result.fail("no" as const)
        })
      )
      expect(failed).toBe("no")
      const thrown = yield* Effect.flip(
        db.transaction((tx) => {
          tx.run("INSERT INTO t VALUES (2)")
          tx.run("INSERT INTO t VALUES ('text in a strict table')")
          return Result.void
        })
      )
      expect(thrown).toMatchObject({ _tag: "DatabaseFailed" })
      yield* db.transaction((tx) => {
        tx.run("INSERT INTO t VALUES (3)")
        return Result.void
      })
      expect(yield* db.all<{ readonly x: number }>("SELECT x FROM t")).toEqual([{ x: 3 }])
    }).pipe(Effect.provide(freshHome))
  )

  it.live("a log that grew is emptied when nobody uses it, and begun anew within a MiB", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "log.db")
      const connection = connect(file, { create: true, synchronous: "NORMAL" })
      const logBytes = () => statSync(`${file}-wal`).size
      connection.run("CREATE TABLE t (x BLOB) STRICT")
      const grow = () =>
        immediate(connection, () => {
          for (let i = 0; i < 80; i += 1) connection.run("INSERT INTO t VALUES (?)", [new Uint8Array(100_000)])
          return Result.void
        })
      grow()
      expect(logBytes()).toBeGreaterThan(4e6)
      // A reader of an old state keeps what it needs, and nobody waits for it.
      const reader = new Sqlite(file, { readonly: true })
      reader.run("BEGIN")
      reader.query("SELECT count(*) FROM t").get()
      connection.run("INSERT INTO t VALUES (x'00')")
      const before = performance.now()
      connection.emptyLog()
      expect(performance.now() - before).toBeLessThan(2000)
      expect(logBytes()).toBeGreaterThan(0)
      reader.close()
      connection.emptyLog()
      expect(logBytes()).toBe(0)
      // Without an idle moment: what is written after a checkpoint cuts it.
      grow()
      connection.run("INSERT INTO t VALUES (x'00')")
      connection.run("INSERT INTO t VALUES (x'00')")
      expect(logBytes()).toBeLessThanOrEqual(1024 * 1024)
      connection.close()
    })
  )

  it.live("no lookup scans a table, bar those that list everything", () =>
    Effect.gen(function* () {
      const db = yield* Database
      const listing = new Set<string>([
        sandboxStatements.all,
        imageStatements.list,
        modelStatements.all,
        modelStatements.cacheDirs,
        leaseStatements.heldTasks,
        leaseStatements.heldContent
      ])
      const modules = [modelStatements, sandboxStatements, imageStatements, collectionStatements, leaseStatements]
      for (const sql of modules.flatMap((statements): ReadonlyArray<string> => Object.values(statements))) {
        if (listing.has(sql)) continue
        const count = (sql.match(/\?/g) ?? []).length
        const plan = yield* db.all<{ readonly detail: string }>(
          `EXPLAIN QUERY PLAN ${sql}`,
          Array<null>(count).fill(null)
        )
        const scans = plan.map((row) => row.detail).filter((detail) => /^SCAN (?!CONSTANT)/.test(detail))
        expect({ sql, scans }).toEqual({ sql, scans: [] })
      }
    }).pipe(Effect.provide(freshHome))
  )

  it.live("keeps the home and the database to their owner", () =>
    Effect.gen(function* () {
      const home = path.join(yield* temporaryDirectory, "home")
      yield* Effect.scoped(Layer.build(homeAt(home)))
      expect(statSync(home).mode & 0o777).toBe(0o700)
      expect(statSync(path.join(home, "bunker.db")).mode & 0o777).toBe(0o600)
    })
  )

  it.live("says that a home can not be used", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "file")
      yield* Effect.promise(() => Bun.write(file, "not a directory"))
      const error = yield* Effect.flip(Effect.scoped(Layer.build(homeAt(path.join(file, "home")))))
      expect(error).toMatchObject({ _tag: "HomeUnusable", reason: expect.stringContaining("directory") })
      const long = yield* Effect.flip(Effect.scoped(Layer.build(homeAt(`/tmp/${"x".repeat(120)}`))))
      expect(long.message).toContain("too long for sockets")
      chmodSync(file, 0o600)
    })
  )
})

describe("migrations", () => {
  const newest = builtIn.length
  const next: Migration = {
    version: newest + 1,
    name: "more",
    text: "-- up\nCREATE TABLE more (x INTEGER) STRICT;\n-- down\nDROP TABLE more;\n"
  }

  it.live("two processes opening a fresh database at once end with one schema", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      const script = `
        import { Effect, Layer } from "effect"
        import { homeAt } from ${JSON.stringify(path.join(import.meta.dir, "../../support/home.ts"))}
        await Effect.runPromise(Effect.scoped(Layer.build(homeAt(${JSON.stringify(home)}))))`
      const children = Array.from({ length: 4 }, () =>
        Bun.spawn([process.execPath, "-e", script], { cwd: import.meta.dir, stderr: "inherit" })
      )
      const codes = yield* Effect.promise(() => Promise.all(children.map((child) => child.exited)))
      expect(codes).toEqual([0, 0, 0, 0])
      const sqlite = new Sqlite(path.join(home, "bunker.db"))
      expect(sqlite.query("SELECT version FROM schema_migration").all()).toEqual(
        builtIn.map(({ version }) => ({ version }))
      )
      sqlite.close()
    })
  )

  it.live("refuses a newer database and a changed migration, naming both versions", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "t.db")
      const open = (migrations: ReadonlyArray<Migration>) =>
        Effect.scoped(Layer.build(Database.layerFile(file, migrations)))
      yield* open([...builtIn, next])
      expect(yield* Effect.flip(open(builtIn))).toMatchObject({
        _tag: "SchemaMismatch",
        found: newest + 1,
        known: newest
      })
      const changed = [...builtIn, { ...next, text: next.text.replace("INTEGER", "TEXT") }]
      expect(yield* Effect.flip(open(changed))).toMatchObject({
        _tag: "SchemaMismatch",
        found: newest + 1,
        known: newest + 1
      })
      expect(Exit.isSuccess(yield* Effect.exit(open([...builtIn, next])))).toBe(true)
    })
  )

  it.live("a migration that fails leaves nothing of itself", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "t.db")
      const bad: Migration = {
        version: newest + 1,
        name: "bad",
        text: "-- up\nCREATE TABLE half (x INTEGER) STRICT;\nSELECT nonsense;\n-- down\n"
      }
      const error = yield* Effect.flip(Effect.scoped(Layer.build(Database.layerFile(file, [...builtIn, bad]))))
      expect(error).toMatchObject({ _tag: "DatabaseFailed", operation: "migrate" })
      const sqlite = new Sqlite(file)
      expect(sqlite.query("SELECT name FROM sqlite_schema WHERE name = 'half'").all()).toEqual([])
      sqlite.close()
    })
  )

  it.live("down undoes up exactly", () =>
    Effect.gen(function* () {
      const sqlite = new Sqlite(":memory:")
      const schema = () => sqlite.query("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'").all()
      const before: Array<unknown> = []
      for (const migration of builtIn) {
        before.push(schema())
        sqlite.run(parts(migration.text).up)
      }
      for (const migration of builtIn.toReversed()) {
        sqlite.run(parts(migration.text).down)
        expect(schema()).toEqual(before.pop() as Array<unknown>)
      }
      sqlite.close()
      const files = readdirSync(path.join(import.meta.dir, "../../../migrations")).filter((name) =>
        name.endsWith(".sql")
      )
      expect(files.toSorted()).toEqual(
        builtIn.map((each) => `${String(each.version).padStart(4, "0")}_${each.name}.sql`)
      )
      return yield* Effect.void
    })
  )
})
