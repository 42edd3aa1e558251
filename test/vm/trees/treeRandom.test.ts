/** Trees that travel, at random and hostile: what decodes them refuses in its own words and stays in its destination. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test"
import fs from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { TarToTree, TarWriter } from "../../../src/actors/copying/treeTar.ts"
import { CopyFailed } from "../../../src/domain/errors/guestIo.ts"
import { HostTreeWriter, readHostTree } from "../../../src/vm/trees/hostTree.ts"
import {
  bareRecord,
  encodeRecord,
  TreeMalformed,
  TreeReader,
  type TreeRecord
} from "../../../src/vm/trees/treeEntries.ts"
import { mutateBytes, mutateLayer, type Random } from "../../fuzz/mutate.ts"
import { generator, seedOf } from "../../support/random.ts"
import { END, pax, raw } from "../../support/tar.ts"

setDefaultTimeout(120_000)

/** `TREE_RUNS` multiplies the number of inputs; default 1. */
const runs = (count: number): number => count * Number(process.env["TREE_RUNS"] ?? 1)
const base = fs.mkdtempSync(path.join(tmpdir(), "bk-tree-"))
afterAll(() => {
  Bun.spawnSync(["chmod", "-R", "u+rwx", base], { stderr: "ignore" })
  fs.rmSync(base, { recursive: true, force: true })
})

interface Item {
  readonly record: TreeRecord
  readonly data: Buffer
}
const none = Buffer.alloc(0)

const bytesOf = (random: Random, length: number): Buffer => Buffer.from(Array.from({ length }, () => random(256)))

const nameOf = (random: Random, index: number): string => {
  const length = random(10) === 0 ? 100 + random(140) : 1 + random(8)
  return `${index}${bytesOf(random, length).toString("latin1").replace(/[/\0]/g, "_")}`
}

/** A sound tree: its root, then everything below in the order of a walk. */
const treeOf = (random: Random): Array<Item> => {
  const items: Array<Item> = []
  const files: Array<string> = []
  const attributes = () => ({
    ...{ mode: random(0o1000) | 0o700, uid: random(2 ** 31) * 2 + random(2), gid: random(70_000) },
    ...{ mtimeSeconds: random(2 ** 31) - (random(4) === 0 ? 2 ** 30 : 0), mtimeNanos: random(2) * random(1e9) }
  })
  const fill = (prefix: string, depth: number): void => {
    for (let index = random(6); index >= 0; index -= 1) {
      const name = prefix + nameOf(random, index)
      const record = { ...bareRecord("file", name), ...attributes() }
      const kind = random(depth > 5 ? 3 : 5)
      if (kind === 0) {
        const target = nameOf(random, 0)
        items.push({ record: { ...record, type: "symlink", target }, data: none })
      } else if (kind === 1 && files.length > 0) {
        items.push({ record: { ...record, type: "link", target: files[random(files.length)]! }, data: none })
      } else if (kind < 3) {
        const data = bytesOf(random, random(3) * random(1500))
        files.push(name)
        items.push({ record: { ...record, size: data.length }, data })
      } else {
        items.push({ record: { ...record, type: "directory" }, data: none })
        fill(`${name}/`, depth + 1)
        items.push({ record: { ...record, type: "done" }, data: none })
      }
    }
  }
  fill("", 0)
  return [...items, { record: bareRecord("end", ""), data: none }]
}

const encoded = (items: ReadonlyArray<Item>): Buffer =>
  Buffer.concat(items.flatMap(({ record, data }) => [encodeRecord(record), data]))

/** The same bytes in pieces, many of them tiny. */
const pieces = function* (random: Random, bytes: Uint8Array) {
  for (let at = 0; at < bytes.length; ) {
    const take = random(3) === 0 ? 1 + random(3) : 1 + random(2000)
    yield bytes.subarray(at, at + take)
    at += take
  }
}

const decoded = (stream: Iterable<Uint8Array>): Array<Item> => {
  const items: Array<{ record: TreeRecord; data: Buffer }> = []
  const ends: Array<string> = []
  const reader = new TreeReader({
    record: (record) => void items.push({ record, data: none }),
    data: (bytes) => void (items.at(-1)!.data = Buffer.concat([items.at(-1)!.data, bytes])),
    fileEnd: () => void ends.push(items.at(-1)!.record.name)
  })
  for (const piece of stream) {
    reader.push(piece)
    expect((Reflect.get(reader, "pending") as Buffer).length).toBeLessThanOrEqual(40 + 2 * 4096)
  }
  reader.finish()
  expect(ends).toEqual(items.flatMap(({ record }) => (record.type === "file" ? [record.name] : [])))
  return items
}

/** What a decoder may throw; everything else is a bug. */
const judged = (act: () => void): Error | undefined => {
  try {
    act()
    return undefined
  } catch (cause) {
    if (cause instanceof TreeMalformed || cause instanceof CopyFailed) return cause
    throw cause
  }
}

