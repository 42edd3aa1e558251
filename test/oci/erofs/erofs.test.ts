/** EROFS images made in memory, judged by erofs-utils and by the kernel. */
import { describe, expect, test } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { readDirectory } from "../../../src/oci/erofs/directory.ts"
import { crc32c, encodeDevice } from "../../../src/oci/erofs/format.ts"
import { buildImage, type ImageEntry } from "../../../src/oci/erofs/writer.ts"
import { fsck, have, listTree, mounted, mountMissing, run } from "../../support/mount.ts"

const bytes = (text: string) => Buffer.from(text)

const withImage = <A>(entries: ReadonlyArray<ImageEntry>, use: (image: string) => A): A => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-erofs-"))
  try {
    const image = path.join(directory, "image.erofs")
    fs.writeFileSync(image, buildImage(entries))
    return use(image)
  } finally {
    fs.rmSync(directory, { recursive: true })
  }
}

const initDisk: ReadonlyArray<ImageEntry> = [
  { path: "/", mode: 0o40711, uid: 5 },
  { path: "/init", mode: 0o100755, data: Buffer.alloc(9000, 7), mtime: 1_700_000_000 },
  ...["dev", "proc", "sys", "run", "mnt"].map((name) => ({ path: `/${name}`, mode: 0o40755 })),
  {
    path: "/etc/deep/er/file",
    mode: 0o100600,
    uid: 1000,
    gid: 2 ** 31,
    data: bytes("x"),
    xattrs: { "user.a": bytes("b") }
  },
  { path: "/dev/null", mode: 0o020666, rdev: { major: 1, minor: 3 } },
  { path: "/dev/vda", mode: 0o060600, rdev: { major: 254, minor: 1_000_000 } },
  { path: "/pipe", mode: 0o010644 },
  { path: "/bin", mode: 0o120777, linkTarget: "usr/bin" },
  { path: "/ünï", mode: 0o100644 }
]

/** A directory of several blocks, and names that sort around `.` and `..`. */
const many: ReadonlyArray<ImageEntry> = [
  ...Array.from({ length: 3000 }, (_, i) => ({ path: `/many/${"name".repeat(1 + (i % 50))}-${i}`, mode: 0o100644 })),
  ...["!", "-", "..x", ".a", "...", "/", "~"]
    .filter((name) => name !== "/")
    .map((name) => ({ path: `/${name}`, mode: 0o100644 })),
  { path: "/long", mode: 0o120777, linkTarget: "l".repeat(4095) },
  {
    path: "/xattrs",
    mode: 0o100644,
    xattrs: Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`user.${i}`, Buffer.alloc(5000, i)]))
  },
  { path: "/xattrdir", mode: 0o40755, xattrs: { "user.big": Buffer.alloc(4000, 1) } },
  { path: "/xattrdir/child", mode: 0o100644 },
  { path: "/xattrlink", mode: 0o120777, linkTarget: "t".repeat(200), xattrs: { "trusted.big": Buffer.alloc(3900, 1) } }
]

describe("an image made in memory", () => {
  test("is the same for the same entries, block-sized, and has a right checksum", () => {
    const image = buildImage(initDisk)
    expect(Buffer.compare(image, buildImage(initDisk))).toBe(0)
    expect(image.length % 4096).toBe(0)
    const sb = Buffer.from(image.subarray(1024, 4096))
    const stored = sb.readUInt32LE(4)
    sb.writeUInt32LE(0, 4)
    expect(crc32c(sb)).toBe(stored)
    expect(crc32c(bytes("123456789")) ^ 0xffffffff).toBe(0xe3069283 | 0)
  })

  test("is refused as a bug when a path comes twice or lies below a file", () => {
    const file = { path: "/a", mode: 0o100644 }
    expect(() => buildImage([file, file])).toThrow(/twice/)
    expect(() => buildImage([file, { path: "/a/b", mode: 0o100644 }])).toThrow(/below a file/)
  })

  if (!have("fsck.erofs")) test.skip("fsck.erofs: erofs-utils is not installed", () => {})
  else
    test("passes fsck.erofs and is what dump.erofs says", () => {
      for (const entries of [initDisk, many, []]) withImage(entries, (image) => fsck(image))
      withImage(initDisk, (image) => expect(run("dump.erofs", "--path=/init", image)).toMatch(/Size: 9000 .*regular/))
    })

  if (mountMissing !== undefined) test.skip(`mounts: ${mountMissing}`, () => {})
  else {
    test("shows the kernel every type, owner, mode, time, device, link and xattr", () => {
      const tree = withImage(initDisk, (image) => mounted(image, [], listTree))
      expect(tree.size).toBe(16)
      expect(tree.get("/")).toMatchObject({ mode: "40711", owner: "5:0", nlink: 8 })
      expect(tree.get("/init")).toMatchObject({ mode: "100755", size: 9000, mtime: "1700000000000000000" })
      expect(tree.get("/etc/deep")).toMatchObject({ mode: "40755", owner: "0:0", xattrs: {} })
      expect(tree.get("/etc/deep/er/file")).toMatchObject({ owner: "1000:2147483648", xattrs: { "user.a": "62" } })
      expect(tree.get("/dev/null")!.device).toBe("1:3")
      expect(tree.get("/dev/vda")!.device).toBe("254:1000000")
      expect(tree.get("/pipe")!.mode).toBe("10644")
      expect(tree.get("/bin")!.target).toBe("usr/bin")
      expect(tree.has(`/${Buffer.from("ünï").toString("latin1")}`)).toBe(true)
    })

    test("shows the kernel directories, links and xattrs of more than a block", () => {
      const tree = withImage(many, (image) => mounted(image, [], listTree))
      for (const entry of many) expect(tree.has(entry.path)).toBe(true)
      expect(tree.get("/long")!.target!.length).toBe(4095)
      expect(Object.keys(tree.get("/xattrs")!.xattrs).length).toBe(12)
      expect(tree.get("/xattrs")!.xattrs["user.11"]).toBe("0b".repeat(5000))
      expect(tree.get("/xattrlink")).toMatchObject({ target: "t".repeat(200) })
      expect(tree.has("/xattrdir/child")).toBe(true)
    })
  }
})

describe("the pieces of the format", () => {
  test("device numbers pack as the kernel's", () => {
    expect(encodeDevice(8, 1)).toBe(0x801)
    expect(encodeDevice(0xfff, 0xfffff)).toBe(0xffffffff)
  })

  test("a directory whose names could leave it is not read", () => {
    const block = (name: string, nameAt = 12) => {
      const data = Buffer.alloc(12 + name.length)
      data.writeUInt16LE(nameAt, 8)
      data.write(name, 12, "latin1")
      return data
    }
    expect(readDirectory(block("ok"))).toEqual([{ name: "ok", nid: 0 }])
    for (const bad of [
      block("a/b"),
      block(""),
      block("x".repeat(256)),
      block("a", 13),
      block("a", 0),
      block("a", 60_000),
      Buffer.alloc(5)
    ]) {
      expect(readDirectory(bad)).toBeUndefined()
    }
  })
})
