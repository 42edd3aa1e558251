/** Images from a program of one's own: the same actor, promises. */
import { afterAll, describe, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { ArchiveInvalid, ImageNotFound, Images } from "../../src/sdk/index.ts"
import { archiveOf, layoutFiles } from "../support/image.ts"
import { first, layoutOf, problemsIn } from "../support/imageStore.ts"

describe("Images", () => {
  const home = mkdtempSync(path.join(tmpdir(), "bk-"))
  const outside = mkdtempSync(path.join(tmpdir(), "bk-"))
  afterAll(() => {
    for (const directory of [home, outside]) rmSync(directory, { recursive: true, force: true })
  })

  test("loads, tells, saves, imports and removes; failures are the tagged errors themselves", async () => {
    await using images = new Images({ home })
    const archive = path.join(outside, "a.tar")
    writeFileSync(archive, archiveOf(layoutFiles([{ ...layoutOf(first), name: "test/first:1" }])))
    const seen: Array<string> = []
    const loaded = await images.load(archive, { onEvent: (event) => seen.push(event._tag) })
    expect(loaded.map((image) => image.reference)).toEqual(["docker.io/test/first:1"])
    expect(seen[0]).toBe("Resolved")
    expect(seen.at(-1)).toBe("Done")
    expect((await images.pull("test/first:1")).layerCount).toBe(3)
    expect((await images.inspect("test/first:1")).config.env).toEqual(["A=b"])

    const pieces: Array<Uint8Array> = []
    for await (const piece of images.save("test/first:1")) pieces.push(piece)
    writeFileSync(archive, Buffer.concat(pieces))
    expect(await images.load(archive)).toHaveLength(1)
    for await (const _ of images.save("test/first:1")) break

    const root = path.join(outside, "root")
    mkdirSync(root)
    writeFileSync(path.join(root, "a"), "a")
    const made = await images.import(root, "mine:1", { changes: ['CMD ["a"]'] })
    expect(made.reference).toBe("docker.io/library/mine:1")
    expect(await images.list()).toHaveLength(2)
    expect((await images.usage()).images.count).toBe(2)

    expect(images.inspect("none")).rejects.toBeInstanceOf(ImageNotFound)
    expect(images.load(root)).rejects.toBeInstanceOf(ArchiveInvalid)
    const stop = new AbortController()
    stop.abort()
    expect(images.load(archive, { signal: stop.signal })).rejects.toThrow()
    expect(await images.remove("mine:1")).toMatchObject({ image_refs_removed: 1 })
    expect(await images.prune({ dryRun: true })).toMatchObject({ image_refs_removed: 1 })
    expect(await images.prune()).toMatchObject({ image_refs_removed: 1 })
    expect(problemsIn(home).filter((problem) => !problem.startsWith("locks/"))).toEqual([])
  })
})
