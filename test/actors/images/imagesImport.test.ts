/** Root file systems become images, with all that tar and kernel know of their files. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Stream } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { directoryTar } from "../../../src/oci/archive/rootfs.ts"
import { TarReader } from "../../../src/oci/tar/reader.ts"
import { portableXattrs } from "../../../src/store/files/xattrs.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { file, symlink, tarOf } from "../../support/image.ts"
import { imageStoreOver, problemsIn } from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { setXattr } from "../../support/mount.ts"
import { run } from "../../support/registry.ts"

const importAll = (request: {
  readonly path: string
  readonly reference: string
  readonly changes?: ReadonlyArray<string>
  readonly platform?: { readonly os: string; readonly architecture: string }
}) => ImageStore.use((store) => Effect.map(Stream.runCollect(store.Import(request)), (events) => events.at(-1)!))
const inspect = (reference: string) => ImageStore.use((store) => store.Inspect({ reference }))

const setup = Effect.gen(function* () {
  const directory = yield* temporaryDirectory
  return { directory, layer: imageStoreOver(homeAt(path.join(directory, "h"))) }
})

/** A tree with every type that this user can make. */
const makeTree = (root: string): void => {
  const at = (...parts: ReadonlyArray<string>) => path.join(root, ...parts)
  fs.mkdirSync(at("bin"), { recursive: true })
  fs.mkdirSync(at("deep", "x".repeat(120)), { recursive: true })
  fs.writeFileSync(at("bin", "sh"), "#!", { mode: 0o755 })
  fs.linkSync(at("bin", "sh"), at("bin", "bash"))
  fs.writeFileSync(at("deep", "x".repeat(120), "big"), Buffer.alloc(1_300_000, 7))
  fs.symlinkSync("bin/sh", at("link"))
  fs.symlinkSync("y".repeat(150), at("dangling"))
  fs.writeFileSync(Buffer.concat([Buffer.from(`${root}/caf`), Buffer.from([0xe9, 0x0a])]), "latin")
  fs.writeFileSync(at("empty"), "")
  fs.utimesSync(at("empty"), 0, 1_700_000_000.25)
  Bun.spawnSync(["mkfifo", at("pipe")])
  fs.chmodSync(at("bin"), 0o1775)
  if (process.getuid?.() === 0) {
    Bun.spawnSync(["mknod", at("null"), "c", "1", "3"])
    Bun.spawnSync(["mknod", at("disk"), "b", "259", "70000"])
    fs.lchownSync(at("link"), 3_000_000, 5)
  }
}

