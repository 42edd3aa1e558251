/** How SQLite runs what the image store asks: by index, whatever statement is added. */
import { describe, expect, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import path from "node:path"
import { Effect, Layer, Stream } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { Database, type Service } from "../../../src/store/database/Database.ts"
import { statements as collection, listingStatements } from "../../../src/store/database/imageCollection.ts"
import { statements as images } from "../../../src/store/database/images.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { layoutFiles, writeFiles } from "../../support/image.ts"
import { first, imageStoreOver, layoutOf, loadAll, repeating } from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"

const lookups: ReadonlyArray<string> = [...Object.values(images), ...Object.values(collection)].filter(
  (sql) => sql !== images.list
)
const listings: ReadonlyArray<string> = [images.list, ...Object.values(listingStatements)]
/** Bookkeeping of transactions is no statement of the store. */
const own = (sql: string) => /\b(image_ref|manifest|manifest_layer|layer|config|sandbox_rootfs)\b/.test(sql)

const planOf = Effect.fnUntraced(function* (db: Service, sql: string) {
  const parameters = Array<null>((sql.match(/\?/g) ?? []).length).fill(null)
  const rows = yield* db.all<{ readonly detail: string }>(`EXPLAIN QUERY PLAN ${sql}`, parameters)
  return rows.map((row) => row.detail)
})
const scansOf = (plan: ReadonlyArray<string>) => plan.filter((detail) => /^SCAN (?!CONSTANT)/.test(detail))

const home = Effect.map(temporaryDirectory, (directory) => homeAt(directory))

describe("statements of the image store", () => {
  it.live("scan no table, bar those that list everything", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        const db = yield* Database
        for (const sql of lookups) expect({ sql, scans: scansOf(yield* planOf(db, sql)) }).toEqual({ sql, scans: [] })
      }).pipe(Effect.provide(yield* home))
    })
  )

  it.live("that list everything scan what they list, once, and look the rest up", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        const db = yield* Database
        for (const sql of listings) {
          const branches = sql.split("UNION ALL").length
          const scans = scansOf(yield* planOf(db, sql))
          expect({ sql, scans: scans.length }).toEqual({ sql, scans: branches })
        }
      }).pipe(Effect.provide(yield* home))
    })
  )

  it.live("follow every foreign key backwards by an index", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        const db = yield* Database
        const keys = yield* db.all<{ readonly child: string; readonly column: string }>(
          `SELECT m.name AS child, f."from" AS "column" FROM sqlite_schema m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table'`
        )
        expect(keys.length).toBeGreaterThan(5)
        for (const { child, column } of keys) {
          const plan = yield* planOf(db, `SELECT 1 FROM ${child} WHERE ${column} = ?`)
          expect({ child, column, scans: scansOf(plan) }).toEqual({ child, column, scans: [] })
        }
      }).pipe(Effect.provide(yield* home))
    })
  )

  it.live("are all among those that were looked at: a run through every message asks nothing else", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const asked = new Set<string>()
      const note =
        <A extends ReadonlyArray<unknown>, B>(run: (sql: string, ...rest: A) => B) =>
        (sql: string, ...rest: A): B => {
          asked.add(sql)
          return run(sql, ...rest)
        }
      const spied = Layer.effect(
        Database,
        Database.use((db) =>
          Effect.succeed({
            ...db,
            all: note(db.all) as Service["all"],
            get: note(db.get) as Service["get"],
            run: note(db.run),
            transaction: (body) =>
              db.transaction((tx) =>
                body({ all: note(tx.all) as typeof tx.all, get: note(tx.get) as typeof tx.get, run: note(tx.run) })
              )
          } satisfies Service as Service)
        )
      ).pipe(Layer.provideMerge(homeAt(path.join(directory, "h"))))
      yield* Effect.gen(function* () {
        const store = yield* ImageStore
        for (const [name, image] of [
          ["a:1", first],
          ["b:1", repeating],
          ["b:1", repeating]
        ] as const) {
          const layout = path.join(directory, "layout")
          yield* Effect.promise(() => writeFiles(layout, layoutFiles([layoutOf(image)])))
          yield* loadAll({ path: layout, tag: name })
        }
        yield* Stream.runDrain(store.Pull({ reference: "a:1", policy: "if-missing" }))
        yield* Stream.runDrain(store.Save({ references: ["a:1"] }))
        yield* Stream.runDrain(store.Import({ path: path.join(directory, "layout"), reference: "c:1" }))
        yield* store.Lease({ reference: "a:1", sandboxId: 7, token: "t", durationMs: 1 })
        yield* store.Get({ reference: "a:1" })
        yield* store.Inspect({ reference: "a:1" })
        yield* store.List()
        yield* store.Usage()
        yield* Effect.flip(store.Get({ reference: "none" }))
        yield* store.Remove({ reference: "c:1", force: false })
        yield* store.Prune({ dryRun: true })
        yield* store.Prune({})
      }).pipe(Effect.provide(imageStoreOver(spied)))
      const known = new Set([...lookups, ...listings])
      const strangers = [...asked].filter((sql) => own(sql) && !known.has(sql))
      expect(strangers).toEqual([])
      const used = [...known].filter((sql) => asked.has(sql))
      expect(used.length).toBeGreaterThan(known.size * 0.7)
    })
  )

  test("stand in the two lists: no image module runs a text of its own", () => {
    const source = path.join(import.meta.dir, "../../../src")
    const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((file) =>
      /(image[^/]*|images\/[^/]*)\.ts$/i.test(file)
    )
    expect(files.length).toBeGreaterThan(8)
    const wrong = files.flatMap((file) => {
      const text = readFileSync(path.join(source, file), "utf8")
      const calls = [...text.matchAll(/\b(?:db|tx)\s*\.(?:all|get|run)(?:<[^(]*?>)?\(\s*([^,)\s]+)/g)]
      return calls
        .map((call) => call[1]!)
        .filter((argument) => !/^(statements|listingStatements)\.\w+$/.test(argument))
        .map((argument) => `${file}: ${argument}`)
    })
    expect(wrong).toEqual([])
  })
})
