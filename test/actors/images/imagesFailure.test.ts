import { describe, expect, setDefaultTimeout } from "bun:test"
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { startFaultProxy } from "../../support/faultProxy.ts"
import { freshHome, homeAt, temporaryDirectory } from "../../support/home.ts"
import { archiveOf, blobOf, file, imageOf, jsonBlob, layoutFiles, type TestImage } from "../../support/image.ts"
import {
  first,
  imageStoreOver,
  layoutOf,
  loadAll,
  noise,
  problemsIn,
  pullAll,
  second
} from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { run } from "../../support/mount.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"

setDefaultTimeout(30_000)

/** Nothing but empty tables and empty directories: no row, no layer, no temporary file. Lock files may stay until a prune. */
const expectNothing = Effect.gen(function* () {
  const db = yield* Database
  const { home } = yield* Paths
  for (const table of ["manifest", "image_ref", "config", "layer", "manifest_layer", "content_lease"])
    expect({ table, rows: yield* db.all(`SELECT * FROM ${table}`) }).toEqual({ table, rows: [] })
  expect(problemsIn(home).filter((problem) => !problem.startsWith("locks/"))).toEqual([])
  const cache = [...new Bun.Glob("cache/{layers,fsmeta,vmdk,tmp}/**").scanSync({ cwd: home, dot: true })]
  expect(cache).toEqual([])
})

/** `image` with its last layer's stored bytes replaced by what `spoil` makes of them; the config still names the old diff id. */
const spoilt = (image: TestImage, spoil: (bytes: Uint8Array) => Uint8Array, announce: "old" | "new"): TestImage => {
  const last = image.layers.at(-1)!
  const bytes = spoil(last.bytes)
  const descriptor = announce === "old" ? last.descriptor : blobOf(last.descriptor.mediaType, bytes).descriptor
  const layers = [...image.layers.slice(0, -1), { bytes, descriptor }]
  const { mediaType } = image.manifest.descriptor
  const manifest = jsonBlob(mediaType, {
    schemaVersion: 2,
    mediaType,
    config: image.config.descriptor,
    layers: layers.map((layer) => layer.descriptor)
  })
  return { ...image, layers, manifest, blobs: [...layers, image.config, manifest] }
}

const archive = (image: TestImage) => archiveOf(layoutFiles([{ ...layoutOf(image), name: "test/bad:1" }]))
const gunzip = (bytes: Uint8Array) => Bun.gunzipSync(new Uint8Array(bytes))
const flipped = (bytes: Uint8Array) => {
  const copy = Buffer.from(bytes)
  copy[copy.length - 20]! ^= 0xff
  return copy
}
const outside = imageOf([[file("ok", "ok")], [file("../../etc/evil", "x")]])

const bad: ReadonlyArray<readonly [string, () => Uint8Array, string]> = [
  ["that is cut", () => archive(first).subarray(0, 5000), "ArchiveInvalid"],
  ["that is a web page", () => Buffer.from(`<!DOCTYPE html>${" ".repeat(1000)}`), "ArchiveInvalid"],
  ["that is empty", () => Buffer.alloc(0), "ArchiveInvalid"],
  ["whose gzip is cut", () => Bun.gzipSync(new Uint8Array(archive(first))).subarray(0, 900), "ArchiveInvalid"],
  ["whose gzip is damaged", () => flipped(Bun.gzipSync(new Uint8Array(archive(first)))), "ArchiveInvalid"],
  ["whose layer has another digest", () => archive(spoilt(first, flipped, "old")), "DigestMismatch"],
  [
    "whose layer is shorter than announced",
    () => archive(spoilt(first, (b) => b.subarray(0, 50), "old")),
    "DigestMismatch"
  ],
  [
    "whose layer's gzip is cut",
    () => archive(spoilt(first, (b) => b.subarray(0, b.length - 12), "new")),
    "LayerRejected"
  ],
  ["whose layer's gzip is damaged", () => archive(spoilt(first, flipped, "new")), "LayerRejected"],
  [
    "whose layer is another than its diff id says",
    () => archive(spoilt(first, () => second.layers[1]!.bytes, "new")),
    "DigestMismatch"
  ],
  [
    "whose layer is cut inside",
    () => archive(spoilt(first, (b) => Bun.gzipSync(gunzip(b).slice(0, 512)), "new")),
    "LayerRejected"
  ],
  [
    "whose layer ends after a whole file, without padding, before its digest is reached",
    () => archive(spoilt(first, (b) => Bun.gzipSync(gunzip(b).slice(0, 700)), "new")),
    "DigestMismatch"
  ],
  ["whose layer leaves its tree", () => archive(outside), "LayerRejected"]
]

