import { Database as Sqlite } from "bun:sqlite"
import { describe, expect, setDefaultTimeout } from "bun:test"
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs"
import path from "node:path"
import { Effect, Layer, Logger, Stream } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import type { Digest } from "../../../src/domain/image/digest.ts"
import type { ImageEvent } from "../../../src/domain/image/image.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { insertSandbox } from "../../../src/store/database/sandboxes.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { startFaultProxy } from "../../support/faultProxy.ts"
import { freshHome, temporaryDirectory } from "../../support/home.ts"
import { imageOf, type LayoutImage, layoutFiles, file as tarFile, writeFiles } from "../../support/image.ts"
import {
  first,
  imageStoreOver,
  layoutOf,
  problemsIn,
  pullAll,
  repeating,
  type Seen,
  second
} from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { listTree, mounted, mountMissing } from "../../support/mount.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"
import { config } from "../../support/sandboxes.ts"

setDefaultTimeout(30_000)

const tags = (events: ReadonlyArray<ImageEvent>) => events.map((event) => event._tag)
const doneOf = (events: ReadonlyArray<ImageEvent>) => {
  const last = events.at(-1)
  if (last?._tag !== "Done") throw new Error("no Done at the end")
  return last
}

/** A registry with `first` as team/first:1, `second` as team/second:1, `repeating` as team/again:1, behind a proxy that counts. */
const startFilled = Effect.gen(function* () {
  const registry = yield* startRegistry()
  yield* registry.push("team/first:1", layoutOf(first))
  yield* registry.push("team/second:1", layoutOf(second))
  yield* registry.push("team/again:1", layoutOf(repeating))
  const proxy = yield* startFaultProxy(registry.host, () => undefined)
  return { registry, proxy, at: (name: string) => `${proxy.host}/team/${name}` }
})

const sandboxOf = Effect.fnUntraced(function* (name: string, manifestDigest: string) {
  const db = yield* Database
  return yield* insertSandbox(db, { name: name as SafeName, config, ephemeral: false, manifestDigest, nowMs: 1 })
})

const problems = Effect.map(Paths, (paths) => problemsIn(paths.home))

