import { describe, expect, test } from "bun:test"
import fs from "node:fs/promises"
import path from "node:path"
import { Effect, Stream } from "effect"
import { mediaTypes } from "../../../src/domain/image/descriptor.ts"
import { defaultPlatform } from "../../../src/domain/image/platform.ts"
import { openArchive } from "../../../src/oci/archive/archive.ts"
import type { ImageSource } from "../../../src/oci/manifest/source.ts"
import {
  archiveOf,
  directory,
  type Entry,
  file,
  hardlink,
  imageOf,
  indexOf,
  layoutFiles,
  savedFiles,
  symlink,
  type TestImage,
  tarOf,
  whiteout,
  writeFiles
} from "../../support/image.ts"
import { it } from "../../support/it.ts"
import { run, temporaryDirectory } from "../../support/registry.ts"
import { raw, tar } from "../../support/tar.ts"

const image = imageOf([
  [directory("etc"), file("etc/a", "one"), hardlink("etc/b", "etc/a")],
  [whiteout("etc/b"), symlink("c", "etc/a")]
])
const arm = imageOf([[file("arm", "arm")]], { platform: { os: "linux", architecture: "arm64" } })
const layout = layoutFiles([{ name: "app:1", top: image.manifest, blobs: image.blobs }])

const written = (name: string, bytes: Uint8Array | string) =>
  Effect.gen(function* () {
    const target = path.join(yield* temporaryDirectory("archive"), name)
    yield* Effect.promise(() => fs.writeFile(target, bytes))
    return target
  })
const layoutAt = (files: ReadonlyMap<string, Uint8Array>) =>
  Effect.gen(function* () {
    const root = path.join(yield* temporaryDirectory("layout"), "image")
    yield* Effect.promise(() => writeFiles(root, files))
    return root
  })

const expectImage = (source: ImageSource, expected: TestImage, stored: ReadonlyArray<Uint8Array>) =>
  Effect.gen(function* () {
    const resolved = yield* source.resolve(expected.platform)
    expect(resolved.configDigest).toBe(expected.config.descriptor.digest)
    expect(resolved.layers.map((layer) => layer.diffId)).toEqual([...expected.diffIds])
    for (const [i, layer] of resolved.layers.entries()) {
      const bytes = Buffer.concat(yield* Stream.runCollect(source.blob(layer)))
      expect(bytes.equals(Buffer.from(stored[i]!))).toBe(true)
    }
    return resolved
  })
const blobs = (of: TestImage) => of.layers.map((layer) => layer.bytes)
const refusal = (target: string) =>
  Effect.map(Effect.flip(Effect.scoped(openArchive(target))), (error) => `${error._tag}: ${error.message}`)

