import { describe, expect, setDefaultTimeout } from "bun:test"
import { appendFileSync, existsSync, readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import type { Digest } from "../../../src/domain/image/digest.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { temporaryName } from "../../../src/store/files/files.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { startFaultProxy } from "../../support/faultProxy.ts"
import { freshHome, temporaryDirectory } from "../../support/home.ts"
import { archiveOf, layoutFiles, savedFiles, writeFiles } from "../../support/image.ts"
import {
  first,
  imageStoreOver,
  layoutOf,
  loadAll,
  problemsIn,
  pullAll,
  repeating,
  second
} from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"

setDefaultTimeout(30_000)

const problems = Effect.map(Paths, (paths) => problemsIn(paths.home))
const manifest = first.manifest.descriptor.digest as Digest
const lease = { token: "t", durationMs: 60_000 }

/** Loads `first` as test/first:1 without any registry. */
const loaded = Effect.gen(function* () {
  const directory = yield* temporaryDirectory
  yield* Effect.promise(() => writeFiles(directory, layoutFiles([{ ...layoutOf(first), name: "test/first:1" }])))
  yield* loadAll({ path: directory })
  return yield* Paths
})

/** Changes one byte and no length. */
const spoil = (file: string, at: number) => {
  const bytes = readFileSync(file)
  bytes[at]! ^= 1
  writeFileSync(file, bytes)
}

describe("records without files", () => {
  it.live("fsmeta and descriptor that are missing, cut or of another length are stitched again without network", () =>
    Effect.gen(function* () {
      const paths = yield* loaded
      const store = yield* ImageStore
      const [fsmeta, vmdk] = [paths.fsmeta(manifest), paths.vmdk(manifest)]
      const good = [readFileSync(fsmeta), readFileSync(vmdk)] as const
      const damages: Array<() => void> = [
        () => rmSync(fsmeta),
        () => rmSync(vmdk),
        () => truncateSync(vmdk, 40),
        () => truncateSync(vmdk, 0),
        () => appendFileSync(fsmeta, Buffer.alloc(4096)),
        () => truncateSync(fsmeta, 100),
        () => spoil(fsmeta, 2000),
        () => writeFileSync(fsmeta, readFileSync(paths.layerImage(first.diffIds[0] as Digest)))
      ]
      for (const damage of damages) {
        damage()
        const leased = yield* store.Lease({ reference: "test/first:1", ...lease })
        expect(leased.disk as string).toBe(vmdk)
        expect(readFileSync(vmdk)).toEqual(good[1])
        expect(readFileSync(fsmeta)).toEqual(good[0])
        damage()
        // Even where no network is allowed.
        const events = yield* pullAll({ reference: "test/first:1", policy: "never" })
        expect(events.at(-1)).toMatchObject({ _tag: "Done", cached: true })
        expect(readFileSync(vmdk)).toEqual(good[1])
      }
      expect(yield* problems).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  if (hasRegistryTools)
    it.live("a layer that is missing or cut is fetched again, by a boot as by a pull, and only that one", () =>
      Effect.gen(function* () {
        const registry = yield* startRegistry()
        yield* registry.push("team/first:1", layoutOf(first))
        const proxy = yield* startFaultProxy(registry.host, () => undefined)
        const reference = `${proxy.host}/team/first:1`
        yield* pullAll({ reference, policy: "always" })
        const store = yield* ImageStore
        const paths = yield* Paths
        const layer = paths.layerImage(first.diffIds[1] as Digest)
        const good = readFileSync(layer)
        const damages = [
          () => rmSync(layer),
          () => truncateSync(layer, 4096),
          () => spoil(layer, 1024),
          // Another's, of the same length.
          () => spoil(layer, 1024 + 48)
        ]
        for (const damage of damages) {
          damage()
          proxy.requests.length = 0
          yield* store.Lease({ reference, ...lease })
          expect(readFileSync(layer)).toEqual(good)
          const path = `/v2/team/first/blobs/${first.layers[1]!.descriptor.digest}`
          expect(proxy.requests.map((request) => request.path)).toEqual([path])
          damage()
          expect(yield* Effect.flip(pullAll({ reference, policy: "never" }))).toMatchObject({ _tag: "ImageNotCached" })
          yield* pullAll({ reference, policy: "if-missing" })
          expect(readFileSync(layer)).toEqual(good)
        }
        expect(yield* problems).toEqual([])
      }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
    )

  it.live("a layer that can not be had again is told, and loading the image again helps", () =>
    Effect.gen(function* () {
      const proxy = yield* startFaultProxy(undefined, () => undefined)
      const directory = yield* temporaryDirectory
      yield* Effect.promise(() => writeFiles(directory, layoutFiles([layoutOf(first)])))
      const reference = `${proxy.host}/test/first:1`
      yield* loadAll({ path: directory, tag: reference })
      const paths = yield* Paths
      const store = yield* ImageStore
      rmSync(paths.layerImage(first.diffIds[0] as Digest))
      const lost = yield* Effect.flip(store.Lease({ reference, ...lease }))
      expect(lost).toMatchObject({ _tag: "ManifestInvalid", field: "layer" })
      expect(lost.message).toContain(first.diffIds[0]!)
      yield* loadAll({ path: directory, tag: reference })
      yield* store.Lease({ reference, ...lease })
      expect(yield* problems).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})

describe("files without records", () => {
  it.live("prune takes strays and leftovers of the dead, counts them, and leaves the living and the unknown", () =>
    Effect.gen(function* () {
      const paths = yield* loaded
      const store = yield* ImageStore
      const db = yield* Database
      yield* store.Lease({ reference: "test/first:1", ...lease })
      const stray = (directory: string, name: string) => {
        const file = path.join(directory, name)
        writeFileSync(file, "x".repeat(5000))
        return file
      }
      const dead = Bun.spawn(["true"])
      yield* Effect.promise(() => dead.exited)
      const deadName = temporaryName(paths.temporary, "x").replace(
        /\.[^.]+-([0-9a-z]+)-[0-9a-f]{8}\.tmp$/,
        `.${dead.pid.toString(36)}-1-$1-00000000.tmp`
      )
      const old = temporaryName(paths.temporary, "old")
      const hex = "ab".repeat(32)
      const going = [
        stray(paths.layers, `${hex}.erofs`),
        stray(paths.fsmetas, `${hex}.erofs`),
        stray(paths.vmdks, `${hex}.vmdk`),
        stray(paths.locks, `${hex}.lock`),
        stray(paths.temporary, path.basename(deadName)),
        stray(paths.temporary, path.basename(old))
      ]
      utimesSync(old, 1, 1)
      const staying = [
        stray(paths.layers, "notes.txt"),
        stray(paths.temporary, path.basename(temporaryName(paths.temporary, "mine"))),
        paths.lockFile(manifest)
      ]
      expect(staying.every((file) => existsSync(file))).toBe(true)
      const rehearsed = yield* store.Prune({ dryRun: true })
      expect(going.filter((file) => !existsSync(file))).toEqual([])
      const report = yield* store.Prune({})
      expect({ ...rehearsed }).toEqual({ ...report })
      expect(report).toMatchObject({ image_refs_removed: 0, layers_removed: 1, fsmeta_removed: 1, vmdk_removed: 1 })
      expect(report.bytes_reclaimed).toBe(5 * 8192)
      expect(going.filter((file) => existsSync(file))).toEqual([])
      expect(staying.filter((file) => !existsSync(file))).toEqual([])
      for (const file of staying.slice(0, 2)) rmSync(file)
      yield* db.run("DELETE FROM content_lease")
      expect(yield* problems).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("a pull or load takes what dead processes left before", () =>
    Effect.gen(function* () {
      const paths = yield* Paths
      writeFileSync(path.join(paths.temporary, "layer.erofs.zzzz-1-1-00000000.tmp"), "x")
      yield* loaded
      expect(yield* problems).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})

describe("loading", () => {
  const gzip = (bytes: Uint8Array): Uint8Array => Bun.gzipSync(new Uint8Array(bytes))
  const named = { ...layoutOf(first), name: "test/first:1" }
  const forms: ReadonlyArray<readonly [string, () => Uint8Array, ReadonlyArray<string>]> = [
    ["an OCI archive", () => archiveOf(layoutFiles([named])), ["test/first:1"]],
    ["a gzipped OCI archive", () => gzip(archiveOf(layoutFiles([named]))), ["test/first:1"]],
    ["a zstd OCI archive", () => Bun.zstdCompressSync(archiveOf(layoutFiles([named]))), ["test/first:1"]],
    [
      "a docker save archive with two tags",
      () => archiveOf(savedFiles(first, ["test/one:1", "test/two:2"])),
      ["test/one:1", "test/two:2"]
    ],
    [
      "an archive of several images",
      () =>
        archiveOf(
          layoutFiles([
            named,
            { ...layoutOf(second), name: "test/second:1" },
            { ...layoutOf(repeating), name: "test/again:1" }
          ])
        ),
      ["test/first:1", "test/second:1", "test/again:1"]
    ]
  ]
  for (const [what, bytes, names] of forms)
    it.live(`${what} brings every name in it`, () =>
      Effect.gen(function* () {
        const archive = path.join(yield* temporaryDirectory, "archive")
        writeFileSync(archive, bytes())
        const events = yield* loadAll({ path: archive })
        const done = events.flatMap((event) => (event._tag === "Done" ? [event.image.reference] : []))
        expect(done).toEqual(names.map((name) => `docker.io/${name}`))
        const store = yield* ImageStore
        const { layers } = yield* store.Inspect({ reference: names[0]! })
        expect(layers.map((layer) => layer.diffId as string)).toEqual([...first.diffIds])
        expect(yield* problems).toEqual([])
      }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
    )

  it.live("an image without a name needs one, and -t gives it", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* Effect.promise(() => writeFiles(directory, layoutFiles([layoutOf(first)])))
      const nameless = yield* Effect.flip(loadAll({ path: directory }))
      expect(nameless).toMatchObject({ _tag: "ArchiveInvalid" })
      expect(nameless.message).toContain("-t NAME")
      const events = yield* loadAll({ path: directory, tag: "mine" })
      expect(events.at(-1)).toMatchObject({ _tag: "Done", image: { reference: "docker.io/library/mine:latest" } })
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})
