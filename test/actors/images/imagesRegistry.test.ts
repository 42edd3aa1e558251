/**
 * Images as others make them, through a real registry: many layers, a large layer, a Debian, umoci's and buildah's. Small by
 * default; `BUNKER_TEST_LAYER_MIB=1024` and `BUNKER_TEST_DEBIAN=FILE` (a tar of mmdebstrap's, `make` makes one) run the full size.
 */
import { describe, expect, setDefaultTimeout } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Stream } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import type { Digest } from "../../../src/domain/image/digest.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { file, directory as folder, imageOf, symlink, tarOf, whiteout } from "../../support/image.ts"
import { imageStoreOver, layoutOf, noise, problemsIn, pullAll } from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { concatenate } from "../../support/layers.ts"
import { have, type Listed, listTree, mounted, mountMissing } from "../../support/mount.ts"
import { hasRegistryTools, run, startRegistry } from "../../support/registry.ts"

setDefaultTimeout(60_000)

const layerMib = Number(process.env["BUNKER_TEST_LAYER_MIB"] ?? 32)
const debian = process.env["BUNKER_TEST_DEBIAN"]

const setup = Effect.gen(function* () {
  const directory = yield* temporaryDirectory
  const home = path.join(directory, "h")
  return { directory, home, layer: imageStoreOver(homeAt(home)), registry: yield* startRegistry() }
})

const inspect = (reference: string) => ImageStore.use((store) => store.Inspect({ reference }))
const copy = (from: string, to: string) =>
  run(["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", from, to])

/** sha256 of each layer's tar in a saved archive, in no order, from the archive's own names. */
const savedLayers = (reference: string) =>
  Effect.gen(function* () {
    const store = yield* ImageStore
    let bytes = 0
    yield* Stream.runForEach(store.Save({ references: [reference] }), (piece) =>
      Effect.sync(() => void (bytes += piece.length))
    )
    return bytes
  })

/** The merged tree of an image as this machine's kernel shows it. */
const mergedTree = (home: string, manifest: Digest, diffIds: ReadonlyArray<Digest>, scratch: string) => {
  const cache = (place: string, digest: string) => path.join(home, "cache", place, `${digest.slice(7)}.erofs`)
  const disk = concatenate(
    [cache("fsmeta", manifest), ...[...new Set(diffIds)].map((diffId) => cache("layers", diffId))],
    scratch
  )
  return mounted(disk, [], listTree)
}
/** File systems count a directory's links in their own ways. */
const comparable = (tree: Map<string, Listed>): Array<unknown> =>
  [...tree]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, entry]) => [name, entry.mode.startsWith("4") ? { ...entry, nlink: 0 } : entry])

/** Compares with `umoci unpack` of the same layout, where this machine can mount. */
const expectUnpacked = (image: string, home: string, directory: string, reference: string) =>
  Effect.gen(function* () {
    if (mountMissing !== undefined) return console.log(`the tree is not compared: ${mountMissing}`)
    const unpacked = path.join(directory, "unpacked")
    yield* run(["umoci", "unpack", "--image", image, unpacked])
    const { image: handle, layers } = yield* inspect(reference)
    const diffIds = layers.map((layer) => layer.diffId)
    const ours = mergedTree(home, handle.manifestDigest, diffIds, path.join(directory, "disk"))
    expect(comparable(ours)).toEqual(comparable(listTree(path.join(unpacked, "rootfs"))))
  })