describe("a root file system", () => {
  it.live("from a directory is the tree that tar sees, and the same image every time", () =>
    Effect.gen(function* () {
      const { directory, layer } = yield* setup
      const root = path.join(directory, "root")
      makeTree(root)
      // GNU tar unpacks our tar to the same tree.
      const [ours, copy] = [path.join(directory, "ours.tar"), path.join(directory, "copy")]
      fs.writeFileSync(ours, Buffer.concat([...directoryTar(root)]))
      fs.mkdirSync(copy)
      yield* run(["tar", "-C", copy, "--same-owner", "--numeric-owner", "-xpf", ours])
      const listing = (place: string) =>
        run([
          "sh",
          "-c",
          `cd ${place} && find . -printf '%p %y %m %U %G %s %T@ %n %l\\n' | sort && stat -c '%n %t:%T' * && cat deep/*/big | sha256sum`
        ])
      const sizeless = (text: string) => text.replace(/ d (\d+ \d+ \d+) \d+ /g, " d $1 - ")
      expect(sizeless(yield* listing(copy))).toBe(sizeless(yield* listing(root)))

      yield* Effect.gen(function* () {
        const request = { path: root, changes: ['CMD ["sh"]', "ENV A=b", "USER 1:2", "WORKDIR /bin"] }
        const one = yield* importAll({ ...request, reference: "mine:1" })
        const two = yield* importAll({ ...request, reference: "mine:2" })
        expect(one).toMatchObject({ _tag: "Done", image: { reference: "docker.io/library/mine:1", layerCount: 1 } })
        expect((yield* inspect("mine:2")).image.manifestDigest).toBe((yield* inspect("mine:1")).image.manifestDigest)
        expect(two._tag).toBe("Done")
        const { config, layers } = yield* inspect("mine:1")
        expect(config).toMatchObject({ cmd: ["sh"], env: ["A=b"], user: "1:2", workingDir: "/bin" })
        const digest = `sha256:${new Bun.CryptoHasher("sha256").update(fs.readFileSync(ours)).digest("hex")}`
        expect(layers[0]!.diffId as string).toBe(digest)
      }).pipe(Effect.provide(layer))
      expect(problemsIn(path.join(directory, "h"))).toEqual([])
    })
  )

  for (const [name, pack] of [
    ["plain", (bytes: Buffer): Uint8Array => bytes],
    ["gzip", (bytes: Buffer): Uint8Array => Bun.gzipSync(new Uint8Array(bytes))],
    ["zstd", (bytes: Buffer): Uint8Array => Bun.zstdCompressSync(bytes)]
  ] as const) {
    it.live(`from a ${name} tar keeps its diff id, and may be for another CPU`, () =>
      Effect.gen(function* () {
        const { directory, layer } = yield* setup
        const bytes = tarOf([file("a", "a"), symlink("b", "a")])
        const place = path.join(directory, "root.tar")
        fs.writeFileSync(place, pack(bytes))
        yield* Effect.gen(function* () {
          const platform = { os: "linux", architecture: "arm64" }
          yield* importAll({ path: place, reference: "r.example/x:1", platform })
          const { image, layers } = yield* inspect("r.example/x:1")
          expect(image.architecture).toBe("arm64")
          const digest = `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`
          expect(layers[0]!.diffId as string).toBe(digest)
        }).pipe(Effect.provide(layer))
      })
    )
  }

  it.live("keeps extended attributes of its files, and none of the host's own", () =>
    Effect.gen(function* () {
      const { directory } = yield* setup
      const root = path.join(directory, "root")
      fs.mkdirSync(root)
      fs.writeFileSync(path.join(root, "a"), "a")
      const note = Buffer.from([0, 1, 0x0a, 0xff])
      if (!setXattr(path.join(root, "a"), "user.note", note)) return console.log("skipped: no user xattrs here")
      const admin = process.getuid?.() === 0
      const capability = Buffer.from("0100000200040000000000000000000000000000", "hex")
      if (admin) {
        setXattr(path.join(root, "a"), "security.capability", capability)
        setXattr(path.join(root, "a"), "trusted.overlay.opaque", Buffer.from("y"))
        setXattr(path.join(root, "a"), "trusted.mine", Buffer.from("t"))
      }
      const seen: Array<unknown> = []
      const reader = new TarReader({
        raw: () => undefined,
        data: () => undefined,
        end: () => undefined,
        entry: ({ path: name, xattrs }) =>
          void seen.push([name, xattrs?.map((each) => [each.name, Buffer.from(each.value).toString("hex")])])
      })
      for (const piece of directoryTar(root, portableXattrs)) reader.push(piece)
      expect(seen).toEqual([
        ["./", undefined],
        [
          "a",
          [
            ...(admin
              ? [
                  ["security.capability", capability.toString("hex")],
                  ["trusted.mine", "74"]
                ]
              : []),
            ["user.note", note.toString("hex")]
          ]
        ]
      ])
    })
  )

  it.live("that is none is refused with the reason, and nothing is kept", () =>
    Effect.gen(function* () {
      const { directory, layer } = yield* setup
      const place = (name: string, bytes: string | Uint8Array) => {
        const where = path.join(directory, name)
        fs.writeFileSync(where, bytes)
        return where
      }
      const wrong: ReadonlyArray<readonly [string, string, string, ReadonlyArray<string>?]> = [
        [path.join(directory, "none"), "x:1", "RootfsInvalid"],
        [place("empty", ""), "x:1", "RootfsInvalid"],
        ["/dev/null", "x:1", "RootfsInvalid"],
        [place("page", "<html>".repeat(200)), "x:1", "LayerRejected"],
        [place("cut", Bun.gzipSync(new Uint8Array(5000)).subarray(0, 20)), "x:1", "RootfsInvalid"],
        [directory, "X:1", "InvalidReference"],
        [directory, `x@sha256:${"a".repeat(64)}`, "InvalidReference"],
        [directory, "x:1", "InvalidSpec", ["RUN x"]]
      ]
      yield* Effect.gen(function* () {
        for (const [where, reference, tag, changes = []] of wrong) {
          expect(yield* Effect.flip(importAll({ path: where, reference, changes }))).toMatchObject({ _tag: tag })
        }
        expect(yield* ImageStore.use((store) => store.List())).toEqual([])
      }).pipe(Effect.provide(layer))
      // Lock files of what is not there go with the next prune.
      const problems = problemsIn(path.join(directory, "h"))
      expect(problems.filter((problem) => !problem.startsWith("locks/"))).toEqual([])
    })
  )
})
