/** The tar of a layer comes back from its EROFS image byte for byte, whatever dialect wrote it. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { buildImage } from "../../../src/oci/erofs/writer.ts"
import { TarRecord } from "../../../src/oci/layer/tarSplit.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { convert, sha256 } from "../../support/layers.ts"
import { Model } from "../../support/model.ts"
import { fsck, have } from "../../support/mount.ts"
import { generator, seedOf } from "../../support/random.ts"
import { gnuLong, pax, raw, type SparseFormat, sparse, tar } from "../../support/tar.ts"

const text = (length: number, letter: string) => Buffer.alloc(length, letter)
const formats: ReadonlyArray<SparseFormat> = ["old", "0.0", "0.1", "1.0"]

/** One of everything that a tar may hold besides plain files. */
const everything = tar(
  pax([["comment", "for all"]], "g"),
  raw({ name: "./", flag: "5", mode: 0o755 }),
  raw({ name: "empty" }),
  raw({ name: "one", data: text(1, "x") }),
  raw({ name: "block", data: text(4096, "b") }),
  raw({ name: "large", data: text(70_001, "l"), magic: "gnu", uid: 3_000_000 }),
  gnuLong("L", `d/${"n".repeat(200)}`),
  raw({ name: "short", data: text(600, "s"), magic: "gnu" }),
  pax([
    ["mtime", "1.5"],
    ["SCHILY.xattr.user.a", "b"]
  ]),
  raw({ name: "dated", data: text(513, "t") }),
  raw({ name: "large", data: text(9, "o") }),
  raw({ name: "large", flag: "5", mode: 0o700 }),
  raw({ name: ".wh.gone", data: text(20, "w") }),
  raw({ name: "link", flag: "2", link: "one" }),
  raw({ name: "hard", flag: "1", link: "one", size: 1 }),
  raw({ name: "device", flag: "3", major: 1, minor: 3 }),
  ...formats.flatMap((format) => [
    sparse(
      { name: `sparse-${format}` },
      1_000_000,
      [
        { offset: 0, data: text(10, "0") },
        { offset: 4000, data: text(200, "1") },
        { offset: 300_000, data: text(5000, "2") },
        { offset: 305_000, data: text(700, "3") },
        ...Array.from({ length: 30 }, (_, i) => ({ offset: 400_000 + i * 9000, data: text(7, "4") }))
      ],
      format
    ),
    sparse({ name: `hole-${format}` }, 50_000, [], format)
  ]),
  raw({ name: "last", data: text(1000, "z") }),
  Buffer.alloc(9 * 512)
)

const rebuilt = (file: string): Buffer => {
  const record = TarRecord.open(file, "layer")!
  try {
    const bytes = Buffer.concat([...record.pieces()])
    expect(record.bytes).toBe(bytes.length)
    return bytes
  } finally {
    record.close()
  }
}

const lengthOrName = (file: string): number | string => {
  try {
    return rebuilt(file).length
  } catch (cause) {
    return (cause as Error).name
  }
}

describe("the record of a tar", () => {
  it.live("gives everything that a tar may hold back, and the same image whatever the pieces", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const images: Array<Buffer> = []
      for (const cut of [[65_536], [512], [1, 700]]) {
        const out = path.join(directory, String(images.length))
        yield* convert(everything, out, { diffId: sha256(everything), cut })
        expect(rebuilt(out).equals(everything)).toBe(true)
        images.push(fs.readFileSync(out))
        if (have("fsck.erofs")) fsck(out)
      }
      expect(images.every((image) => image.equals(images[0]!))).toBe(true)
    })
  )

  it.live("gives random layers back, also those whose record has many chunks", () =>
    Effect.gen(function* () {
      const seed = seedOf("the record of a tar")
      const random = generator(seed)
      const directory = yield* temporaryDirectory
      const model = new Model(seed)
      const many = Array.from({ length: 3000 }, (_, i) => {
        const data = Buffer.alloc(random(3) === 0 ? 0 : random(2000), i)
        return raw({ name: `many/${random(2 ** 31)}`, data, mtime: random(2 ** 31), uid: random(60_000) })
      })
      for (const bytes of [model.layer(40), model.layer(40), tar(...many)]) {
        const out = path.join(directory, sha256(bytes).slice(7))
        yield* convert(bytes, out, { diffId: sha256(bytes), cut: [1 + random(100_000), 1 + random(5000)] })
        expect(sha256(rebuilt(out))).toBe(sha256(bytes))
      }
    })
  )

  it.live("is small: it holds no file data", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const random = generator(7)
      const data = Buffer.from(Array.from({ length: 4096 }, () => random(256)))
      const bytes = tar(...Array.from({ length: 1000 }, (_, i) => raw({ name: `f/${i}`, data, mtime: 1_700_000_000 })))
      const out = path.join(directory, "image")
      const { erofsBytes } = yield* convert(bytes, out)
      // 1000 blocks of data, 64 bytes and a name for each inode, and some 20 bytes for each in the record.
      expect(erofsBytes).toBeLessThan(4096 * 1000 + 1000 * 130)
    })
  )

  it.live("that is damaged, or missing, is told and never makes up a tar", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const out = path.join(directory, "image")
      yield* convert(everything, out)
      const good = fs.readFileSync(out)
      const random = generator(seedOf("a damaged record"))
      const hurt = path.join(directory, "hurt")
      for (let i = 0; i < 300; i++) {
        const bytes = Buffer.from(good)
        bytes[random(bytes.length)] = random(256)
        fs.writeFileSync(hurt, bytes)
        expect(lengthOrName(hurt)).toBeOneOf([everything.length, "RejectedInput"])
      }
      fs.writeFileSync(hurt, buildImage([{ path: "/a", mode: 0o100644 }]))
      expect(TarRecord.open(hurt, "old")).toBeUndefined()
    })
  )
})
