/** Merged layers: what overlayfs would show, in every form in which the result can be mounted. */
import { describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { buildFsmeta } from "../../../src/oci/erofs/fsmeta.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { concatenate, convertAll, sha256 } from "../../support/layers.ts"
import { generator, Model } from "../../support/model.ts"
import { fsck, have, type Listed, listTree, mounted, mountMissing } from "../../support/mount.ts"
import { pax, type RawEntry, raw, tar } from "../../support/tar.ts"

const file = (name: string, text = "", rest: Partial<RawEntry> = {}) => raw({ name, data: Buffer.from(text), ...rest })
const dir = (name: string, rest: Partial<RawEntry> = {}) => raw({ name, flag: "5", mode: 0o755, ...rest })
const link = (name: string, to: string) => raw({ name, flag: "2", link: to, mode: 0o777 })
const hard = (name: string, to: string) => raw({ name, flag: "1", link: to })

/** Merges tars; answers the merged image and the disk of it and its layers. */
const merge = Effect.fnUntraced(function* (
  tars: ReadonlyArray<Buffer>,
  order: ReadonlyArray<number> = tars.map((_, i) => i)
) {
  const directory = yield* temporaryDirectory
  const layers = yield* convertAll(directory, tars)
  const out = path.join(directory, "fsmeta.erofs")
  const built = yield* buildFsmeta(
    order.map((i) => layers[i]!.path),
    out
  )
  const devices = built.extents.slice(1).map((extent) => extent.path)
  expect(built.extents[0]).toEqual({ path: out, bytes: fs.statSync(out).size })
  for (const extent of built.extents) expect(extent.bytes).toBe(fs.statSync(extent.path).size)
  if (have("fsck.erofs")) fsck(out, devices)
  const disk = concatenate([out, ...devices], path.join(directory, "disk"))
  return { directory, out, devices, disk, built }
})

/** The tree of the merged tars as one disk. */
const shown = (tars: ReadonlyArray<Buffer>, order?: ReadonlyArray<number>) =>
  Effect.map(merge(tars, order), ({ disk }) => mounted(disk, [], listTree))
const names = (tree: Map<string, Listed>): string => [...tree.keys()].join(" ")

describe("a merged image", () => {
  if (mountMissing !== undefined) {
    test.skip(`mounts: ${mountMissing}`, () => {})
    return
  }

  it.live("hides, replaces and merges as overlayfs does, and shows no mark of it", () =>
    Effect.gen(function* () {
      const tree = yield* shown([
        tar(
          dir("d", { uid: 1 }),
          file("d/a", "1"),
          file("d/b", "1"),
          dir("o"),
          file("o/x"),
          dir("t"),
          file("t/y"),
          file("f"),
          dir("r"),
          file("r/z")
        ),
        tar(
          file("d/.wh.a"),
          dir("o", { mode: 0o700 }),
          file("o/.wh..wh..opq"),
          file("o/new"),
          file("t", "file"),
          dir("f"),
          file("f/in"),
          file(".wh.r"),
          dir("r"),
          file(".wh.never")
        ),
        tar(dir("d", { uid: 2 }), file("d/c", "3"))
      ])
      expect(names(tree)).toBe("/ /d /d/b /d/c /f /f/in /o /o/new /r /t")
      expect(tree.get("/d")!.owner).toBe("2:0")
      for (const entry of tree.values()) expect(entry.xattrs).toEqual({})
    })
  )

  it.live("leaves a directory alone that an upper layer has only in paths", () =>
    Effect.gen(function* () {
      const tree = yield* shown([
        tar(
          dir("./", { mode: 0o711, uid: 3 }),
          dir("d", { mode: 0o1777, uid: 1, mtime: 9 }),
          file("d/old"),
          dir("e", { mode: 0o700 }),
          file("e/old")
        ),
        tar(file("d/x"), file("e/.wh..wh..opq"), file("e/new"), file("n/o/p"), file("gone/.wh.never"))
      ])
      expect(names(tree)).toBe("/ /d /d/old /d/x /e /e/new /n /n/o /n/o/p")
      expect(tree.get("/")).toMatchObject({ mode: "40711", owner: "3:0" })
      expect(tree.get("/d")).toMatchObject({ mode: "41777", owner: "1:0", mtime: "9000000000" })
      expect(tree.get("/e")!.mode).toBe("40700")
      expect(tree.get("/n/o")).toMatchObject({ mode: "40755", owner: "0:0", mtime: "0" })
    })
  )

  it.live("does not bring a directory back for whiteouts inside of it, in either order", () =>
    Effect.gen(function* () {
      const lower = tar(dir("d"), file("d/a"), dir("d/e"), file("d/e/b"))
      for (const upper of [
        tar(file("d/e/.wh.b"), file("d/.wh.a"), file(".wh.d")),
        tar(file(".wh.d"), file("d/e/.wh.b"), file("d/.wh.a"))
      ]) {
        expect(names(yield* shown([lower, upper]))).toBe("/")
      }
    })
  )

  it.live("leads a path through a lower layer's link to where the link leads", () =>
    Effect.gen(function* () {
      const lower = tar(
        dir("usr/lib"),
        file("usr/lib/a"),
        link("lib", "usr/lib"),
        link("dangling", "no/where"),
        link("up", "../../usr")
      )
      const tree = yield* shown([lower, tar(file("lib/b"), file("lib/.wh.a"), file("dangling/x"), file("up/y"))])
      expect(names(tree)).toBe("/ /dangling /dangling/x /lib /up /usr /usr/lib /usr/lib/b /usr/y")
      const replaced = yield* shown([lower, tar(dir("lib"), file("lib/b"))])
      expect(names(replaced)).toBe("/ /dangling /lib /lib/b /up /usr /usr/lib /usr/lib/a")
    })
  )

  it.live("counts the names of a hard link that are left", () =>
    Effect.gen(function* () {
      const tree = yield* shown([
        tar(file("a", "x"), hard("b", "a"), hard("c", "a"), dir("d"), hard("d/e", "b")),
        tar(file(".wh.b"), file("c", "other"))
      ])
      expect(tree.get("/a")).toMatchObject({ nlink: 2, first: "/a" })
      expect(tree.get("/d/e")).toMatchObject({ nlink: 2, first: "/a" })
      expect(tree.get("/c")).toMatchObject({ nlink: 1, first: "/c" })
    })
  )

  it.live("gives a hard link into lower layers the inode that they have there before the layer changes anything", () =>
    Effect.gen(function* () {
      const tree = yield* shown([
        tar(file("d/a", "old", { mode: 0o640 }), link("s", "a"), link("to-d", "d"), file("e/gone", "kept")),
        tar(
          hard("b", "d/a"),
          hard("c", "b"),
          hard("through", "to-d/a"),
          hard("s2", "s"),
          file("d/a", "new"),
          hard("e/still", "e/gone"),
          file("e/.wh.gone")
        ),
        tar(hard("again", "c"))
      ])
      const old = sha256(Buffer.from("old")).slice(7)
      for (const name of ["/b", "/c", "/through", "/again"]) {
        expect(tree.get(name)).toMatchObject({ nlink: 4, first: "/again", sha256: old })
      }
      expect(tree.get("/d/a")).toMatchObject({ nlink: 1, sha256: sha256(Buffer.from("new")).slice(7) })
      expect(tree.get("/s2")).toMatchObject({ nlink: 2, first: "/s" })
      expect(tree.get("/e/still")).toMatchObject({ nlink: 1, sha256: sha256(Buffer.from("kept")).slice(7) })
      expect(tree.has("/e/gone")).toBe(false)
    })
  )

  it.live("is refused for a hard link to what neither its layer nor those below have", () =>
    Effect.gen(function* () {
      for (const [tars, reason] of [
        [[tar(hard("b", "a"))], /hard link leads to "a", which neither.*at "b"/],
        [[tar(file("x")), tar(hard("d/later", "d/file"), file("d/file"))], /leads to "d\/file", which neither/],
        [[tar(dir("d")), tar(hard("b", "d"))], /leads to "d", a directory/],
        [[tar(file("a")), tar(file(".wh.a")), tar(hard("b", "a"))], /which neither/]
      ] as const) {
        expect((yield* Effect.flip(merge(tars))).message).toMatch(reason)
      }
    })
  )

  it.live("holds a layer once on the disk that it holds twice in the stack", () =>
    Effect.gen(function* () {
      const tars = [tar(file("a", "1"), file("b", "1")), tar(file(".wh.a"), file("b", "2"))]
      const { built, disk } = yield* merge(tars, [0, 1, 0])
      expect(built.extents.length).toBe(3)
      const tree = mounted(disk, [], listTree)
      expect(names(tree)).toBe("/ /a /b")
      expect(tree.get("/b")!.sha256).toBe(sha256(Buffer.from("1")).slice(7))
    })
  )

  it.live("of no layers is an empty root, of 256 still one disk", () =>
    Effect.gen(function* () {
      expect(names(yield* shown([]))).toBe("/")
      const tree = yield* shown(Array.from({ length: 256 }, (_, i) => tar(file(`f${i}`, `${i}`))))
      expect(tree.size).toBe(257)
      expect(tree.get("/f255")!.sha256).toBe(sha256(Buffer.from("255")).slice(7))
    })
  )

  it.live("is the same for the same layers, and small", () =>
    Effect.gen(function* () {
      const tars = [tar(file("big", "x".repeat(3_000_000)), file("a")), tar(file("b"))]
      const [one, two] = [yield* merge(tars), yield* merge(tars)]
      expect(sha256(fs.readFileSync(one.out))).toBe(sha256(fs.readFileSync(two.out)))
      expect(fs.statSync(one.out).size).toBeLessThanOrEqual(8192)
    })
  )

  it.live(
    "has every name of a directory of 20,000, and those that the layer above left",
    () =>
      Effect.gen(function* () {
        const nameOf = (i: number): string => {
          const odd = ["", " with spaces", "\n", "\xff\xfe", "\xc3\xa9"][i % 5]!
          return i % 100 === 0 ? `${i}`.padEnd(255, "n") : `${i}${odd}`
        }
        const all = Array.from({ length: 20_000 }, (_, i) => nameOf(i))
        const named = (name: string) =>
          Buffer.concat([pax([["path", Buffer.from(`many/${name}`, "latin1")]]), file("many/x")])
        const gone = all.filter((_, i) => i % 2 === 0)
        const whiteouts = gone.map((name) =>
          Buffer.concat([pax([["path", Buffer.from(`many/.wh.${name}`, "latin1")]]), file("many/.wh.x")])
        )
        const below = tar(dir("many"), ...all.map(named))
        const listed = (tree: Map<string, Listed>) => [...tree.keys()].slice(2)
        expect(listed(yield* shown([below]))).toEqual(all.map((name) => `/many/${name}`).sort())
        const left = all.filter((_, i) => i % 2 === 1).map((name) => `/many/${name}`)
        expect(listed(yield* shown([below, tar(...whiteouts)]))).toEqual(left.sort())
      }),
    60_000
  )

  const first = Number(Bun.env.SEED ?? 1)
  for (let seed = first; seed < first + Number(Bun.env.ROUNDS ?? 6); seed++) {
    it.live(
      `shows what the edits of its layers made (seed ${seed})`,
      () =>
        Effect.gen(function* () {
          const random = generator(seed)
          const model = new Model(seed)
          const tars = Array.from({ length: 1 + random(6) }, () => model.layer(20 + random(120)))
          const expected = model.listing()
          // An empty layer anywhere, and a layer straight after itself, change nothing.
          const again = random(tars.length)
          const order = tars.flatMap((_, i) => (i === again ? [i, i] : [i]))
          order.splice(random(order.length + 1), 0, tars.length)
          const { devices, disk, out } = yield* merge([...tars, tar()], order)
          expect(mounted(disk, [], listTree)).toEqual(expected)
          expect(mounted(out, devices, listTree)).toEqual(expected)
        }),
      60_000
    )
  }
})

describe("a merge", () => {
  it.live("refuses layers that are missing or damaged, and leaves nothing", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const [layer] = yield* convertAll(directory, [tar(dir("d"), file("d/f", "x".repeat(9000)), link("l", "d"))])
      const out = path.join(directory, "out")
      const missing = yield* Effect.flip(buildFsmeta([path.join(directory, "none")], out))
      expect(missing._tag).toBe("StoreFailed")
      const good = fs.readFileSync(layer!.path)
      const broken = path.join(directory, "broken")
      for (const bytes of [good.subarray(0, 5000), good.subarray(0, -4096), Buffer.alloc(0), Buffer.alloc(8192)]) {
        fs.writeFileSync(broken, bytes)
        const error = yield* Effect.flip(buildFsmeta([broken], out))
        expect(error._tag).toBe("LayerRejected")
        expect(error.message).toMatch(/damaged/)
        expect(fs.existsSync(out)).toBe(false)
      }
    })
  )

  it.live("survives damaged metadata: it merges or refuses, and does nothing else", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const seed = Number(Bun.env.SEED ?? 1)
      const random = generator(seed)
      const [layer] = yield* convertAll(directory, [new Model(3).layer(60)])
      const good = fs.readFileSync(layer!.path)
      const start = good.readUInt32LE(1024 + 40) * 4096
      const broken = path.join(directory, "broken")
      for (let i = 0; i < 300; i++) {
        const bytes = Buffer.from(good)
        for (let n = random(6); n >= 0; n--) bytes[start + random(good.length - start)] = random(256)
        fs.writeFileSync(broken, bytes)
        const result = yield* Effect.result(buildFsmeta([broken], path.join(directory, "out")))
        if (result._tag === "Failure") expect(result.failure._tag).toBe("LayerRejected")
      }
    })
  )
})