describe("a load that fails leaves nothing", () => {
  for (const [what, bytes, tag] of bad)
    it.live(`an archive ${what}`, () =>
      Effect.gen(function* () {
        const place = path.join(yield* temporaryDirectory, "archive")
        writeFileSync(place, bytes())
        const error = yield* Effect.flip(loadAll({ path: place }))
        expect(error._tag).toBe(tag as typeof error._tag)
        expect(error.message).not.toContain("\n")
        yield* expectNothing
      }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
    )

  it.live("an archive that is not there, and a bad name for it", () =>
    Effect.gen(function* () {
      expect(yield* Effect.flip(loadAll({ path: "/nowhere/at/all.tar" }))).toMatchObject({ _tag: "ArchiveInvalid" })
      expect(yield* Effect.flip(loadAll({ path: "/nowhere", tag: "Not Valid" }))).toMatchObject({
        _tag: "InvalidReference"
      })
      yield* expectNothing
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("keeps the images that were there, and what they share with the failed one", () =>
    Effect.gen(function* () {
      const place = path.join(yield* temporaryDirectory, "archive")
      writeFileSync(place, archiveOf(layoutFiles([{ ...layoutOf(second), name: "test/good:1" }])))
      yield* loadAll({ path: place })
      writeFileSync(place, archive(spoilt(first, flipped, "old")))
      yield* Effect.flip(loadAll({ path: place }))
      const { home } = yield* Paths
      expect(problemsIn(home).filter((problem) => !problem.startsWith("locks/"))).toEqual([])
      expect(yield* ImageStore.use((store) => store.List())).toHaveLength(1)
      yield* ImageStore.use((store) => store.Prune({}))
      expect(problemsIn(home)).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})

describe.skipIf(!hasRegistryTools)("a pull that fails leaves nothing", () => {
  it.live("a name that the registry does not have, one that is none, a registry that nobody runs", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      const policy = "if-missing"
      expect(yield* Effect.flip(pullAll({ reference: `${registry.host}/no/such:1`, policy }))).toMatchObject({
        _tag: "ImageNotFound",
        host: registry.host
      })
      expect(yield* Effect.flip(pullAll({ reference: "team/UPPER", policy }))).toMatchObject({
        _tag: "InvalidReference"
      })
      expect(yield* Effect.flip(pullAll({ reference: "127.0.0.1:1/a/b", policy }))).toMatchObject({
        _tag: "RegistryUnavailable"
      })
      yield* expectNothing
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live(
    "a registry that refuses, fails, sends pages or other bytes in the middle of an image",
    () =>
      Effect.gen(function* () {
        const registry = yield* startRegistry()
        yield* registry.push("team/first:1", layoutOf(first))
        const last = first.layers[2]!.descriptor.digest
        const page = { status: 200, body: "<html>please log in</html>", headers: { "content-type": "text/html" } }
        const cases = [
          ["manifests/1", { status: 403 }, "RegistryAuth"],
          ["manifests/1", { status: 500 }, "RegistryUnavailable"],
          ["manifests/1", page, "ManifestInvalid"],
          [last, { status: 403 }, "RegistryAuth"],
          [last, { status: 404 }, "ImageNotFound"],
          [last, { status: 503 }, "RegistryUnavailable"],
          [last, { refuse: true }, "RegistryUnavailable"],
          [last, page, "DigestMismatch"],
          [last, { change: flipped }, "DigestMismatch"],
          [last, { change: (body: Uint8Array) => Buffer.concat([body, body]) }, "DigestMismatch"]
        ] as const
        for (const [end, fault, tag] of cases) {
          const proxy = yield* startFaultProxy(registry.host, (request) =>
            request.path.endsWith(end) ? fault : undefined
          )
          const error = yield* Effect.flip(pullAll({ reference: `${proxy.host}/team/first:1`, policy: "always" }))
          expect({ end, fault, tag: error._tag as string }).toEqual({ end, fault, tag })
          yield* expectNothing
        }
      }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped),
    30_000
  )
})

const noTmpfs = process.getuid?.() === 0 ? undefined : "mounting a small tmpfs needs root"
if (noTmpfs !== undefined) console.log(`skipped: tests on a full disk, since ${noTmpfs}`)

describe.skipIf(noTmpfs !== undefined)("a full disk", () => {
  const smallDisk = (bytes: number) =>
    Effect.gen(function* () {
      const place = yield* temporaryDirectory
      const home = path.join(place, "home")
      mkdirSync(home)
      run("mount", "-t", "tmpfs", "-o", `size=${bytes},mode=0700`, "none", home)
      yield* Effect.addFinalizer(() => Effect.sync(() => run("umount", "-l", home)))
      return home
    })
  const big = imageOf([[file("small", noise(200_000, 1))], [file("big", noise(6_000_000, 2))]])

  it.live(
    "ends a load with advice and the bytes that were needed, keeps what was there, and lets it succeed with more room",
    () =>
      Effect.gen(function* () {
        const home = yield* smallDisk(4_000_000)
        const place = path.join(yield* temporaryDirectory, "archive")
        yield* Effect.gen(function* () {
          writeFileSync(place, archiveOf(layoutFiles([{ ...layoutOf(second), name: "test/good:1" }])))
          yield* loadAll({ path: place })
          const rows = yield* Effect.flatMap(Database, (db) => db.all("SELECT * FROM layer ORDER BY id"))
          writeFileSync(place, archiveOf(layoutFiles([{ ...layoutOf(big), name: "test/big:1" }])))
          const full = yield* Effect.flip(loadAll({ path: place }))
          expect(full).toMatchObject({ _tag: "DiskFull", neededBytes: big.layers[1]!.descriptor.size })
          expect(full.message).toContain("BUNKER_HOME")
          expect(full.message).toContain("at least")
          expect(problemsIn(home).filter((problem) => !problem.startsWith("locks/"))).toEqual([])
          expect(yield* Effect.flatMap(Database, (db) => db.all("SELECT * FROM layer ORDER BY id"))).toEqual(rows)
          run("mount", "-o", "remount,size=64m", home)
          yield* loadAll({ path: place })
          expect(problemsIn(home)).toEqual([])
        }).pipe(Effect.provide(imageStoreOver(homeAt(home))))
      }).pipe(Effect.scoped)
  )

  it.live("a disk without room for anything fails as such from the start", () =>
    Effect.gen(function* () {
      const home = yield* smallDisk(4_000_000)
      writeFileSync(path.join(home, "fill"), noise(2_000_000, 3))
      yield* Effect.sync(() => {
        try {
          writeFileSync(path.join(home, "fill2"), noise(4_000_000, 4))
        } catch {
          // Full, as wanted.
        }
      })
      const error = yield* Effect.flip(Effect.scoped(Layer.build(homeAt(home))))
      expect(error).toMatchObject({ _tag: "DiskFull" })
      rmSync(path.join(home, "fill"))
      yield* Effect.scoped(Layer.build(homeAt(home)))
      expect(existsSync(path.join(home, "bunker.db"))).toBe(true)
    }).pipe(Effect.scoped)
  )
})
