/** A layer of 4 GiB in a process of its own, whose memory is watched. Takes 4 GiB of disk: only with BUNKER_TEST_HUGE=1. */
import { describe, expect, test } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"

const wanted = process.env["BUNKER_TEST_HUGE"] === "1"
if (!wanted) console.log("skipped: a layer of 4 GiB, since BUNKER_TEST_HUGE is not 1")

const root = path.join(import.meta.dir, "../../..")
const script = (out: string) => `
  import { Effect, Stream } from "effect"
  import { convertLayer } from ${JSON.stringify(path.join(root, "src/oci/layer/layer.ts"))}
  import { END, header, raw } from ${JSON.stringify(path.join(root, "test/support/tar.ts"))}
  const piece = Buffer.alloc(1 << 20)
  for (let i = 0; i < piece.length; i++) piece[i] = (i * 2654435761) >>> 13
  const big = 4 * 2 ** 30
  const parts = function* () {
    yield header({ name: "big", size: big })
    for (let at = 0; at < big; at += piece.length) yield piece
    for (let i = 0; i < 50_000; i++) yield raw({ name: "many/" + i, data: Buffer.from(String(i)) })
    yield END
  }
  const hasher = new Bun.CryptoHasher("sha256")
  let sizeBytes = 0
  for (const part of parts()) { hasher.update(part); sizeBytes += part.length }
  const source = { mediaType: "tar", digest: "sha256:" + hasher.digest("hex"), sizeBytes, diffId: undefined, bytes: Stream.fromIterable(parts()) }
  const began = performance.now()
  const done = await Effect.runPromise(convertLayer(source, ${JSON.stringify(out)}))
  console.log(JSON.stringify({ erofsBytes: done.erofsBytes, rssMiB: process.resourceUsage().maxRSS / 1024, ms: performance.now() - began }))`

describe.skipIf(!wanted)("a layer of 4 GiB and 50,000 files", () => {
  test("is converted in less than 400 MiB of memory", async () => {
    const place = fs.mkdtempSync(path.join(os.tmpdir(), "bk-huge-"))
    try {
      const child = Bun.spawn([process.execPath, "-e", script(path.join(place, "out"))], { cwd: root, stdout: "pipe" })
      const said = JSON.parse(await new Response(child.stdout).text())
      console.log(said)
      expect(said.erofsBytes).toBeGreaterThan(4 * 2 ** 30)
      expect(said.rssMiB).toBeLessThan(400)
      if (Bun.which("fsck.erofs") !== null)
        expect(Bun.spawnSync(["fsck.erofs", path.join(place, "out")]).exitCode).toBe(0)
    } finally {
      fs.rmSync(place, { recursive: true, force: true })
    }
  }, 600_000)
})
