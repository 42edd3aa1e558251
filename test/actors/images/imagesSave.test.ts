/** What was pulled or loaded can be saved again: same configs, same diff ids, readable by others. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Stream } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { BLOCK, crc32c, NOTE_OFFSET, NOTE_SIZE, SUPER_OFFSET } from "../../../src/oci/erofs/format.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { imageOf, layoutFiles, savedFiles, type TestImage, writeFiles } from "../../support/image.ts"
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
import { hasRegistryTools, run, startRegistry } from "../../support/registry.ts"

const save = (...references: readonly [string, ...Array<string>]) =>
  ImageStore.use((store) =>
    Effect.map(Stream.runCollect(store.Save({ references })), (pieces) => Buffer.concat([...pieces]))
  )

const home = Effect.fnUntraced(function* () {
  const directory = yield* temporaryDirectory
  return { directory, layer: imageStoreOver(homeAt(directory)) }
})

const loadFrom = (directory: string, name: string, files: ReadonlyMap<string, Uint8Array>) =>
  Effect.gen(function* () {
    const layout = path.join(directory, `from-${name}`)
    yield* Effect.promise(() => writeFiles(layout, files))
    yield* loadAll({ path: layout, tag: name })
    fs.rmSync(layout, { recursive: true })
  })

/** Files of a saved archive by name. */
const filesIn = (archive: Buffer): ReadonlyMap<string, Buffer> => {
  const files = new Map<string, Buffer>()
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0; ) {
    const name = archive.toString("latin1", at, archive.indexOf(0, at))
    const size = Number.parseInt(archive.toString("latin1", at + 124, at + 135), 8)
    files.set(name, archive.subarray(at + 512, at + 512 + size))
    at += 512 + Math.ceil(size / 512) * 512
  }
  return files
}
const blob = (files: ReadonlyMap<string, Buffer>, digest: string) => files.get(`blobs/sha256/${digest.slice(7)}`)
const read = (files: ReadonlyMap<string, Buffer>, name: string) => JSON.parse(files.get(name)!.toString())

const expectImage = (files: ReadonlyMap<string, Buffer>, image: TestImage) => {
  expect(blob(files, image.config.descriptor.digest)?.equals(Buffer.from(image.config.bytes))).toBe(true)
  for (const [i, diffId] of image.diffIds.entries()) {
    expect(blob(files, diffId)?.equals(Buffer.from(image.tars[i]!))).toBe(true)
  }
}

/** The image as a build made it that kept no record. */
const withoutNote = (image: Buffer): Buffer => {
  const old = Buffer.from(image).fill(0, NOTE_OFFSET, NOTE_OFFSET + NOTE_SIZE)
  old.writeUInt32LE(0, SUPER_OFFSET + 4)
  old.writeUInt32LE(crc32c(old.subarray(SUPER_OFFSET, BLOCK)), SUPER_OFFSET + 4)
  return old
}

