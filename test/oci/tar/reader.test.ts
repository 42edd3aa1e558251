/** The tar reader: every dialect, every cut, nothing trusted. */
import { describe, expect, test } from "bun:test"
import { type TarEntry, TarReader } from "../../../src/oci/tar/reader.ts"
import {
  base256,
  END,
  gnuLong,
  header,
  type PaxValues,
  pad,
  pax,
  raw,
  type SparseFormat,
  sparse,
  sum,
  tar
} from "../../support/tar.ts"

type Read = TarEntry & { readonly text: string }

const read = (bytes: Uint8Array, step = bytes.length): { entries: Array<Read>; endMark: boolean } => {
  const entries: Array<Read> = []
  let current: { entry: TarEntry; text: string } | undefined
  const reader = new TarReader({
    raw: () => undefined,
    entry: (entry) => {
      current = { entry, text: "" }
    },
    data: (data) => {
      current!.text += Buffer.from(data).toString("latin1")
    },
    end: () => {
      entries.push({ ...current!.entry, text: current!.text })
    }
  })
  for (let at = 0; at < bytes.length; at += step) reader.push(bytes.subarray(at, at + step))
  return { entries, ...reader.finish() }
}
const one = (bytes: Uint8Array): Read => read(bytes).entries[0]!
const data = (text: string) => Buffer.from(text)

