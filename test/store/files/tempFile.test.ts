/** Bytes that others send, on a disk that is nearly full. */
import { expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { spool } from "../../../src/store/files/tempFile.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { run } from "../../support/mount.ts"

const mib = 1024 * 1024

it.live("what others send leaves a twentieth of the disk, and what a person gives may fill it", () =>
  Effect.gen(function* () {
    if (process.getuid?.() !== 0) return
    const directory = yield* temporaryDirectory
    yield* Effect.acquireRelease(
      Effect.sync(() => run("mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", directory)),
      () => Effect.sync(() => run("umount", directory))
    )
    async function* pieces(count: number) {
      for (let left = count; left > 0; left -= 1) yield new Uint8Array(mib)
    }
    const free = () => fs.statfsSync(directory).bavail * fs.statfsSync(directory).bsize
    fs.writeFileSync(path.join(directory, "other"), Buffer.alloc(97 * mib))
    const refused = yield* Effect.flip(Effect.scoped(spool(directory, pieces(1), { keepsRoom: true })))
    expect(refused._tag).toBe("DiskFull")
    yield* Effect.scoped(spool(directory, pieces(2)))
    fs.truncateSync(path.join(directory, "other"), 40 * mib)
    // Looked at as it comes, not only at first.
    const late = yield* Effect.flip(Effect.scoped(spool(directory, pieces(100), { keepsRoom: true })))
    expect(late._tag).toBe("DiskFull")
    expect(free()).toBeGreaterThan(50 * mib)
  })
)