describe("an OCI layout", () => {
  it.live("is read from a directory", () =>
    Effect.gen(function* () {
      const { names, source } = yield* openArchive(yield* layoutAt(layout))
      expect(names).toEqual(["app:1"])
      const resolved = yield* expectImage(source(0), image, blobs(image))
      expect(resolved.manifestDigest).toBe(image.manifest.descriptor.digest)
    })
  )
  for (const [kind, pack] of [
    ["plain", (bytes: Buffer) => bytes],
    ["gzip", (bytes: Buffer) => Bun.gzipSync(new Uint8Array(bytes))],
    ["zstd", (bytes: Buffer) => Bun.zstdCompressSync(bytes)]
  ] as const) {
    it.live(`is read from a ${kind} archive, whatever its name`, () =>
      Effect.gen(function* () {
        const { names, source } = yield* openArchive(yield* written("download", pack(archiveOf(layout))))
        expect(names).toEqual(["app:1"])
        yield* expectImage(source(0), image, blobs(image))
      })
    )
  }
  it.live("holds several images by name", () =>
    Effect.gen(function* () {
      const files = layoutFiles([
        { name: "x", top: image.manifest, blobs: image.blobs },
        { name: "y", top: arm.manifest, blobs: arm.blobs }
      ])
      const { names, source } = yield* openArchive(yield* layoutAt(files))
      expect(names).toEqual(["image:x", "image:y"])
      yield* expectImage(source(0), image, blobs(image))
      yield* expectImage(source(1), arm, blobs(arm))
      expect(yield* Effect.flip(source(1).resolve(defaultPlatform))).toMatchObject({
        _tag: "PlatformNotFound",
        available: ["linux/arm64"]
      })
    })
  )
  it.live("of entries without names is one image for several platforms", () =>
    Effect.gen(function* () {
      const files = layoutFiles([
        { top: arm.manifest, platform: arm.platform, blobs: arm.blobs },
        { top: image.manifest, blobs: image.blobs }
      ])
      const { names, source } = yield* openArchive(yield* layoutAt(files))
      expect(names).toEqual([undefined])
      yield* expectImage(source(0), image, blobs(image))
      yield* expectImage(source(0), arm, blobs(arm))
    })
  )
  it.live("shows no control characters of names and platforms", () =>
    Effect.gen(function* () {
      const odd = imageOf([[]], { platform: { os: "linux", architecture: "\u001b[31m" } })
      const files = layoutFiles([{ name: "\u001b]0;x\u0007", top: odd.manifest, blobs: odd.blobs }])
      const { source } = yield* openArchive(yield* layoutAt(files))
      const error = yield* Effect.flip(source(0).resolve(defaultPlatform))
      expect(error._tag).toBe("PlatformNotFound")
      expect(error.message).not.toContain("\u001b")
    })
  )
  it.live("may hold an index under a name", () =>
    Effect.gen(function* () {
      const top = indexOf([
        { blob: arm.manifest, platform: arm.platform },
        { blob: image.manifest, platform: defaultPlatform }
      ])
      const files = layoutFiles([{ name: "multi", top, blobs: [...image.blobs, ...arm.blobs] }])
      const { source } = yield* openArchive(yield* layoutAt(files))
      yield* expectImage(source(0), image, blobs(image))
      yield* expectImage(source(0), arm, blobs(arm))
    })
  )
  it.live("with wrong bytes, a missing blob or a cut blob says so", () =>
    Effect.gen(function* () {
      const { digest } = image.layers[0]!.descriptor
      const name = `blobs/sha256/${digest.slice(7)}`
      for (const [change, tag] of [
        [(bytes: Uint8Array) => bytes.map((byte, i) => (i === 20 ? byte ^ 1 : byte)), "DigestMismatch"],
        [(bytes: Uint8Array) => bytes.subarray(1), "DigestMismatch"],
        [(bytes: Uint8Array) => Buffer.concat([bytes, bytes]), "DigestMismatch"],
        [() => undefined, "ArchiveInvalid"]
      ] as const) {
        const files = new Map(layout)
        const bytes = change(files.get(name)!)
        if (bytes === undefined) files.delete(name)
        else files.set(name, bytes)
        const { source } = yield* openArchive(yield* layoutAt(files))
        const layer = (yield* source(0).resolve(defaultPlatform)).layers[0]!
        expect((yield* Effect.flip(Stream.runDrain(source(0).blob(layer))))._tag).toBe(tag)
      }
    })
  )
  it.live("is not left through a link or a digest that is a path", () =>
    Effect.gen(function* () {
      const outside = yield* written("secret", "secret")
      const root = yield* layoutAt(layout)
      const blob = path.join(root, "blobs/sha256", image.config.descriptor.digest.slice(7))
      yield* Effect.promise(() => fs.rm(blob).then(() => fs.symlink(outside, blob)))
      const { source } = yield* openArchive(root)
      expect((yield* Effect.flip(source(0).resolve(defaultPlatform))).message).toContain("leads outside")
      const layer = {
        mediaType: mediaTypes.ociLayer,
        digest: "sha256:../../../../etc/passwd",
        sizeBytes: 1,
        diffId: undefined
      }
      expect((yield* Effect.flip(Stream.runDrain(source(0).blob(layer))))._tag).toBe("ArchiveInvalid")
    })
  )
  it.live("may keep its blobs behind links inside itself", () =>
    Effect.gen(function* () {
      const root = yield* layoutAt(layout)
      const blob = path.join(root, "blobs/sha256", image.config.descriptor.digest.slice(7))
      yield* Effect.promise(() =>
        fs.rename(blob, path.join(root, "elsewhere")).then(() => fs.symlink("../../elsewhere", blob))
      )
      yield* expectImage((yield* openArchive(root)).source(0), image, blobs(image))
    })
  )
  it.live("with a fifo in place of its index does not hang", () =>
    Effect.gen(function* () {
      const root = yield* temporaryDirectory("fifo")
      yield* run(["mkfifo", path.join(root, "index.json")])
      expect(yield* refusal(root)).toContain("neither an index.json")
    })
  )
})