describe("tar reader", () => {
  test("reads type, owner, mode, time, devices and links of a ustar header, prefix included", () => {
    const { endMark, entries } = read(
      tar(
        raw({ name: "d/", flag: "5", mode: 0o1755, uid: 1, gid: 2, mtime: 3 }),
        raw({ name: "f", mode: 0o104755, data: data("hello"), patch: (b) => b.write("pre/fix", 345) }),
        raw({ name: "old", flag: "\0", data: data("v7"), magic: "v7" }),
        raw({ name: "olddir/", flag: "\0", magic: "v7" }),
        raw({ name: "l", flag: "2", link: "../f" }),
        raw({ name: "h", flag: "1", link: "f", size: 5 }),
        raw({ name: "c", flag: "3", major: 300, minor: 70_000 }),
        raw({ name: "p", flag: "6" })
      )
    )
    expect(endMark).toBe(true)
    expect(entries.map((e) => [e.type, e.path, e.text])).toEqual([
      ["directory", "d/", ""],
      ["file", "pre/fix/f", "hello"],
      ["file", "old", "v7"],
      ["directory", "olddir/", ""],
      ["symlink", "l", ""],
      ["hardlink", "h", ""],
      ["char", "c", ""],
      ["fifo", "p", ""]
    ])
    expect(entries[0]).toMatchObject({ mode: 0o1755, uid: 1, gid: 2, mtimeSeconds: 3 })
    expect(entries[1]!.mode).toBe(0o4755)
    expect(entries[6]).toMatchObject({ devMajor: 300, devMinor: 70_000 })
  })

  test("gives the same entries however the stream is cut", () => {
    const bytes = tar(
      gnuLong("L", "n".repeat(300)),
      raw({ name: "short", data: data("x".repeat(1300)) }),
      pax([["path", "a/b"]]),
      raw({ name: "y", data: data("y") }),
      sparse({ name: "s" }, 9000, [{ offset: 5000, data: data("abc") }], "1.0")
    )
    const whole = read(bytes).entries
    for (const step of [1, 7, 511, 512, 513, 1000]) expect(read(bytes, step).entries).toEqual(whole)
  })

  test("lets pax values win over GNU's, GNU's over the header, local over global", () => {
    const bytes = tar(
      pax(
        [
          ["uid", "7"],
          ["SCHILY.xattr.user.g", "G"]
        ],
        "g"
      ),
      gnuLong("L", "long"),
      gnuLong("K", "longlink"),
      raw({ name: "short", flag: "2", link: "shortlink" }),
      pax([
        ["path", "pax"],
        ["uid", "4294967294"],
        ["mtime", "-1.25"],
        ["SCHILY.xattr.user.a", Buffer.from([0, 255])]
      ]),
      raw({ name: "short", data: data("z") })
    )
    const { entries } = read(bytes)
    expect(entries[0]).toMatchObject({ path: "long", linkName: "longlink", uid: 7 })
    expect(entries[1]).toMatchObject({ path: "pax", uid: 4294967294, mtimeSeconds: -2, mtimeNanos: 750_000_000 })
    expect(entries[1]!.xattrs!.map((x) => [x.name, Buffer.from(x.value).toString("hex")])).toEqual([
      ["user.g", "47"],
      ["user.a", "00ff"]
    ])
  })

  test("takes a pax size and base-256 numbers", () => {
    expect(one(tar(pax([["size", "3"]]), raw({ name: "f", size: 0, data: data("abc") }))).text).toBe("abc")
    const big = one(tar(raw({ name: "f", uid: 2 ** 31, mtime: -5, patch: (b) => base256(-5, 12).copy(b, 136) })))
    expect(big).toMatchObject({ uid: 2 ** 31, mtimeSeconds: -5 })
  })

  test("keeps names that are not UTF-8 byte for byte", () => {
    expect(one(tar(raw({ name: "caf\xe9\xff" }))).path).toBe("caf\xe9\xff")
    expect(one(tar(pax([["path", "\xc3\x28"]]), raw({ name: "x" }))).path).toBe("\xc3\x28")
  })

  const formats: ReadonlyArray<SparseFormat> = ["old", "0.0", "0.1", "1.0"]
  for (const format of formats) {
    test(`reads sparse format ${format}`, () => {
      const list = Array.from({ length: 30 }, (_, i) => ({ offset: i * 1000, data: data(`<${i}>`) }))
      const entry = one(tar(sparse({ name: "s", mode: 0o600 }, 50_000, list, format)))
      expect(entry).toMatchObject({ path: "s", type: "file", size: 50_000, mode: 0o600 })
      expect(entry.sparse).toEqual(list.flatMap((piece) => [piece.offset, piece.data.length]))
      expect(entry.text).toBe(list.map((_, i) => `<${i}>`).join(""))
      expect(one(tar(sparse({ name: "s" }, 4096, [], format))).sparse).toEqual([])
    })
  }

  const bad: ReadonlyArray<readonly [what: string, bytes: Buffer, reason: RegExp]> = [
    ["a wrong checksum", tar(raw({ name: "f" }).fill(0x31, 0, 1)), /checksum/],
    ["text where a number belongs", tar(raw({ name: "f", patch: (b) => b.write("12z4567", 124) })), /not a number/],
    ["a negative size", tar(raw({ name: "f", patch: (b) => base256(-1, 12).copy(b, 124) })), /negative/],
    ["a number past 2^53", tar(raw({ name: "f", patch: (b) => b.fill(0xbf, 124, 136) })), /too large/],
    ["an unknown type", tar(raw({ name: "f", flag: "Z" })), /unknown type/],
    [
      "an entry after one block of zeros",
      Buffer.concat([raw({ name: "f" }), END.subarray(0, 512), raw({ name: "g" })]),
      /after the end/
    ],
    ["a pax size with a minus sign", tar(pax([["size", "-3"]]), raw({ name: "f" })), /size is not a number/],
    ["an entry after one zero block", Buffer.concat([Buffer.alloc(512), raw({ name: "f" })]), /after the end/],
    ["a huge pax header", tar(header({ name: "x", flag: "x", size: 2 ** 21 })), /extended header/],
    ["a huge long name", tar(header({ name: "x", flag: "L", size: 2 ** 20 })), /extended header/],
    [
      "a pax record of length 0",
      tar(raw({ name: "x", flag: "x", data: data("0 a=b\n") }), raw({ name: "f" })),
      /length/
    ],
    [
      "a pax record past its end",
      tar(raw({ name: "x", flag: "x", data: data("99 a=b\n") }), raw({ name: "f" })),
      /length/
    ],
    [
      "a pax record without a key",
      tar(raw({ name: "x", flag: "x", data: data("7 ab=\n") }), raw({ name: "f" })),
      /length|key/
    ],
    ["a NUL in a pax path", tar(pax([["path", "a\0b"]]), raw({ name: "f" })), /NUL/],
    ["a sparse map that overlaps", tar(broken([0, 2, 1, 2], 10, 4)), /overlaps/],
    ["a sparse map past its file", tar(broken([0, 4], 3, 4)), /leaves/],
    ["a sparse map with other bytes stored", tar(broken([0, 4], 9, 3)), /stored/],
    ["a sparse map of odd length", tar(broken([0], 9, 0)), /odd/],
    ["a sparse map with an absurd count", sparseCount("999999999\n"), /too many/],
    ["a sparse map without a count", sparseCount("x\n"), /not a number/]
  ]
  for (const [what, bytes, reason] of bad) {
    test(`refuses ${what}`, () => {
      expect(() => read(bytes)).toThrow(reason)
      expect(() => read(bytes, 100)).toThrow(reason)
    })
  }

  test("takes padding and the end mark for optional, and nothing else", () => {
    const named = pax([["path", "p"]])
    const file = raw({ name: "f", data: data("x".repeat(600)) })
    const holes = sparse({ name: "s" }, 9000, [{ offset: 5000, data: data("abc") }], "1.0")
    const bytes = Buffer.concat([named, file, holes])
    const second = named.length + file.length
    const records = (at: number) => [
      at + 512 + Number.parseInt(bytes.toString("latin1", at + 124, at + 135), 8),
      at + 1024
    ]
    // After an extended header that no entry follows, within the padding of a file, and between entries.
    const whole = [
      [0, 0],
      records(0),
      [named.length + 512 + 600, second],
      records(second),
      [bytes.length - 509, bytes.length]
    ]
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      const part = bytes.subarray(0, cut)
      if (whole.some(([from, to]) => cut >= from! && cut <= to!)) expect(read(part).endMark).toBe(false)
      else expect(() => read(part)).toThrow(/middle/)
    }
    expect(read(Buffer.concat([bytes, END.subarray(0, 512)])).endMark).toBe(true)
  })

  test("reads what archive/tar of Go reads", () => {
    const only = (...parts: ReadonlyArray<Buffer>) => read(Buffer.concat(parts)).entries
    const two = only(
      pax([
        ["path", "first"],
        ["mtime", "9"]
      ]),
      pax([["linkpath", "second"]]),
      raw({ name: "l", flag: "2" })
    )
    expect(two).toMatchObject([{ path: "l", linkName: "second", mtimeSeconds: 0 }])
    expect(
      only(
        pax([
          ["size", "+0000000000000000000003"],
          ["mtime", "+5.5"]
        ]),
        raw({ name: "f", data: data("abc") })
      )
    ).toMatchObject([{ size: 3, mtimeSeconds: 5, mtimeNanos: 5e8 }])
    expect(only(gnuLong("L", "gnu"), pax([["path", "posix"]]), raw({ name: "f" }))).toMatchObject([{ path: "gnu" }])
    expect(only(pax([["path", "long/"]]), raw({ name: "short", flag: "\0" }))).toMatchObject([{ type: "directory" }])
    expect(only(raw({ name: "d/", flag: "\0" }), raw({ name: "f", flag: "\0" }))).toMatchObject([
      { type: "directory" },
      { type: "file" }
    ])
    expect(only(tar(raw({ name: "f" })), data("junk".repeat(200)))).toMatchObject([{ path: "f" }])
    expect(only(pax([["path", "of nothing"]]))).toEqual([])
  })

  test("survives random damage: it reads or refuses, and never does anything else", () => {
    const seed = Number(Bun.env.SEED ?? 1)
    let state = seed
    const random = (n: number) => {
      state = (state * 1103515245 + 12345) % 2147483648
      return Math.floor((state / 2147483648) * n)
    }
    const good = tar(
      pax([
        ["path", "p"],
        ["mtime", "1.5"],
        ["SCHILY.xattr.user.a", "v"]
      ]),
      raw({ name: "f", data: data("x".repeat(600)) }),
      gnuLong("L", "long".repeat(50)),
      raw({ name: "g", flag: "5" }),
      sparse({ name: "s" }, 9000, [{ offset: 5000, data: data("abc") }], "old"),
      sparse({ name: "t" }, 9000, [{ offset: 5000, data: data("abc") }], "1.0"),
      sparse({ name: "u" }, 9000, [{ offset: 5000, data: data("abc") }], "0.1")
    )
    for (let i = 0; i < 3000; i++) {
      const bytes = Buffer.from(good)
      for (let n = random(4); n >= 0; n--) bytes[random(bytes.length)] = random(256)
      // Half of them with good checksums, so that the damage gets past the first door.
      if (i % 2 === 0)
        for (let at = 0; at < bytes.length; at += 512)
          if (bytes.toString("latin1", at + 257, at + 262) === "ustar") sum(bytes.subarray(at, at + 512))
      try {
        read(bytes, 1 + random(2000))
      } catch (error) {
        if ((error as Error).name !== "RejectedInput") throw new Error(`seed ${seed}, round ${i}`, { cause: error })
      }
    }
  })
})

function broken(map: ReadonlyArray<number>, size: number, stored: number): Buffer {
  const values: PaxValues = [
    ["GNU.sparse.size", String(size)],
    ["GNU.sparse.map", map.join(",")]
  ]
  return Buffer.concat([pax(values), raw({ name: "s", data: Buffer.alloc(stored) })])
}

function sparseCount(text: string): Buffer {
  const values: PaxValues = [
    ["GNU.sparse.major", "1"],
    ["GNU.sparse.minor", "0"],
    ["GNU.sparse.realsize", "100"]
  ]
  return tar(pax(values), raw({ name: "s", data: pad(data(text)) }))
}
