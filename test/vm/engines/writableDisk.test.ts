/** The writable disk of a sandbox that is kept. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { ensureUpper } from "../../../src/vm/engines/writableDisk.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const mke2fs = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].some((file) => fs.existsSync(file)) || Bun.which("mke2fs") !== null
if (!mke2fs) console.warn("skipped: the writable disk; missing: mke2fs (e2fsprogs)")

const mb = 1024 * 1024
const hash = (file: string): string => new Bun.CryptoHasher("sha256").update(fs.readFileSync(file)).digest("hex")

describe.skipIf(!mke2fs)("the writable disk", () => {
  it.live("is made sparse, grows, and is never made smaller or anew", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "upper.ext4")
      yield* ensureUpper(file, 128)
      // The magic number of ext4's superblock.
      expect(fs.readFileSync(file).readUInt16LE(1024 + 0x38)).toBe(0xef53)
      const { size, blocks } = fs.statSync(file)
      expect(size).toBe(128 * mb)
      expect(blocks * 512).toBeLessThan(16 * mb)
      const before = hash(file)
      for (const sizeMb of [64, 127, 128]) {
        yield* ensureUpper(file, sizeMb)
        expect([sizeMb, fs.statSync(file).size, hash(file)]).toEqual([sizeMb, 128 * mb, before])
      }
      yield* ensureUpper(file, 192)
      expect(fs.statSync(file).size).toBe(192 * mb)
      expect(fs.readFileSync(file).readUInt16LE(1024 + 0x38)).toBe(0xef53)
      expect(fs.readdirSync(path.dirname(file))).toEqual(["upper.ext4"])
    })
  )
})