describe("a docker save archive", () => {
  const saved = savedFiles(image, ["app:1", "app:latest"])
  it.live("gives each tag; layers are plain tars named by their own digest", () =>
    Effect.gen(function* () {
      const { names, source } = yield* openArchive(yield* written("image.tar", archiveOf(saved)))
      expect(names).toEqual(["app:1", "app:latest"])
      const first = yield* expectImage(source(0), image, image.tars)
      const second = yield* expectImage(source(1), image, image.tars)
      expect(first.layers.map((layer) => [layer.mediaType, layer.digest])).toEqual(
        image.diffIds.map((id) => [mediaTypes.dockerLayer, id])
      )
      expect(second.manifestDigest).toBe(first.manifestDigest)
      expect(yield* Effect.flip(source(0).resolve(arm.platform))).toMatchObject({
        _tag: "PlatformNotFound",
        available: ["linux/amd64"]
      })
    })
  )
  it.live("may be compressed and may hold compressed layers", () =>
    Effect.gen(function* () {
      const files = new Map(
        [...saved].map(
          ([name, bytes]) => [name, name.endsWith("layer.tar") ? Bun.gzipSync(new Uint8Array(bytes)) : bytes] as const
        )
      )
      const stored = image.tars.map((tar) => Bun.gzipSync(new Uint8Array(tar)))
      const { source } = yield* openArchive(yield* written("image.tgz", Bun.gzipSync(new Uint8Array(archiveOf(files)))))
      const resolved = yield* expectImage(source(0), image, stored)
      expect(resolved.layers[0]?.mediaType).toBe(mediaTypes.dockerLayerGzip)
    })
  )
  it.live("may link one layer to another, and not out of itself", () =>
    Effect.gen(function* () {
      const twice = imageOf([[file("a", "one")], [file("a", "one")]])
      const files = new Map(savedFiles(twice, []))
      const [first, second] = [...files.keys()].filter((name) => name.endsWith("layer.tar"))
      const entries = (link: string): ReadonlyArray<Entry> =>
        [...files].map(([name, bytes]) => (name === second ? symlink(name, link) : file(name, bytes)))
      const good = yield* openArchive(yield* written("a.tar", tarOf(entries(`../${first}`))))
      expect(good.names).toEqual([undefined])
      yield* expectImage(good.source(0), twice, twice.tars)
      for (const link of ["../../../../etc/passwd", "/etc/passwd", "layer.tar"]) {
        const bad = yield* openArchive(yield* written("b.tar", tarOf(entries(link))))
        expect((yield* Effect.flip(bad.source(0).resolve(defaultPlatform)))._tag).toBe("ArchiveInvalid")
      }
    })
  )
  it.live("unpacked into a directory is read, too, and its names do not climb", () =>
    Effect.gen(function* () {
      const root = yield* layoutAt(saved)
      yield* expectImage((yield* openArchive(root)).source(0), image, image.tars)
      for (const name of ["../image/manifest.json", "/etc/passwd", "a\0b", "", "./manifest.json"]) {
        const manifest = JSON.stringify([{ Config: name, RepoTags: [], Layers: [] }])
        yield* Effect.promise(() => fs.writeFile(path.join(root, "manifest.json"), manifest))
        const error = yield* Effect.flip((yield* openArchive(root)).source(0).resolve(defaultPlatform))
        expect(error.message).toContain("is not a name inside")
      }
    })
  )
  it.live("written by skopeo is read, and names its tag", () =>
    Effect.gen(function* () {
      if (Bun.which("skopeo") === null) return console.log("skopeo is not installed: skipped")
      const root = yield* layoutAt(layout)
      const target = path.join(path.dirname(root), "saved.tar")
      yield* run([
        "skopeo",
        "--insecure-policy",
        "copy",
        "--quiet",
        `oci:${root}:app:1`,
        `docker-archive:${target}:team/app:7`
      ])
      const { names, source } = yield* openArchive(target)
      expect(names).toEqual(["docker.io/team/app:7"])
      yield* expectImage(source(0), image, image.tars)
    })
  )
  it.live("and an OCI archive written by skopeo and umoci are read", () =>
    Effect.gen(function* () {
      if (Bun.which("skopeo") === null || Bun.which("umoci") === null)
        return console.log("skopeo or umoci is not installed: skipped")
      const root = yield* layoutAt(layout)
      const target = path.join(path.dirname(root), "oci.tar")
      yield* run(["skopeo", "--insecure-policy", "copy", "--quiet", `oci:${root}:app:1`, `oci-archive:${target}:there`])
      const archive = yield* openArchive(target)
      expect(archive.names).toEqual(["there"])
      yield* expectImage(archive.source(0), image, blobs(image))
      yield* run(["umoci", "tag", "--image", `${root}:app:1`, "again"])
      expect((yield* openArchive(root)).names).toContain("image:again")
    })
  )
  it.live("a bare name in a directory is a tag of what the directory is called", () =>
    Effect.gen(function* () {
      const files = layoutFiles(
        ["12", "team/app", undefined].map((name) => ({
          ...(name === undefined ? {} : { name }),
          top: image.manifest,
          blobs: image.blobs
        }))
      )
      const root = yield* layoutAt(files)
      const again = path.join(path.dirname(root), "No Name")
      yield* Effect.promise(() => fs.symlink(root, `${root}-link`))
      for (const place of [root, `${root}/`, `${root}-link`]) {
        const { count, names } = yield* openArchive(place)
        expect([count, names]).toEqual([1, ["image:12", "team/app", undefined]])
      }
      yield* Effect.promise(() => fs.rename(root, again))
      expect((yield* openArchive(again)).names).toEqual(["12", "team/app", undefined])
      expect((yield* openArchive(yield* written("debian.tar", archiveOf(files)))).names).toEqual([
        "12",
        "team/app",
        undefined
      ])
    })
  )
  it.live("that names what is not there says so", () =>
    Effect.gen(function* () {
      const files = new Map(saved)
      files.delete([...files.keys()].find((name) => name.endsWith("layer.tar"))!)
      const { source } = yield* openArchive(yield* written("a.tar", archiveOf(files)))
      expect((yield* Effect.flip(source(0).resolve(defaultPlatform))).message).toContain("is missing")
    })
  )
})