test("records arrive as they were sent, however they are cut", () => {
  const random = generator(seedOf("records arrive"))
  for (let run = runs(60); run > 0; run -= 1) {
    const items = treeOf(random)
    expect(decoded(pieces(random, encoded(items)))).toEqual(items)
  }
})

test("a tree survives being a tar", () => {
  const random = generator(seedOf("being a tar"))
  for (let run = runs(40); run > 0; run -= 1) {
    const items = treeOf(random)
    const tar: Array<Uint8Array> = []
    const records: Array<Uint8Array> = []
    const writer = new TarWriter(
      (bytes) => void tar.push(Uint8Array.from(bytes)),
      (what) => expect(what).toBe("nothing is skipped")
    )
    for (const { record, data } of items) {
      writer.record(record)
      if (record.type !== "file") continue
      writer.data(data)
      writer.fileEnd()
    }
    const reader = new TarToTree(
      (bytes) => void records.push(Uint8Array.from(bytes)),
      (what) => expect(what).toBe("nothing is skipped")
    )
    for (const piece of pieces(random, Buffer.concat(tar))) reader.push(piece)
    reader.finish()
    // In a tar a hard link has attributes of its own, and only the end of a directory carries those of directories.
    const sent = items.map((item) =>
      item.record.type === "directory" ? { ...item, record: bareRecord("directory", item.record.name) } : item
    )
    expect(decoded(records)).toEqual(sent)
  }
})

test("a tree survives being files of this machine", async () => {
  const random = generator(seedOf("being files"))
  for (let run = 0; run < runs(12); run += 1) {
    const destination = path.join(base, `files-${run}`)
    fs.mkdirSync(destination)
    const items = treeOf(random)
    const writer = new HostTreeWriter(destination, { owners: false })
    const reader = new TreeReader(writer)
    for (const piece of pieces(random, encoded(items))) reader.push(piece)
    reader.finish()
    writer.close()
    const read: Array<Uint8Array> = []
    const options = { follow: false, skipped: (what: string) => expect(what).toBe("nothing is skipped") }
    for await (const bytes of readHostTree(destination, "", options)) read.push(bytes)
    expect(shape(decoded(read))).toEqual(shape(items))
  }
})

/** What a file system keeps of a tree for an ordinary user, by name; a hard link as the file that it is. */
const shape = (items: ReadonlyArray<Item>) => {
  const found = new Map(items.map((item) => [item.record.name, item]))
  const wanted = items.filter(({ record }) => record.name !== "" && record.type !== "directory")
  return Object.fromEntries(
    wanted
      .map(({ record, data }) => {
        const own = record.type === "link" ? found.get(record.target)! : { record, data }
        const { type, mode, mtimeSeconds, target } = own.record
        const kept = type === "symlink" ? { type, target, mtimeSeconds } : { type, mode, mtimeSeconds }
        return [record.name, { ...kept, data: own.data.toString("hex") }] as const
      })
      .sort(([one], [other]) => (one < other ? -1 : 1))
  )
}

/** Encodes what the format forbids, too. */
const anyRecord = (random: Random, record: TreeRecord): Buffer => {
  const header = Buffer.from(encodeRecord({ ...bareRecord("file", ""), mode: record.mode, uid: record.uid }))
  header[4] = ["file", "directory", "symlink", "link", "skipped", "end", "done"].indexOf(record.type) + 1
  header.writeUInt16LE(record.name.length, 6)
  header.writeUInt16LE(record.target.length, 8)
  header.writeBigInt64LE(BigInt(record.mtimeSeconds), 24)
  header.writeBigUInt64LE(BigInt(record.size), 32)
  return Buffer.concat([
    header,
    Buffer.from(record.name + record.target, "latin1"),
    bytesOf(random, Math.min(record.size, 50))
  ])
}

/** Few names, so that links, files and directories get in one another's way; many lead out of the tree. */
const trapNames = [
  "a",
  "a",
  "a/a",
  "a/b",
  "b",
  "b/a",
  "b/a/a",
  "a/canary",
  "b/canary",
  "out",
  "out/canary",
  "out/new",
  ""
]
const traps = ["..", "../outside", "a", "b", "../canary", "/", ".", "a/..", "../../x", "\0", "a//b", "/tmp/x", "canary"]
const hostile = (random: Random): Buffer => {
  const kinds = ["file", "file", "directory", "symlink", "symlink", "link", "link", "done", "skipped"] as const
  const some = Array.from({ length: 1 + random(20) }, () => {
    const type = kinds[random(kinds.length)]!
    const pointing = type === "symlink" || type === "link" || type === "skipped"
    const pool = type === "link" ? trapNames : traps
    const target = pointing ? pool[random(pool.length)]! : ""
    const from = random(60) === 0 ? traps : trapNames
    return anyRecord(random, {
      ...bareRecord(type, from[random(from.length)]!, target),
      ...{ mode: random(0o10000), uid: random(2 ** 31) * 2 },
      mtimeSeconds: random(20) === 0 ? (random(2) * 2 - 1) * 2 ** 52 : random(2 ** 31),
      size: type === "file" ? random(50) : 0
    })
  })
  return Buffer.concat([...some, encodeRecord(bareRecord("end", ""))])
}

