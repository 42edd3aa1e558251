/** Opens saved databases of older schemas with this build, and takes schemas back. */
import { Database as Sqlite } from "bun:sqlite"
import { describe, expect } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import { Database } from "../../../src/store/database/Database.ts"
import { findImage, imageConfig, imageLayers, listImages } from "../../../src/store/database/images.ts"
import { builtIn, checksum, type Migration, parts } from "../../../src/store/database/migrations.ts"
import { listSandboxes } from "../../../src/store/database/sandboxes.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const fixtures = path.join(import.meta.dir, "../../fixtures")

/** A database as the build that knew migrations up to `version` left it, with the saved rows in it. */
const savedDatabase = (file: string, version: number): void => {
  const sqlite = new Sqlite(file, { create: true })
  sqlite.run("PRAGMA journal_mode=WAL")
  sqlite.run(
    "CREATE TABLE schema_migration (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
  )
  for (const migration of builtIn.slice(0, version)) {
    sqlite.run(parts(migration.text).up)
    sqlite.run("INSERT INTO schema_migration VALUES (?, ?, ?, 0)", [
      migration.version,
      migration.name,
      checksum(migration.text)
    ])
  }
  sqlite.run(readFileSync(path.join(fixtures, `schema-${String(version).padStart(4, "0")}.sql`), "utf8"))
  sqlite.close()
}

const schemaOf = (file: string): unknown => {
  const sqlite = new Sqlite(file)
  const schema = sqlite.query("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").all()
  sqlite.close()
  return schema
}

const open = (file: string, migrations: ReadonlyArray<Migration> = builtIn) => Database.layerFile(file, migrations)
const more: Migration = {
  version: builtIn.length + 1,
  name: "more",
  text: "-- up\nCREATE TABLE more (x INTEGER) STRICT;\nALTER TABLE layer ADD COLUMN extra TEXT;\n-- down\nALTER TABLE layer DROP COLUMN extra;\nDROP TABLE more;\n"
}

describe("an older database", () => {
  it.live("has saved data for every schema", () =>
    Effect.sync(() => {
      expect(readdirSync(fixtures).filter((name) => name.startsWith("schema-"))).toHaveLength(builtIn.length)
    })
  )

  for (const { version } of builtIn) {
    it.live(`of schema ${version} opens with all that was in it, and equals a fresh one`, () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const [old, fresh] = [path.join(directory, "old.db"), path.join(directory, "fresh.db")]
        savedDatabase(old, version)
        yield* Effect.gen(function* () {
          const db = yield* Database
          const [sandbox] = yield* listSandboxes(db)
          expect(sandbox?.info).toMatchObject({
            id: 7,
            name: "machine",
            status: "stopped",
            exitCode: 7,
            terminationReason: "failed"
          })
          expect(sandbox?.info.config).toMatchObject({ cpus: 2, env: ["A=1"], labels: { k: "v" } })
          expect(yield* listImages(db)).toHaveLength(1)
          const image = (yield* findImage(db, "docker.io/library/old:1"))!
          expect(yield* imageConfig(db, image.manifestId)).toMatchObject({
            cmd: ["sh"],
            user: "user",
            stopSignal: "SIGINT"
          })
          expect((yield* imageLayers(db, image.manifestId)).map((layer) => layer.position)).toEqual([0, 1])
        }).pipe(Effect.provide(open(old)))
        yield* Effect.scoped(Layer.build(open(fresh)))
        expect(schemaOf(old)).toEqual(schemaOf(fresh) as object)
      })
    )
  }
})

describe("taking a schema back", () => {
  it.live("undoes the newest migrations and leaves what older ones made", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const [file, before] = [path.join(directory, "a.db"), path.join(directory, "b.db")]
      savedDatabase(file, builtIn.length)
      savedDatabase(before, builtIn.length)
      yield* Effect.gen(function* () {
        const db = yield* Database
        expect(db.schemaVersion).toBe(builtIn.length + 1)
        expect(yield* db.migrateDown(builtIn.length, false)).toBe(builtIn.length)
      }).pipe(Effect.provide(open(file, [...builtIn, more])))
      expect(schemaOf(file)).toEqual(schemaOf(before) as object)
      const sandboxes = yield* Effect.flatMap(Database, listSandboxes).pipe(Effect.provide(open(file)))
      expect(sandboxes).toHaveLength(1)
    })
  )

  it.live("is refused while a sandbox is active, unless forced", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "a.db")
      savedDatabase(file, builtIn.length)
      yield* Effect.gen(function* () {
        const db = yield* Database
        yield* db.run("UPDATE sandbox SET status = 'running'")
        const refused = yield* Effect.flip(db.migrateDown(0, false))
        expect(refused).toMatchObject({ _tag: "SandboxesActive", names: ["machine"] })
        expect(yield* db.all("SELECT version FROM schema_migration")).toHaveLength(builtIn.length + 1)
        expect(yield* db.migrateDown(0, true)).toBe(0)
      }).pipe(Effect.provide(open(file, [...builtIn, more])))
      const sqlite = new Sqlite(file)
      const left = sqlite
        .query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        .all()
      sqlite.close()
      expect(left).toEqual([{ name: "schema_migration" }])
    })
  )
})
