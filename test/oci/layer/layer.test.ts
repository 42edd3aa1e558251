/** Layers in, EROFS images or one typed error out; never a file left behind by a failure. */
import { describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import zlib from "node:zlib"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { type ConvertOptions, convertLayer } from "../../../src/oci/layer/layer.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { convert, sha256 } from "../../support/layers.ts"
import { fsck, have, listTree, mounted, mountMissing } from "../../support/mount.ts"
import { END, pax, type RawEntry, raw, sparse, tar } from "../../support/tar.ts"

const file = (name: string, text = "", rest: Partial<RawEntry> = {}) => raw({ name, data: Buffer.from(text), ...rest })
const dir = (name: string, rest: Partial<RawEntry> = {}) => raw({ name, flag: "5", mode: 0o755, ...rest })
const link = (name: string, to: string) => raw({ name, flag: "2", link: to, mode: 0o777 })
const hard = (name: string, to: string) => raw({ name, flag: "1", link: to })

const good = tar(dir("./"), dir("d"), file("d/f", "hello\n".repeat(2000), { mtime: 1_700_000_000 }), link("l", "d/f"))

/** Converts what must fail; answers the error and checks that nothing stays. */
const refused = Effect.fnUntraced(function* (
  bytes: Uint8Array,
  expected: Parameters<typeof convert>[2] = {},
  options: ConvertOptions = {}
) {
  const out = path.join(yield* temporaryDirectory, "layer.erofs")
  const error = yield* Effect.flip(convert(bytes, out, expected, options))
  expect(fs.existsSync(out)).toBe(false)
  return error
})

describe("a layer", () => {
  for (const [name, pack] of [
    ["plain", (b: Buffer) => b],
    ["gzip", (b: Buffer) => zlib.gzipSync(b)],
    [
      "gzip in two members",
      (b: Buffer) => Buffer.concat([zlib.gzipSync(b.subarray(0, 700)), zlib.gzipSync(b.subarray(700))])
    ],
    ["zstd", (b: Buffer) => zlib.zstdCompressSync(b)],
    [
      "zstd in frames",
      (b: Buffer) =>
        Buffer.concat([
          zlib.zstdCompressSync(b.subarray(0, 9)),
          Buffer.from("502a4d180200000061620a".slice(0, 20), "hex"),
          zlib.zstdCompressSync(b.subarray(9))
        ])
    ]
  ] as const) {
    it.live(`converts from ${name} to the same image, whatever the pieces`, () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const stored = pack(good)
        const images: Array<string> = []
        for (const cut of [[65_536], [1], [3, 1000]]) {
          const out = path.join(directory, `${images.length}`)
          const done = yield* convert(stored, out, { diffId: sha256(good), cut })
          expect(done).toMatchObject({
            diffId: sha256(good),
            blobDigest: sha256(stored),
            compressedBytes: stored.length
          })
          expect(done.erofsBytes).toBe(fs.statSync(out).size)
          expect(done.erofsBytes % 4096).toBe(0)
          images.push(sha256(fs.readFileSync(out)))
        }
        yield* convert(good, path.join(directory, "plain"))
        expect(new Set([...images, sha256(fs.readFileSync(path.join(directory, "plain")))]).size).toBe(1)
      })
    )
  }

  const damage: ReadonlyArray<readonly [what: string, bytes: Uint8Array, tag: string, text: RegExp]> = [
    ["a cut gzip stream", zlib.gzipSync(good).subarray(0, -6), "LayerRejected", /gzip stream is corrupt/],
    ["a damaged gzip stream", zlib.gzipSync(good).fill(0x55, 40, 60), "LayerRejected", /gzip stream is corrupt/],
    ["junk after gzip", Buffer.concat([zlib.gzipSync(good), Buffer.from("junk")]), "LayerRejected", /gzip/],
    [
      "zeros after gzip",
      Buffer.concat([zlib.gzipSync(good), Buffer.alloc(99)]),
      "LayerRejected",
      /after the end of the gzip/
    ],
    ["a cut zstd stream", zlib.zstdCompressSync(good).subarray(0, -3), "LayerRejected", /zstd/],
    [
      "junk after zstd",
      Buffer.concat([zlib.zstdCompressSync(good), Buffer.from("junk!")]),
      "LayerRejected",
      /after the end of the zstd/
    ],
    ["a cut tar", good.subarray(0, 2000), "LayerRejected", /middle of an entry/],
    ["a tar without its end mark and no diff id", good.subarray(0, good.length - 1024), "LayerRejected", /no end mark/],
    [
      "junk after half of its end mark",
      Buffer.concat([good.subarray(0, good.length - 512), Buffer.alloc(512, 1)]),
      "LayerRejected",
      /after the end/
    ],
    ["a web page", Buffer.from("<html>".repeat(200)), "LayerRejected", /tar header/],
    [
      "an entry whose type is what a terminal obeys",
      tar(raw({ name: "a", flag: "\x1b" })),
      "LayerRejected",
      /^[^\x1b]*unknown type "\\x1b"/
    ]
  ]
  for (const [what, bytes, tag, text] of damage) {
    it.live(`is refused with ${what}`, () =>
      Effect.gen(function* () {
        const error = yield* refused(bytes)
        expect(error._tag).toBe(tag as "LayerRejected")
        expect(error.message).toMatch(text)
      })
    )
  }

  it.live("is refused when digest, size or diff id is another one", () =>
    Effect.gen(function* () {
      const packed = zlib.gzipSync(good)
      const other = sha256(Buffer.from("other"))
      for (const expected of [
        { digest: other },
        { diffId: other },
        { sizeBytes: packed.length - 1 },
        { sizeBytes: packed.length + 1 }
      ]) {
        const error = yield* refused(packed, expected)
        expect(error._tag).toBe("DigestMismatch")
      }
    })
  )

  it.live("may lack the end mark, and the padding before it, when a diff id vouches for it", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const unpadded = tar(file("last", "tiny")).subarray(0, 512 + 4)
      for (const bytes of [good.subarray(0, good.length - 1024), unpadded]) {
        yield* convert(bytes, path.join(directory, "x"), { diffId: sha256(bytes) })
        expect((yield* refused(bytes)).message).toMatch(/no end mark/)
      }
    })
  )

  const hostile: ReadonlyArray<readonly [what: string, bytes: Buffer, text: RegExp]> = [
    ["`..` in a path", tar(file("a/../../etc/passwd")), /`\.\.` component/],
    ["`..` in a hard link", tar(file("a"), hard("b", "../a")), /`\.\.` component/],
    [
      "control characters in a hard link",
      tar(file(".wh.a\x1b[2J\u0015"), hard("b", "a\x1b[2J\u0015")),
      /"a\\x1b\[2J\\x15"/
    ],
    ["a hard link below an opaque directory", tar(dir("d"), file("d/.wh..wh..opq"), hard("b", "d/x")), /has removed/],
    ["a hard link below a file", tar(file("d"), hard("b", "d/x")), /has removed/],
    ["a hard link to a directory", tar(dir("a"), hard("b", "a")), /directory/],
    ["a hard link to a whiteout", tar(file(".wh.a"), hard("b", "a")), /has removed or replaced/],
    ["an entry below a file", tar(file("a"), file("a/b")), /not a directory/],
    ["a loop of symbolic links", tar(link("a", "b"), link("b", "a"), file("a/x")), /too many symbolic links/],
    ["a name of 256 bytes", tar(pax([["path", "n".repeat(256)]]), file("x")), /255/],
    ["a file as root", tar(file("./")), /root/],
    ["a whiteout without a name", tar(file("d/.wh.")), /whiteout/],
    ["a whiteout of `..`", tar(file("d/.wh...")), /whiteout/],
    ["an entry below a whiteout", tar(file(".wh.a/b")), /below a whiteout/],
    ["an empty symbolic link", tar(link("a", "")), /empty/],
    ["an owner past 32 bits", tar(pax([["uid", "4294967296"]]), file("a")), /owner/],
    ["a device number past Linux's", tar(raw({ name: "a", flag: "3", major: 4096 })), /device/],
    ["an xattr of 64 KiB", tar(pax([["SCHILY.xattr.user.a", Buffer.alloc(65_536)]]), file("a")), /xattr/],
    [
      "xattrs of 300 KiB",
      tar(pax([1, 2, 3, 4, 5].map((n) => [`SCHILY.xattr.user.${n}`, Buffer.alloc(60_000)] as const)), file("a")),
      /too many xattrs/
    ]
  ]
  for (const [what, bytes, text] of hostile) {
    it.live(`is refused with ${what}`, () =>
      Effect.gen(function* () {
        const error = yield* refused(bytes)
        expect(error._tag).toBe("LayerRejected")
        expect(error.message).toMatch(text)
      })
    )
  }

  it.live("is refused past each limit, naming it", () =>
    Effect.gen(function* () {
      const bomb = zlib.gzipSync(Buffer.alloc(4 << 20))
      const cases: ReadonlyArray<readonly [Uint8Array, ConvertOptions["limits"], RegExp]> = [
        [tar(file("a"), file("b"), file("c")), { entriesMax: 2 }, /more than 2 entries/],
        [tar(file("a/b/c/d")), { depthMax: 3 }, /deeper than 3/],
        [tar(link("s", "a/b/c/d"), file("s/x")), { depthMax: 3 }, /deeper than 3/],
        [tar(file("aaaa")), { pathBytesMax: 3 }, /more than 3 bytes/],
        [tar(file("a", "12345")), { fileBytesMax: 4 }, /more than 4 bytes/],
        [good, { bytesMax: 2000 }, /more than 2000 bytes/],
        [bomb, { ratioMax: 10, ratioFreeBytes: 1 << 20 }, /10 times its size/],
        [zlib.zstdCompressSync(Buffer.alloc(4 << 20)), { ratioMax: 10, ratioFreeBytes: 1 << 20 }, /10 times its size/],
        [tar(sparse({ name: "s" }, 2 ** 35, [], "1.0")), {}, /a file has more than 17179869184 bytes/]
      ]
      for (const [bytes, limits, text] of cases) {
        const error = yield* refused(bytes, {}, { limits: limits! })
        expect(error.message).toMatch(text)
      }
    })
  )

  it.live("leaves nothing when its source fails or the work is interrupted", () =>
    Effect.gen(function* () {
      const out = path.join(yield* temporaryDirectory, "x")
      const source = { mediaType: "", digest: sha256(good), sizeBytes: good.length, diffId: undefined }
      const cut = Stream.concat(Stream.make(good.subarray(0, 3000)), Stream.fail("cut" as const))
      expect(yield* Effect.flip(convertLayer({ ...source, bytes: cut }, out))).toBe("cut")
      expect(fs.existsSync(out)).toBe(false)
      const began = yield* Deferred.make<void>()
      const stuck = Stream.concat(Stream.make(good.subarray(0, 3000)), Stream.never)
      const options = { onBytes: () => Deferred.doneUnsafe(began, Effect.void) }
      const fiber = yield* Effect.forkChild(convertLayer({ ...source, bytes: stuck }, out, options))
      yield* Deferred.await(began)
      expect(fs.existsSync(out)).toBe(true)
      yield* Fiber.interrupt(fiber)
      expect(fs.existsSync(out)).toBe(false)
    })
  )

  it.live("says DiskFull on a full disk and StoreFailed where it can not write", () =>
    Effect.gen(function* () {
      const full = path.join(yield* temporaryDirectory, "full")
      fs.symlinkSync("/dev/full", full)
      expect((yield* Effect.flip(convert(good, full)))._tag).toBe("DiskFull")
      expect(fs.existsSync("/dev/full")).toBe(true)
      const error = yield* Effect.flip(convert(good, path.join(yield* temporaryDirectory, "no", "such")))
      expect(error._tag).toBe("StoreFailed")
    })
  )

  if (mountMissing !== undefined) test.skip(`mounts: ${mountMissing}`, () => {})
  else
    it.live("follows links inside its own tree, turns whiteouts into overlayfs's, and lets later entries win", () =>
      Effect.gen(function* () {
        const out = path.join(yield* temporaryDirectory, "x")
        const bytes = tar(
          dir("usr/lib", { mode: 0o711 }),
          link("lib", "/../usr/lib"),
          file("lib/a", "in usr"),
          hard("h", "lib/a"),
          file("/abs//./x", "x"),
          file("twice", "1", { uid: 9 }),
          file("twice", "22"),
          dir("was"),
          file("was/child"),
          file("was", "file now"),
          file("gone/.wh.old"),
          dir("opaque"),
          file("opaque/.wh..wh..opq"),
          file(".wh.renewed"),
          dir("renewed"),
          file("kept", "kept"),
          file(".wh.kept"),
          file(".wh..wh.plnk/1.2"),
          file("was/.wh.child"),
          file("lib/.wh.gone"),
          pax([
            ["SCHILY.xattr.trusted.overlay.redirect", "/etc"],
            ["SCHILY.xattr.com.apple.x", "1"],
            ["SCHILY.xattr.user.a", "b"]
          ]),
          file("x")
        )
        yield* convert(bytes, out)
        if (have("fsck.erofs")) fsck(out)
        const tree = mounted(out, [], listTree)
        expect([...tree.keys()].join(" ")).toBe(
          "/ /abs /abs/x /gone /gone/old /h /kept /lib /opaque /renewed /twice /usr /usr/lib /usr/lib/a /was /x"
        )
        expect(tree.get("/h")).toMatchObject({ nlink: 2, first: "/h" })
        expect(tree.get("/usr/lib/a")!.first).toBe("/h")
        expect(tree.get("/usr/lib")!.mode).toBe("40711")
        expect(tree.get("/twice")).toMatchObject({ size: 2, owner: "0:0" })
        expect(tree.get("/was")!.mode).toBe("100644")
        expect(tree.get("/gone/old")).toMatchObject({ mode: "20000", device: "0:0" })
        expect(tree.get("/opaque")!.xattrs).toEqual({ "trusted.overlay.opaque": "79" })
        expect(tree.get("/renewed")!.xattrs).toEqual({ "trusted.overlay.opaque": "79" })
        expect(tree.get("/x")!.xattrs).toEqual({ "user.a": Buffer.from("b").toString("hex") })
      })
    )

  it.live("of nothing is an empty root", () =>
    Effect.gen(function* () {
      const out = path.join(yield* temporaryDirectory, "x")
      yield* convert(END, out)
      if (have("fsck.erofs")) fsck(out)
    })
  )
})