describe.skipIf(!hasRegistryTools)("through a registry", () => {
  it.live(
    "an image of 40 layers, some of them the same, merges and is saved again",
    () =>
      Effect.gen(function* () {
        const { home, layer, registry } = yield* setup
        const layers = Array.from({ length: 40 }, (_, i) =>
          i % 10 === 9
            ? [whiteout(`d/${i - 1}`)]
            : [folder("d"), file(`d/${i}`, `${i}`.repeat(100)), file("same", "same"), symlink("last", `d/${i}`)]
        )
        layers[20] = layers[10]!
        const image = imageOf(layers, { compression: "zstd" })
        yield* registry.push("t/many:1", layoutOf(image))
        yield* Effect.gen(function* () {
          const reference = `${registry.host}/t/many:1`
          yield* pullAll({ reference, policy: "always" })
          const found = yield* inspect(reference)
          expect(found.layers.map((each) => each.diffId as string)).toEqual([...image.diffIds])
          const distinct = new Set(image.tars.map((tar) => tar.length + Number(Bun.hash(tar))))
          expect(yield* savedLayers(reference)).toBeGreaterThan(distinct.size * 2048)
        }).pipe(Effect.provide(layer))
        expect(problemsIn(home)).toEqual([])
      }),
    60_000
  )

  it.live(
    `a layer of ${layerMib} MiB comes and goes whole, and never lies in memory`,
    () =>
      Effect.gen(function* () {
        const { directory, home, layer, registry } = yield* setup
        const tar = path.join(directory, "layer.tar")
        const block = noise(2 ** 20, 77)
        const header = tarOf([file("large", "")]).subarray(0, 512)
        header.write(`${(layerMib * 2 ** 20).toString(8).padStart(11, "0")}\0`, 124, "latin1")
        header.write("        ", 148, "latin1")
        header.write(
          `${[...header]
            .reduce((sum, byte) => sum + byte, 0)
            .toString(8)
            .padStart(6, "0")}\0 `,
          148,
          "latin1"
        )
        const hasher = new Bun.CryptoHasher("sha256")
        const fd = fs.openSync(tar, "w")
        const put = (bytes: Uint8Array) => {
          hasher.update(bytes)
          fs.writeSync(fd, bytes)
        }
        put(header)
        for (let i = 0; i < layerMib; i++) {
          block.writeUInt32LE(i, 0)
          put(block)
        }
        put(Buffer.alloc(1024))
        fs.closeSync(fd)
        const diffId = `sha256:${hasher.digest("hex")}`
        const image = `${path.join(directory, "layout")}:t`
        yield* run(["umoci", "init", "--layout", path.join(directory, "layout")])
        yield* run(["umoci", "new", "--image", image])
        yield* run(["umoci", "raw", "add-layer", "--image", image, tar])
        yield* copy(`oci:${image}`, `docker://${registry.host}/t/large:1`)
        const before = process.memoryUsage().rss
        let most = 0
        const watch = setInterval(() => void (most = Math.max(most, process.memoryUsage().rss)), 50)
        yield* Effect.gen(function* () {
          const reference = `${registry.host}/t/large:1`
          yield* pullAll({ reference, policy: "always" })
          expect((yield* inspect(reference)).layers.map((each) => each.diffId as string)).toEqual([diffId])
          expect(yield* savedLayers(reference)).toBeGreaterThan(layerMib * 2 ** 20)
        }).pipe(Effect.provide(layer), Effect.ensuring(Effect.sync(() => clearInterval(watch))))
        console.log(`most memory over the start: ${Math.round((most - before) / 2 ** 20)} MiB`)
        if (layerMib >= 512) expect(most - before).toBeLessThan(400 * 2 ** 20)
        expect(problemsIn(home)).toEqual([])
      }),
    600_000
  )

  it.live(
    `${debian === undefined ? "a tree of 3,000 files" : "a Debian"} in an image of umoci's lists as umoci unpacks it, and its tar comes back`,
    () =>
      Effect.gen(function* () {
        const { directory, home, layer, registry } = yield* setup
        const tar = debian === undefined || debian === "make" ? path.join(directory, "root.tar") : debian
        if (debian === "make") yield* run(["mmdebstrap", "--variant=minbase", "--include=python3", "bookworm", tar])
        else if (debian === undefined) {
          const files = Array.from({ length: 3000 }, (_, i) =>
            file(`usr/share/d${i % 100}/${i}`, `${i} `.repeat(i % 50), {
              mode: i % 7 === 0 ? 0o4755 : 0o644,
              uid: i % 3
            })
          )
          const folders = Array.from({ length: 100 }, (_, i) => folder(`usr/share/d${i}`))
          fs.writeFileSync(
            tar,
            tarOf([folder("usr"), folder("usr/share"), ...folders, ...files, symlink("lib", "usr")])
          )
        }
        const layout = path.join(directory, "layout")
        const image = `${layout}:t`
        yield* run(["umoci", "init", "--layout", layout])
        yield* run(["umoci", "new", "--image", image])
        yield* run(["umoci", "raw", "add-layer", "--image", image, tar])
        yield* copy(`oci:${image}`, `docker://${registry.host}/t/debian:1`)
        yield* Effect.gen(function* () {
          const reference = `${registry.host}/t/debian:1`
          yield* pullAll({ reference, policy: "always" })
          const { layers } = yield* inspect(reference)
          const sum = (yield* run(["sha256sum", tar])).slice(0, 64)
          expect(layers.map((each) => each.diffId as string)).toEqual([`sha256:${sum}`])
          // Save checks every byte of the tar against that digest.
          expect(yield* savedLayers(reference)).toBeGreaterThan(fs.statSync(tar).size)
          yield* expectUnpacked(image, home, directory, reference)
        }).pipe(Effect.provide(layer))
        expect(problemsIn(home)).toEqual([])
      }),
    600_000
  )

  const buildahMissing = !have("buildah") || process.getuid?.() !== 0
  if (buildahMissing) console.log("skipped: an image of buildah's, for want of buildah or root")
  it.live(
    "an image of buildah's, pushed by buildah, is what buildah made",
    () =>
      Effect.gen(function* () {
        if (buildahMissing) return
        const { directory, home, layer, registry } = yield* setup
        const place = ["--root", path.join(directory, "b"), "--runroot", path.join(directory, "r")]
        const buildah = (...words: ReadonlyArray<string>) =>
          Effect.map(run(["buildah", "--storage-driver", "vfs", ...place, ...words]), (out) => out.trim())
        const root = path.join(directory, "root")
        fs.mkdirSync(path.join(root, "etc"), { recursive: true })
        fs.writeFileSync(path.join(root, "etc", "motd"), "made by buildah")
        fs.linkSync(path.join(root, "etc", "motd"), path.join(root, "etc", "issue"))
        fs.chownSync(path.join(root, "etc", "motd"), 12, 34)
        const one = yield* buildah("from", "scratch")
        yield* buildah("copy", one, root, "/")
        yield* buildah("config", "--cmd", '["/bin/sh"]', "--env", "A=b", "--user", "1:2", "--label", "k=v", one)
        yield* buildah("commit", "--quiet", one, "base")
        const two = yield* buildah("from", "base")
        yield* buildah("copy", "--chown", "5:6", two, path.join(root, "etc", "motd"), "/etc/second")
        const reference = `${registry.host}/t/built:1`
        yield* buildah("commit", "--quiet", two, reference)
        yield* buildah("push", "--quiet", "--tls-verify=false", "--compression-format", "zstd", reference)
        const layout = path.join(directory, "layout")
        // umoci knows no zstd.
        yield* buildah("push", "--quiet", "--compression-format", "gzip", reference, `oci:${layout}:t`)
        yield* Effect.gen(function* () {
          yield* pullAll({ reference, policy: "always" })
          const { config, layers } = yield* inspect(reference)
          expect(config).toMatchObject({ cmd: ["/bin/sh"], env: expect.arrayContaining(["A=b"]), user: "1:2" })
          expect(layers.length).toBe(2)
          expect(layers[0]!.mediaType).toContain("zstd")
          yield* savedLayers(reference)
          yield* expectUnpacked(`${layout}:t`, home, directory, reference)
        }).pipe(Effect.provide(layer))
        expect(problemsIn(home)).toEqual([])
      }),
    120_000
  )
})
