import { describe, expect } from "bun:test"
import { Effect } from "effect"
import type { Digest } from "../../../src/domain/image/digest.ts"
import { RunDefaults } from "../../../src/domain/image/image.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { collectOrphans } from "../../../src/store/database/imageCollection.ts"
import {
  findImage,
  type ImageMetadata,
  imageLayers,
  persistImage,
  recordLayer
} from "../../../src/store/database/images.ts"
import { freshHome } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const digest = (letter: string) => `sha256:${letter.repeat(64)}` as Digest
const config = new RunDefaults({
  env: ["A=b"],
  cmd: [],
  entrypoint: [],
  workingDir: "",
  user: "",
  labels: {},
  stopSignal: null,
  exposedPorts: [],
  volumes: []
})
const meta = (manifest: string, ...layers: ReadonlyArray<string>): ImageMetadata => ({
  manifestDigest: digest(manifest),
  mediaType: "m",
  configDigest: digest("0"),
  architecture: "amd64",
  os: "linux",
  variant: undefined,
  totalSizeBytes: 1,
  builtAt: null,
  config,
  diffIds: layers.map(digest)
})
const layer = (letter: string, nowMs: number, blob = letter) =>
  Effect.flatMap(Database, (db) =>
    recordLayer(
      db,
      {
        diffId: digest(letter),
        blobDigest: digest(blob),
        mediaType: "l",
        compressedSizeBytes: 1,
        erofsSizeBytes: 4096
      },
      nowMs
    )
  )
const rows = Effect.gen(function* () {
  const db = yield* Database
  const tables = ["manifest", "image_ref", "config", "manifest_layer"]
  return yield* Effect.forEach(tables, (table) => db.all(`SELECT * FROM ${table}`))
})

describe("recording images", () => {
  it.live("an image whose layer has no record is not recorded, and one that was there stays as it was", () =>
    Effect.gen(function* () {
      const db = yield* Database
      yield* layer("a", 1)
      const empty = yield* rows
      const gone = yield* Effect.flip(persistImage(db, "x", meta("1", "a", "b"), 5))
      expect(gone).toMatchObject({ _tag: "LayerGone", diffId: digest("b") })
      expect(yield* rows).toEqual(empty)
      yield* persistImage(db, "x", meta("1", "a"), 6)
      const before = yield* rows
      yield* Effect.flip(persistImage(db, "x", meta("2", "b"), 7))
      expect(yield* rows).toEqual(before)
    }).pipe(Effect.provide(freshHome), Effect.scoped)
  )

  it.live("any other failure of the database fails the call and leaves nothing", () =>
    Effect.gen(function* () {
      const db = yield* Database
      yield* layer("a", 1)
      yield* db.run("CREATE TRIGGER no BEFORE INSERT ON image_ref BEGIN SELECT RAISE(ABORT, 'no'); END")
      const before = yield* rows
      expect(yield* Effect.flip(persistImage(db, "x", meta("1", "a"), 5))).toMatchObject({ _tag: "DatabaseFailed" })
      expect(yield* rows).toEqual(before)
    }).pipe(Effect.provide(freshHome), Effect.scoped)
  )

  it.live("answers the image as it is listed; a known digest is updated, and its layer rows keep their ids", () =>
    Effect.gen(function* () {
      const db = yield* Database
      yield* layer("a", 1)
      const [{ id } = { id: 0 }] = yield* db.all<{ readonly id: number }>("SELECT id FROM layer")
      const image = yield* persistImage(db, "x", meta("1", "a", "a"), 5)
      expect(image).toMatchObject({ reference: "x", layerCount: 2, createdAt: 5, lastUsedAt: 5 })
      expect((yield* findImage(db, "x"))?.image).toEqual(image)
      // Fetched again from a source that packs it otherwise.
      yield* layer("a", 8, "b")
      expect(yield* db.all("SELECT id, created_at, last_used_at FROM layer")).toEqual([
        { id, created_at: 1, last_used_at: 8 }
      ])
      const found = (yield* findImage(db, "x"))!
      expect((yield* imageLayers(db, found.manifestId)).map((each) => each.blobDigest)).toEqual([
        digest("b"),
        digest("b")
      ])
      expect(yield* persistImage(db, "x", meta("1", "a", "a"), 9)).toMatchObject({ createdAt: 5, lastUsedAt: 9 })
      yield* persistImage(db, "y", meta("1", "a", "a"), 10)
      expect(yield* db.all("SELECT 1 FROM manifest")).toHaveLength(1)
    }).pipe(Effect.provide(freshHome), Effect.scoped)
  )

  it.live("a collection takes what nothing needs, and leases that ended, but no leased layer or manifest", () =>
    Effect.gen(function* () {
      const db = yield* Database
      for (const letter of ["a", "b", "c"]) yield* layer(letter, 1)
      yield* persistImage(db, "x", meta("1", "a"), 5)
      yield* persistImage(db, "y", meta("2", "b"), 5)
      yield* db.run("DELETE FROM image_ref WHERE reference = 'y'")
      const hold = "INSERT INTO content_lease (token, resource, expires_at) VALUES ('t', ?, ?)"
      yield* db.run(hold, [digest("2"), 100])
      yield* db.run(hold, [digest("c"), 200])
      expect(yield* collectOrphans(db, 99)).toEqual({ references: 0, manifests: [], layers: [] })
      expect(yield* collectOrphans(db, 100)).toEqual({ references: 0, manifests: [digest("2")], layers: [digest("b")] })
      expect(yield* db.all("SELECT resource FROM content_lease")).toEqual([{ resource: digest("c") }])
      expect(yield* collectOrphans(db, 200)).toEqual({ references: 0, manifests: [], layers: [digest("c")] })
    }).pipe(Effect.provide(freshHome), Effect.scoped)
  )
})