describe("loading", () => {
  it.live("one name is given to one image, whatever tags the file has for it, and to no more", () =>
    Effect.gen(function* () {
      const place = yield* temporaryDirectory
      const store = yield* ImageStore
      const load = (name: string, images: ReadonlyArray<LayoutImage>) =>
        Effect.promise(() => writeFiles(path.join(place, name), layoutFiles(images))).pipe(
          Effect.andThen(Stream.runCollect(store.Load({ path: path.join(place, name), tag: "mine:1" })))
        )
      const one = layoutOf(first)
      const loaded = yield* load("one", [
        { ...one, name: "a" },
        { ...one, name: "b" }
      ])
      expect(doneOf(loaded).image.reference).toBe("docker.io/library/mine:1")
      const error = yield* Effect.flip(
        load("two", [
          { ...one, name: "a" },
          { ...layoutOf(second), name: "b" }
        ])
      )
      expect(error).toMatchObject({ _tag: "ArchiveInvalid" })
      expect(error.message).toContain(
        "it holds 2 images (two:a, two:b), and one name can not be given to all of them; leave"
      )
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})

describe.skipIf(!hasRegistryTools)("pulling", () => {
  it.live("each policy asks the network only as far as it may", () =>
    Effect.gen(function* () {
      const { at, proxy } = yield* startFilled
      const reference = at("first:1")
      const refused = yield* Effect.flip(pullAll({ reference, policy: "never" }))
      expect(refused).toMatchObject({ _tag: "ImageNotCached" })
      expect(proxy.requests).toEqual([])

      const fetched = yield* pullAll({ reference, policy: "if-missing" })
      expect(tags(fetched)[0]).toBe("Resolved")
      expect(tags(fetched).filter((tag) => tag === "LayerDone")).toHaveLength(3)
      expect(tags(fetched).slice(-2)).toEqual(["Assembled", "Done"])
      expect(doneOf(fetched)).toMatchObject({ cached: false, image: { layerCount: 3, architecture: "amd64" } })
      expect(yield* problems).toEqual([])

      const before = proxy.requests.length
      for (const policy of ["if-missing", "never"] as const) {
        const hit = yield* pullAll({ reference, policy })
        expect(tags(hit)).toEqual(["Done"])
        expect(doneOf(hit).cached).toBe(true)
      }
      expect(proxy.requests.length).toBe(before)

      const again = yield* pullAll({ reference, policy: "always" })
      expect(again.filter((event) => event._tag === "LayerDone").every((event) => event.cached)).toBe(true)
      const asked = proxy.requests.slice(before).map((request) => request.path)
      expect(asked.length).toBeGreaterThan(0)
      for (const blob of first.layers) expect(asked.join()).not.toContain(blob.descriptor.digest)
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("an image is known by its digest, too, under the repository that it came from", () =>
    Effect.gen(function* () {
      const { at, proxy } = yield* startFilled
      const store = yield* ImageStore
      const fetched = doneOf(yield* pullAll({ reference: at("first:1"), policy: "if-missing" })).image
      yield* pullAll({ reference: at("second:1"), policy: "if-missing" })
      const before = proxy.requests.length
      for (const name of ["first", "first:1", "first:other"]) {
        const reference = at(`${name}@${fetched.manifestDigest}`)
        for (const policy of ["never", "if-missing"] as const) {
          const found = doneOf(yield* pullAll({ reference, policy }))
          expect(found).toMatchObject({ cached: true, image: { reference: at("first:1") } })
        }
        expect((yield* store.Get({ reference })).manifestDigest).toBe(fetched.manifestDigest)
        expect((yield* store.Inspect({ reference })).image.reference).toBe(at("first:1"))
        const saved = yield* Stream.runFold(
          store.Save({ references: [reference] }),
          () => 0,
          (sum, each) => sum + each.length
        )
        expect(saved).toBeGreaterThan(0)
      }
      for (const other of ["second", "firs", "first/1"]) {
        const unknown = { reference: at(`${other}@${fetched.manifestDigest}`), policy: "never" } as const
        expect(yield* Effect.flip(pullAll(unknown))).toMatchObject({ _tag: "ImageNotCached" })
      }
      expect(proxy.requests.length).toBe(before)
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("a registry that has an image in part is told so", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      yield* registry.push("team/first:1", layoutOf(first))
      const gone = first.config.descriptor.digest
      const proxy = yield* startFaultProxy(registry.host, ({ path: asked }) =>
        asked.includes(gone) ? { status: 404 } : undefined
      )
      const error = yield* Effect.flip(pullAll({ reference: `${proxy.host}/team/first:1`, policy: "if-missing" }))
      expect(error).toMatchObject({ _tag: "ImageNotFound", host: proxy.host })
      expect(error.message).toContain(`${proxy.host} has "${proxy.host}/team/first:1", but not its config ${gone}`)
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("follows a tag that moved, only when told to ask", () =>
    Effect.gen(function* () {
      const { registry } = yield* startFilled
      const reference = `${registry.host}/team/first:1`
      const before = doneOf(yield* pullAll({ reference, policy: "if-missing" })).image
      yield* registry.push("team/first:1", layoutOf(second))
      expect(doneOf(yield* pullAll({ reference, policy: "if-missing" })).image.manifestDigest).toBe(
        before.manifestDigest
      )
      const after = doneOf(yield* pullAll({ reference, policy: "always" })).image
      expect(after.manifestDigest as string).toBe(second.manifest.descriptor.digest)
      expect(after.createdAt).toBe(before.createdAt)
      const store = yield* ImageStore
      expect(yield* store.List()).toHaveLength(1)
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("does not take an image of another platform for the one that was asked for", () =>
    Effect.gen(function* () {
      const { at } = yield* startFilled
      const reference = at("first:1")
      const arm = { os: "linux", architecture: "arm64" }
      yield* pullAll({ reference, policy: "if-missing" })
      expect(yield* Effect.flip(pullAll({ reference, policy: "never", platform: arm }))).toMatchObject({
        _tag: "ImageNotCached"
      })
      expect(yield* Effect.flip(pullAll({ reference, policy: "if-missing", platform: arm }))).toMatchObject({
        _tag: "PlatformNotFound",
        available: ["linux/amd64"]
      })
      expect(doneOf(yield* pullAll({ reference, policy: "never" })).cached).toBe(true)
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("a known image is recorded with two UPDATEs and no transaction, also when it repeats a layer", () => {
    const seen: Array<Seen> = []
    return Effect.gen(function* () {
      const { at } = yield* startFilled
      const db = yield* Database
      for (const name of ["first:1", "again:1"]) {
        const reference = at(name)
        yield* pullAll({ reference, policy: "always" })
        yield* db.run("UPDATE layer SET last_used_at = 7")
        const store = yield* ImageStore
        const before = yield* store.Get({ reference })
        for (const policy of ["always", "if-missing"] as const) {
          seen.length = 0
          yield* Effect.sleep(2)
          yield* pullAll({ reference, policy })
          const images = seen.filter(({ kind, sql }) => kind !== "read" && !sql.includes("content_lease"))
          const leases = seen.filter(({ sql }) => sql.includes("content_lease"))
          // The transaction of a pull that asks the registry is the one that takes its lease.
          const transactions = images.filter(({ kind }) => kind === "transaction").length
          expect({ policy, transactions }).toEqual({ policy, transactions: policy === "always" ? 1 : 0 })
          expect(leases.length > 0).toBe(policy === "always")
          const updates = images.filter(({ kind }) => kind === "write").map(({ sql }) => sql.split(" SET")[0])
          expect(updates).toEqual(["UPDATE layer", "UPDATE image_ref"])
        }
        const used = yield* db.all<{ readonly t: number }>(
          "SELECT l.last_used_at AS t FROM layer l JOIN manifest_layer j ON j.layer_id = l.id JOIN manifest m ON m.id = j.manifest_id WHERE m.digest = ?",
          [before.manifestDigest]
        )
        expect(used.every(({ t }) => t > before.createdAt)).toBe(true)
        expect((yield* store.Get({ reference })).lastUsedAt).toBeGreaterThan(before.lastUsedAt)
      }
    }).pipe(Effect.provide(imageStoreOver(freshHome, seen)), Effect.scoped)
  })

  const collectedMeanwhile = (what: "rows" | "rows and files") =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      const image = imageOf(Array.from({ length: 13 }, (_, n) => [tarFile(`f${n}`, String(n))]))
      yield* registry.push("team/four:1", layoutOf(image))
      const paths = yield* Paths
      let collected = 0
      // The last layer is asked for when one of the first twelve is recorded: another process collects at that moment.
      const proxy = yield* startFaultProxy(registry.host, (request, earlier) => {
        if (request.path.endsWith(image.layers.at(-1)!.descriptor.digest) && earlier === 0) {
          const other = new Sqlite(paths.database)
          other.run("DELETE FROM content_lease")
          collected = other.query("DELETE FROM layer RETURNING id").all().length
          other.close()
          if (what !== "rows") for (const file of readdirSync(paths.layers)) rmSync(path.join(paths.layers, file))
        }
        return undefined
      })
      const events = yield* pullAll({ reference: `${proxy.host}/team/four:1`, policy: "always" })
      expect(collected).toBeGreaterThan(0)
      expect(doneOf(events).image.layerCount).toBe(13)
      expect(yield* problems).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)

  it.live("a pull whose lease ran out, and whose layers' rows were collected meanwhile, fetches them again", () =>
    collectedMeanwhile("rows")
  )
  it.live("a pull whose lease ran out, and whose layers were collected with their files, fetches them again", () =>
    collectedMeanwhile("rows and files")
  )

  it.live("an image of one layer twice fetches it once and keeps both places", () =>
    Effect.gen(function* () {
      const { at, proxy } = yield* startFilled
      const reference = at("again:1")
      yield* pullAll({ reference, policy: "always" })
      const twice = repeating.layers[0]!.descriptor.digest
      expect(proxy.requests.filter((request) => request.path.endsWith(twice))).toHaveLength(1)
      const store = yield* ImageStore
      const { layers } = yield* store.Inspect({ reference })
      expect(layers.map((layer) => layer.diffId as string)).toEqual([...repeating.diffIds])
      expect(layers.map((layer) => layer.position)).toEqual([0, 1, 2])
      expect(yield* problems).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})

if (mountMissing !== undefined) console.log(`skipped: the tree of a pulled image, since ${mountMissing}`)

describe.skipIf(!hasRegistryTools || mountMissing !== undefined)("a pulled image", () => {
  it.live("shows the merged tree: whiteouts and opaque directories took effect, hard links are one file", () =>
    Effect.gen(function* () {
      const { at } = yield* startFilled
      const store = yield* ImageStore
      const paths = yield* Paths
      yield* pullAll({ reference: at("first:1"), policy: "always" })
      const leased = yield* store.Lease({ reference: at("first:1"), token: "t", durationMs: 60_000 })
      const extents = [...readFileSync(leased.disk, "utf8").matchAll(/^RW (\d+) FLAT "([^"]+)" 0$/gm)]
      const [fsmeta = "", ...layers] = extents.map((extent) => path.resolve(path.dirname(leased.disk), extent[2]!))
      expect(fsmeta).toBe(paths.fsmeta(leased.manifestDigest))
      for (const extent of extents) {
        expect(statSync(path.resolve(path.dirname(leased.disk), extent[2]!)).size).toBe(Number(extent[1]) * 512)
      }
      const tree = mounted(fsmeta, layers, listTree)
      expect([...tree.keys()].toSorted()).toEqual(["/", "/a", "/a/one", "/a/three", "/b", "/b/y", "/c"])
      expect(tree.get("/a/three")).toMatchObject({ first: "/a/one", nlink: 2 })
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})

describe.skipIf(!hasRegistryTools)("records", () => {
  it.live("the full path replaces config and junctions whole and moves the use of layers that were there", () =>
    Effect.gen(function* () {
      const { at } = yield* startFilled
      const db = yield* Database
      const store = yield* ImageStore
      yield* pullAll({ reference: at("first:1"), policy: "always" })
      yield* db.run("UPDATE config SET env = '[\"OLD=1\"]', labels = NULL")
      yield* db.run("UPDATE layer SET last_used_at = 7")
      yield* db.run("DELETE FROM manifest_layer WHERE position = 1")
      yield* db.run("UPDATE manifest_layer SET position = 9 WHERE position = 2")
      yield* pullAll({ reference: at("first:1"), policy: "always" })
      const { config, layers } = yield* store.Inspect({ reference: at("first:1") })
      expect(config).toMatchObject({
        env: ["A=b"],
        labels: { made: "here" },
        user: "1:2",
        workingDir: "/a",
        cmd: ["/bin/sh"],
        exposedPorts: ["80/tcp"]
      })
      expect(layers.map((layer) => layer.diffId as string)).toEqual([...first.diffIds])
      expect(layers.map((layer) => layer.position)).toEqual([0, 1, 2])
      expect(yield* db.all("SELECT 1 FROM layer WHERE last_used_at = 7")).toEqual([])
      expect(yield* db.all("SELECT 1 FROM config")).toHaveLength(1)
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("lists newest first, and the later of two in one instant before the earlier", () =>
    Effect.gen(function* () {
      const { at } = yield* startFilled
      const db = yield* Database
      const store = yield* ImageStore
      for (const name of ["first:1", "second:1", "again:1"]) yield* pullAll({ reference: at(name), policy: "always" })
      yield* db.run("UPDATE image_ref SET created_at = 5")
      yield* db.run("UPDATE image_ref SET created_at = 6 WHERE reference = ?", [at("first:1")])
      const listed = (yield* store.List()).map((image) => image.reference)
      expect(listed).toEqual([at("first:1"), at("again:1"), at("second:1")])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("a broken column of a config is logged and reads as empty", () => {
    const logged: Array<string> = []
    return Effect.gen(function* () {
      const { at } = yield* startFilled
      const db = yield* Database
      const store = yield* ImageStore
      yield* pullAll({ reference: at("first:1"), policy: "always" })
      yield* db.run("UPDATE config SET env = '[broken', labels = '[1]', cmd = '\"text\"'")
      const { config } = yield* store.Inspect({ reference: at("first:1") })
      expect(config).toMatchObject({ env: [], labels: {}, cmd: [], workingDir: "/a" })
      expect(logged.join()).toContain("env")
      expect(logged.join()).toContain("labels")
      expect(logged.join()).toContain("cmd")
    }).pipe(
      Effect.provide(
        Layer.provideMerge(
          imageStoreOver(freshHome),
          Logger.layer([Logger.make(({ message }) => void logged.push(String(message)))])
        )
      ),
      Effect.scoped
    )
  })

  it.live("answers for what it does not know", () =>
    Effect.gen(function* () {
      const store = yield* ImageStore
      const unknown = { _tag: "ImageNotFound", reference: "nothing" }
      expect(yield* Effect.flip(store.Get({ reference: "nothing" }))).toMatchObject(unknown)
      expect(yield* Effect.flip(store.Inspect({ reference: "nothing" }))).toMatchObject(unknown)
      expect(yield* Effect.flip(store.Remove({ reference: "nothing", force: true }))).toMatchObject({
        _tag: "ImageNotFound"
      })
      expect(yield* Effect.flip(store.Get({ reference: "NOT//valid" }))).toMatchObject({ _tag: "InvalidReference" })
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})

const layerFile = Effect.fnUntraced(function* (diffId: string) {
  const paths = yield* Paths
  return existsSync(paths.layerImage(diffId as Digest))
})

describe.skipIf(!hasRegistryTools)("removing", () => {
  it.live("keeps a shared layer when one of two tags goes, and what another tag still names", () =>
    Effect.gen(function* () {
      const { at, registry } = yield* startFilled
      const store = yield* ImageStore
      yield* registry.push("team/first:2", layoutOf(first))
      for (const name of ["first:1", "first:2", "second:1"]) yield* pullAll({ reference: at(name), policy: "always" })

      const untagged = yield* store.Remove({ reference: at("first:1"), force: false })
      expect({ ...untagged }).toEqual({
        image_refs_removed: 1,
        manifests_removed: 0,
        layers_removed: 0,
        fsmeta_removed: 0,
        vmdk_removed: 0
      })
      expect(yield* problems).toEqual([])

      const removed = yield* store.Remove({ reference: at("first:2"), force: false })
      expect(removed).toMatchObject({ image_refs_removed: 1, manifests_removed: 1, layers_removed: 2 })
      expect(removed).toMatchObject({ fsmeta_removed: 1, vmdk_removed: 1 })
      expect(removed.bytes_reclaimed).toBeGreaterThan(0)
      expect(yield* layerFile(first.diffIds[0]!)).toBe(true)
      expect(yield* layerFile(first.diffIds[1]!)).toBe(false)
      expect(yield* problems).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("refuses what sandboxes are made from, naming them; by force only the name goes", () =>
    Effect.gen(function* () {
      const { at } = yield* startFilled
      const store = yield* ImageStore
      const db = yield* Database
      const reference = at("first:1")
      yield* pullAll({ reference, policy: "always" })
      yield* pullAll({ reference: at("second:1"), policy: "always" })
      const digest = first.manifest.descriptor.digest
      const id = yield* sandboxOf("zoe", digest)
      yield* sandboxOf("adam", digest)
      expect(yield* Effect.flip(store.Remove({ reference, force: false }))).toMatchObject({
        _tag: "ImageInUse",
        sandboxes: ["adam", "zoe"]
      })
      expect(yield* store.List()).toHaveLength(2)

      expect(yield* store.Remove({ reference, force: true })).toMatchObject({
        image_refs_removed: 1,
        manifests_removed: 0,
        layers_removed: 0
      })
      expect(yield* problems).toEqual([])
      const lease = { reference, token: "t", durationMs: 60_000 }
      expect(yield* Effect.flip(store.Lease(lease))).toMatchObject({ _tag: "ImageNotFound" })
      expect((yield* store.Lease({ ...lease, sandboxId: id })).manifestDigest as string).toBe(digest)

      yield* db.run("DELETE FROM sandbox")
      yield* db.run("DELETE FROM content_lease")
      expect(yield* store.Prune({})).toMatchObject({ image_refs_removed: 1, manifests_removed: 2, layers_removed: 4 })
      expect(yield* problems).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("prune keeps what sandboxes use, and a dry run says the same and changes nothing", () =>
    Effect.gen(function* () {
      const { at } = yield* startFilled
      const store = yield* ImageStore
      const db = yield* Database
      for (const name of ["first:1", "second:1", "again:1"]) yield* pullAll({ reference: at(name), policy: "always" })
      yield* sandboxOf("box", first.manifest.descriptor.digest)
      const everything = Effect.gen(function* () {
        const paths = yield* Paths
        const files = [paths.layers, paths.fsmetas, paths.vmdks, paths.locks].flatMap((place) =>
          [...new Bun.Glob("*").scanSync(place)].map((name) => path.join(place, name))
        )
        const rows = []
        for (const table of ["manifest", "image_ref", "config", "layer", "manifest_layer"])
          rows.push(yield* db.all(`SELECT * FROM ${table}`))
        return { files: files.toSorted(), rows }
      })
      const before = yield* everything
      const rehearsed = yield* store.Prune({ dryRun: true })
      expect(yield* everything).toEqual(before)
      const real = yield* store.Prune({ dryRun: false })
      expect({ ...rehearsed }).toEqual({ ...real })
      expect(real).toMatchObject({ image_refs_removed: 2, manifests_removed: 2, layers_removed: 3 })
      expect(real).toMatchObject({ fsmeta_removed: 2, vmdk_removed: 2 })
      expect(real.bytes_reclaimed).toBeGreaterThanOrEqual(5 * 4096)
      expect((yield* store.List()).map((image) => image.reference)).toEqual([at("first:1")])
      expect(yield* layerFile(second.diffIds[0]!)).toBe(true)
      expect(yield* problems).toEqual([])
      expect({ ...(yield* store.Prune({})) }).toEqual({
        image_refs_removed: 0,
        manifests_removed: 0,
        layers_removed: 0,
        fsmeta_removed: 0,
        vmdk_removed: 0
      })
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("prune leaves alone what a lease holds", () =>
    Effect.gen(function* () {
      const { at } = yield* startFilled
      const store = yield* ImageStore
      const db = yield* Database
      yield* pullAll({ reference: at("first:1"), policy: "always" })
      yield* store.Lease({ reference: at("first:1"), token: "t", durationMs: 60_000 })
      expect(yield* store.Prune({})).toMatchObject({ image_refs_removed: 0, manifests_removed: 0, layers_removed: 0 })
      yield* db.run("UPDATE content_lease SET expires_at = 1")
      expect(yield* store.Prune({})).toMatchObject({ image_refs_removed: 1, manifests_removed: 1, layers_removed: 3 })
      expect(yield* db.all("SELECT 1 FROM content_lease")).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )

  it.live("an interrupted pull leaves neither rows nor files, also when its last layer stalls", () =>
    Effect.gen(function* () {
      const { registry } = yield* startFilled
      const image = imageOf([[tarFile("one", "1")], [tarFile("two", "2")]])
      yield* registry.push("team/slow:1", layoutOf(image))
      const slow = image.layers[1]!.descriptor.digest
      const proxy = yield* startFaultProxy(registry.host, (request) =>
        request.path.endsWith(slow) ? { stallAfter: 10 } : undefined
      )
      const store = yield* ImageStore
      const db = yield* Database
      const stream = store.Pull({ reference: `${proxy.host}/team/slow:1`, policy: "always" })
      // Ends with the first layer: the stream is interrupted while the second one waits for its bytes.
      yield* Stream.runDrain(Stream.takeUntil(stream, (event) => event._tag === "LayerDone"))
      yield* Effect.sleep(50).pipe(
        Effect.andThen(db.all("SELECT 1 FROM layer")),
        Effect.repeat({ until: (rows) => rows.length === 0, times: 100 })
      )
      expect((yield* problems).filter((problem) => !problem.startsWith("locks/"))).toEqual([])
      expect(yield* db.all("SELECT 1 FROM layer UNION ALL SELECT 1 FROM manifest")).toEqual([])
    }).pipe(Effect.provide(imageStoreOver(freshHome)), Effect.scoped)
  )
})