describe("what is no archive", () => {
  const whole = archiveOf(layout)
  const broken: ReadonlyArray<readonly [what: string, bytes: Uint8Array | string, reason: RegExp]> = [
    ["an empty file", "", /it is empty/],
    ["a web page", "<!DOCTYPE html><title>Sign in</title>" + " ".repeat(2_000), /HTML/],
    ["a text", "hello ".repeat(500), /not a tar archive/],
    ["a short text", "hello", /too short/],
    ["zeros only", new Uint8Array(10_240), /neither an index\.json/],
    ["a tar of other things", tarOf([file("etc/passwd", "x")]), /neither an index\.json.*nor a manifest\.json/],
    [
      "an archive with a pax record that has no length",
      tar(raw({ name: "PaxHeader", flag: "x", data: Buffer.from("6 a=b\nx=y") }), raw({ name: "a" })),
      /pax header is damaged/
    ],
    ["an archive cut in an entry", whole.subarray(0, 520), /cut off/],
    ["an archive cut in a header", whole.subarray(0, 1024 + 100), /cut off/],
    [
      "an archive with a damaged header",
      whole.map((byte, i) => (i === 1024 ? byte ^ 1 : byte)),
      /header at byte 1024 is damaged/
    ],
    ["a cut gzip archive", Bun.gzipSync(new Uint8Array(whole)).subarray(0, 300), /gzip compression is damaged/],
    [
      "a damaged gzip archive",
      Bun.gzipSync(new Uint8Array(whole)).map((byte, i) => (i > 40 && i < 60 ? 0xff : byte)),
      /gzip compression is damaged/
    ],
    ["a gzip bomb", Bun.gzipSync(new Uint8Array(40 * 1024 * 1024)), /grows to more than/],
    ["a gzip of a web page", Bun.gzipSync(Buffer.from("<html>" + " ".repeat(999))), /HTML/],
    [
      "an index of no image",
      archiveOf(new Map([["index.json", Buffer.from('{"schemaVersion":2,"manifests":[]}')]])),
      /names no image/
    ],
    ["an index that is a page", archiveOf(new Map([["index.json", Buffer.from("<html>")]])), /HTML/],
    [
      "a manifest.json of another shape",
      archiveOf(new Map([["manifest.json", Buffer.from('{"Config":1}')]])),
      /manifest\.json of .* is not valid/
    ],
    ["a manifest.json of no image", archiveOf(new Map([["manifest.json", Buffer.from("[]")]])), /names no image/],
    [
      "names that climb",
      tarOf([file("../index.json", "{}"), file("a/../../index.json", "{}")]),
      /neither an index\.json/
    ],
    ["a link to itself", tarOf([symlink("index.json", "index.json")]), /neither an index\.json/],
    ["too many entries", tarOf(Array.from({ length: 20_001 }, (_, i) => file(`f${i}`, ""))), /more than 20000 entries/]
  ]
  for (const [what, bytes, reason] of broken) {
    it.live(`${what} is refused with its reason`, () =>
      Effect.gen(function* () {
        expect(yield* refusal(yield* written("x", bytes))).toMatch(reason)
      })
    )
  }
  it.live("a path that is not there, or no file", () =>
    Effect.gen(function* () {
      expect(yield* refusal("/nowhere/at/all.tar")).toContain("there is no such file")
      expect(yield* refusal("/dev/null")).toContain("neither a file nor a directory")
    })
  )
  it.live("leaves no spooled file behind, read or refused", () =>
    Effect.gen(function* () {
      const spoolDirectory = yield* temporaryDirectory("spool")
      const good = yield* written("a", Bun.gzipSync(new Uint8Array(whole)))
      const bad = yield* written("b", Bun.gzipSync(new Uint8Array(whole)).subarray(0, 300))
      yield* Effect.scoped(openArchive(good, { spoolDirectory }))
      yield* Effect.exit(Effect.scoped(openArchive(bad, { spoolDirectory })))
      expect(yield* Effect.promise(() => fs.readdir(spoolDirectory))).toEqual([])
    })
  )
  it.live("any damage of a good archive is an answer, not a crash", () =>
    Effect.gen(function* () {
      const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000)
      console.log(`seed ${seed}`)
      let state = seed + 1
      const next = (below: number) => ((state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) >>> 8) % below
      for (let i = 0; i < 150; i++) {
        const bytes = Buffer.from(i % 2 === 0 ? whole : archiveOf(savedFiles(image, ["a:1"])))
        for (let n = next(4); n >= 0; n--) bytes[next(bytes.length)] = next(256)
        const target = yield* written("x", bytes.subarray(0, i % 3 === 0 ? next(bytes.length) : bytes.length))
        const read = Effect.gen(function* () {
          const { source, names } = yield* openArchive(target)
          for (const number of names.keys()) {
            for (const layer of (yield* source(number).resolve(defaultPlatform)).layers)
              yield* Stream.runDrain(source(number).blob(layer))
          }
        })
        yield* read.pipe(Effect.scoped, Effect.ignore)
      }
    })
  )
})

test("the tar writer of the tests agrees with GNU tar", async () => {
  const long = `${"d/".repeat(80)}name`
  const list = Bun.spawnSync(["tar", "-tf", "-"], {
    stdin: tarOf([directory("a"), file(long, "x"), symlink("s", long), hardlink("h", "a")])
  })
  expect(list.stdout.toString().trim().split("\n")).toEqual(["a/", long, "s", "h"])
})

describe("a compressed archive on a full disk", () => {
  it.live("is a full disk, not a damaged archive", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory("full")
      const archive = path.join(directory, "a.tar.gz")
      yield* Effect.promise(() => Bun.write(archive, Bun.gzipSync(new Uint8Array(4 * 1024 * 1024))))
      const room = path.join(directory, "room")
      yield* Effect.promise(() => fs.mkdir(room))
      const mounted = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=64k", "full", room]).exitCode === 0
      if (!mounted) return console.warn("skipped: a full disk needs root to mount a tmpfs")
      const error = yield* Effect.ensuring(
        Effect.flip(openArchive(archive, { spoolDirectory: room })),
        Effect.sync(() => Bun.spawnSync(["umount", "-l", room]))
      )
      expect(error).toMatchObject({ _tag: "DiskFull", path: room })
    })
  )
})