describe("a saved archive", () => {
  it.live("holds the configs and the layers' tars byte by byte, each once, under the images' names", () =>
    Effect.gen(function* () {
      const { directory, layer } = yield* home()
      const archive = yield* Effect.gen(function* () {
        yield* loadFrom(directory, "first:1", layoutFiles([layoutOf(first)]))
        yield* loadFrom(directory, "second:1", savedFiles(second, ["x:1"]))
        yield* loadFrom(directory, "r.example/repeating:1", layoutFiles([layoutOf(repeating)]))
        return yield* save("first:1", "second:1", "r.example/repeating:1", "first:1")
      }).pipe(Effect.provide(layer))
      const files = filesIn(archive)
      for (const image of [first, second, repeating]) expectImage(files, image)
      const layers = new Set([first, second, repeating].flatMap((image) => image.diffIds)).size
      // Directories, oci-layout, index.json, manifest.json; then manifests, configs and layers.
      expect(files.size).toBe(2 + 3 + 3 + 3 + layers)
      const index = read(files, "index.json")
      expect(index.manifests.map((entry: { annotations: object }) => Object.values(entry.annotations)[1])).toEqual([
        "docker.io/library/first:1",
        "docker.io/library/second:1",
        "r.example/repeating:1"
      ])
      expect(problemsIn(directory)).toEqual([])
    })
  )

  it.live("loads into an empty home as the same images, and saving those gives the same archive", () =>
    Effect.gen(function* () {
      const one = yield* home()
      const two = yield* home()
      const file = path.join(one.directory, "saved.tar")
      const archive = yield* Effect.gen(function* () {
        yield* loadFrom(one.directory, "first:1", layoutFiles([layoutOf(first)]))
        return yield* save("first:1")
      }).pipe(Effect.provide(one.layer))
      fs.writeFileSync(file, archive)
      yield* Effect.gen(function* () {
        yield* loadAll({ path: file })
        const { config, layers } = yield* ImageStore.use((store) => store.Inspect({ reference: "first:1" }))
        expect(config).toMatchObject({ env: ["A=b"], user: "1:2", workingDir: "/a" })
        expect(layers.map((layer) => layer.diffId as string)).toEqual([...first.diffIds])
        const again = yield* save("first:1")
        expect(again.equals(archive)).toBe(true)
      }).pipe(Effect.provide(two.layer))
      expect(problemsIn(two.directory)).toEqual([])
    })
  )

  it.live("comes whole when the image is removed by force meanwhile, and then its files go", () =>
    Effect.gen(function* () {
      const { directory, layer } = yield* home()
      yield* Effect.gen(function* () {
        yield* loadFrom(directory, "first:1", layoutFiles([layoutOf(first)]))
        const store = yield* ImageStore
        const pieces: Array<Uint8Array> = []
        yield* Stream.runForEach(store.Save({ references: ["first:1"] }), (piece) => {
          pieces.push(piece)
          return pieces.length > 1 ? Effect.void : Effect.asVoid(store.Remove({ reference: "first:1", force: true }))
        })
        expectImage(filesIn(Buffer.concat(pieces)), first)
        expect(yield* store.List()).toEqual([])
        yield* store.Prune({})
        expect((yield* store.Usage()).layers.count).toBe(0)
      }).pipe(Effect.provide(layer))
      expect(problemsIn(directory)).toEqual([])
    })
  )

  it.live("keeps annotations, and names nothing where only a digest names the image", () =>
    Effect.gen(function* () {
      const { directory, layer } = yield* home()
      const image = imageOf([[]])
      const document = JSON.parse(Buffer.from(image.manifest.bytes).toString())
      const bytes = Buffer.from(JSON.stringify({ ...document, annotations: { made: "here" } }))
      const digest = `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`
      const manifest = { bytes, descriptor: { ...image.manifest.descriptor, digest, size: bytes.length } }
      const reference = `made@${digest}`
      const archive = yield* Effect.gen(function* () {
        yield* loadFrom(directory, reference, layoutFiles([{ top: manifest, blobs: image.blobs }]))
        return yield* save(reference)
      }).pipe(Effect.provide(layer))
      const files = filesIn(archive)
      const [entry] = read(files, "index.json").manifests
      expect(entry.annotations).toBeUndefined()
      expect(JSON.parse(blob(files, entry.digest)!.toString()).annotations).toEqual({ made: "here" })
    })
  )

  it.live("is refused with what to do when the cache can not give the bytes back, and never wrong", () =>
    Effect.gen(function* () {
      const { directory, layer } = yield* home()
      yield* Effect.gen(function* () {
        yield* loadFrom(directory, "first:1", layoutFiles([layoutOf(first)]))
        expect(yield* Effect.flip(save("nothing:1"))).toMatchObject({ _tag: "ImageNotFound" })
        const documents = path.join(directory, "cache/fsmeta", `${first.manifest.descriptor.digest.slice(7)}.json`)
        const kept = fs.readFileSync(documents)
        fs.rmSync(documents)
        const lost = yield* Effect.flip(save("first:1"))
        expect(lost).toMatchObject({ _tag: "ImageNotSavable", again: "pull" })
        expect(lost.message).toContain("run 'bunker pull first:1'")
        yield* loadFrom(directory, "first:1", layoutFiles([layoutOf(first)]))
        expect(fs.readFileSync(documents).equals(kept)).toBe(true)

        // A layer with a changed file, and one without a record, as an older build made it.
        const file = path.join(directory, "cache/layers", `${first.diffIds[2]!.slice(7)}.erofs`)
        const good = fs.readFileSync(file)
        const bad = Buffer.from(good)
        bad[4096] = bad[4096]! ^ 1
        fs.writeFileSync(file, bad)
        const damaged = yield* Effect.flip(save("first:1"))
        expect(damaged).toMatchObject({ _tag: "ImageNotSavable", again: "remove" })
        expect(damaged.message).toContain("run 'bunker image rm first:1', then 'bunker pull first:1'")
        fs.writeFileSync(file, withoutNote(good))
        const old = yield* Effect.flip(save("first:1"))
        expect(old.message).toContain("without a record of its tar; run 'bunker image rm first:1'")
        fs.writeFileSync(file, good)
        expectImage(filesIn(yield* save("first:1")), first)
      }).pipe(Effect.provide(layer))
    })
  )
})

describe.skipIf(!hasRegistryTools)("a saved archive among other tools", () => {
  it.live(
    "goes by skopeo into a registry and comes back with the same config and diff ids; skopeo and umoci accept it",
    () =>
      Effect.gen(function* () {
        const registry = yield* startRegistry()
        yield* registry.push("t/first:1", layoutOf(first))
        const { directory, layer } = yield* home()
        const file = path.join(directory, "saved.tar")
        yield* Effect.gen(function* () {
          yield* pullAll({ reference: `${registry.host}/t/first:1`, policy: "always" })
          fs.writeFileSync(file, yield* save(`${registry.host}/t/first:1`))
          const copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
          for (const [kind, name] of [
            ["oci-archive", "oci"],
            ["docker-archive", "docker"]
          ]) {
            const back = `${registry.host}/t/${name}:1`
            yield* run([...copy, `${kind}:${file}`, `docker://${back}`])
            yield* pullAll({ reference: back, policy: "always" })
            const { layers } = yield* ImageStore.use((store) => store.Inspect({ reference: back }))
            expect(layers.map((each) => each.diffId as string)).toEqual([...first.diffIds])
          }
          const raw = yield* run([
            "skopeo",
            "inspect",
            "--raw",
            "--tls-verify=false",
            `docker://${registry.host}/t/oci:1`
          ])
          expect(JSON.parse(raw).config.digest).toBe(first.config.descriptor.digest)
          expect(JSON.parse(yield* run(["skopeo", "inspect", `oci-archive:${file}`])).Layers).toEqual([
            ...first.diffIds
          ])
          const layout = path.join(directory, "layout")
          fs.mkdirSync(layout)
          yield* run(["tar", "-C", layout, "-xf", file])
          if (Bun.which("umoci") !== null) {
            const tags = yield* run(["umoci", "ls", "--layout", layout])
            expect(tags.trim()).toBe(`${registry.host}/t/first:1`)
          }
        }).pipe(Effect.provide(layer))
        expect(problemsIn(directory)).toEqual([])
      }),
    60_000
  )
})