/** Everything about what lies beside the destination that a writer could change. */
const beside = (place: string): ReadonlyArray<unknown> =>
  ["", "canary", "outside", "outside/canary"].map((name) => {
    const file = path.join(place, name)
    const { ino, mode, nlink, uid, gid, mtimeMs, size } = fs.lstatSync(file)
    const listed = fs.statSync(file).isDirectory() ? fs.readdirSync(file) : fs.readFileSync(file, "utf8")
    return { name, ino, mode, nlink, uid, gid, mtimeMs, size, listed }
  })

test("no stream of records makes the writer leave its destination", () => {
  const random = generator(seedOf("leaves nothing outside"))
  const descriptors = fs.readdirSync("/proc/self/fd").length
  const outcomes = { taken: 0, refused: 0 }
  for (let run = 0; run < runs(200); run += 1) {
    const place = path.join(base, `hostile-${run}`)
    const destination = path.join(place, "destination")
    fs.mkdirSync(path.join(place, "outside"), { recursive: true })
    fs.mkdirSync(destination)
    for (const file of ["canary", "outside/canary"]) fs.writeFileSync(path.join(place, file), "kept")
    const before = beside(place)
    // A link of the user's own, which is none to go through either.
    fs.symlinkSync("../outside", path.join(destination, "out"))
    const good = random(4) === 0 ? encoded(treeOf(random)) : hostile(random)
    const bytes = random(3) === 0 ? mutateBytes(random, good) : good
    const writer = new HostTreeWriter(destination, { owners: random(2) === 0 })
    const reader = new TreeReader(writer)
    const refused = judged(() => {
      for (const piece of pieces(random, bytes)) reader.push(piece)
      reader.finish()
    })
    writer.close()
    outcomes[refused === undefined ? "taken" : "refused"] += 1
    expect(beside(place)).toEqual(before)
  }
  expect(fs.readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(descriptors + 2)
  expect(outcomes.taken).toBeGreaterThan(0)
  expect(outcomes.refused).toBeGreaterThan(0)
})

test("spoilt records are refused in words", () => {
  const random = generator(seedOf("spoilt records"))
  for (let run = runs(1000); run > 0; run -= 1) {
    const bytes = mutateBytes(random, encoded(treeOf(random).slice(-12)))
    judged(() => decoded(pieces(random, bytes)))
  }
})

test("spoilt tars are refused in words, and what is taken of them is a sound tree", () => {
  const random = generator(seedOf("spoilt tars"))
  const seed = Buffer.concat([
    raw({ name: "d/", flag: "5" }),
    raw({ name: "d/f", data: bytesOf(random, 700) }),
    pax([["path", "d/ä".repeat(60)]]),
    raw({ name: "x", data: bytesOf(random, 10) }),
    raw({ name: "l", flag: "2", link: "d/f" }),
    raw({ name: "h", flag: "1", link: "d/f" }),
    END
  ])
  for (let run = runs(800); run > 0; run -= 1) {
    const bytes = mutateLayer(random, seed, seed)
    const check = new TreeReader({ record: () => {}, data: () => {}, fileEnd: () => {} })
    const tar = new TarToTree(
      (records) => {
        // Holes are the same zeros again and again.
        if (records.length < 1_048_576) check.push(records)
      },
      () => {}
    )
    judged(() => {
      for (const piece of pieces(random, bytes)) tar.push(piece)
      tar.finish()
    })
  }
})

test("a tar that claims more holes than any disk has is refused before they are made", () => {
  let made = 0
  const tar = new TarToTree(
    (bytes) => void (made += bytes.length),
    () => {}
  )
  const size = String(2 ** 50)
  const bomb = [
    pax([
      ["GNU.sparse.map", ""],
      ["GNU.sparse.size", size]
    ]),
    raw({ name: "bomb" }),
    END
  ]
  expect(judged(() => tar.push(Buffer.concat(bomb)))).toBeInstanceOf(TreeMalformed)
  expect(made).toBeLessThan(4096)
})

test("an owner that no file system knows is refused in words", () => {
  const tar = new TarToTree(
    () => {},
    () => {}
  )
  const bytes = Buffer.concat([pax([["uid", "4294967296"]]), raw({ name: "f" }), END])
  expect(judged(() => tar.push(bytes))).toBeInstanceOf(TreeMalformed)
})
