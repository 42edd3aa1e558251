/** An image made by umoci and skopeo: our merged disk must list exactly like the tree that umoci unpacks. */
import { describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { buildFsmeta } from "../../../src/oci/erofs/fsmeta.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { concatenate, convert } from "../../support/layers.ts"
import { fsck, have, type Listed, listTree, mounted, mountMissing, run, setXattr } from "../../support/mount.ts"

const missing =
  mountMissing ?? ["umoci", "skopeo", "mknod", "cp", "fsck.erofs"].filter((tool) => !have(tool)).join(", ")

/** First layer: a bit of everything, with real files of this machine. */
const fill = (root: string): void => {
  const at = (name: string) => path.join(root, name)
  for (const name of ["usr/bin", "usr/lib", "etc/conf.d", "var/empty", "dev", "srv/deep/er"]) {
    fs.mkdirSync(at(name), { recursive: true })
  }
  run("cp", "-a", "/usr/share/zoneinfo", at("usr/share"))
  fs.copyFileSync("/bin/sh", at("usr/bin/sh"))
  fs.chmodSync(at("usr/bin/sh"), 0o4755)
  fs.symlinkSync("usr/bin", at("bin"))
  fs.symlinkSync("/absolute/nowhere", at("srv/link"))
  fs.writeFileSync(at("etc/one"), "one")
  for (const name of ["etc/two", "etc/conf.d/three", "srv/deep/er/four"]) fs.linkSync(at("etc/one"), at(name))
  fs.writeFileSync(at("etc/empty"), "")
  fs.writeFileSync(at("etc/owned"), "mine")
  fs.chownSync(at("etc/owned"), 1000, 65_534)
  fs.lutimesSync(at("srv/link"), 1, 1_000_000)
  run("mknod", at("dev/null"), "c", "1", "3")
  run("mknod", at("dev/loop"), "b", "7", "300")
  run("mknod", at("dev/fifo"), "p")
  setXattr(at("etc/owned"), "user.note", Buffer.from([0, 1, 255]))
  setXattr(at("usr/bin/sh"), "security.capability", Buffer.from("0100000200040000000000000000000000000000", "hex"))
  run("truncate", "-s", "3000000", at("srv/sparse"))
  fs.writeFileSync(Buffer.concat([Buffer.from(`${at("srv")}/caf`), Buffer.from([0xe9])]), "latin1")
  fs.writeFileSync(at(`srv/${"n".repeat(200)}`), "long name")
  fs.chmodSync(at("var/empty"), 0o1777)
  fs.utimesSync(at("var/empty"), 1_600_000_000, 1_600_000_000)
}

/** Second layer: removals, changes of type and mode, a directory replaced by a new one. */
const edit = (root: string): void => {
  const at = (name: string) => path.join(root, name)
  fs.rmSync(at("etc/two"))
  fs.rmSync(at("usr/share"), { recursive: true })
  fs.mkdirSync(at("usr/share"))
  fs.writeFileSync(at("usr/share/new"), "new")
  fs.rmSync(at("srv/link"))
  fs.mkdirSync(at("srv/link"))
  fs.rmSync(at("srv/deep"), { recursive: true })
  fs.writeFileSync(at("srv/deep"), "a file now")
  fs.rmSync(at("etc/conf.d"), { recursive: true })
  fs.symlinkSync("../usr/lib", at("etc/conf.d"))
  fs.chmodSync(at("etc"), 0o700)
  fs.writeFileSync(at("usr/lib/added"), "x".repeat(100_000))
}

const blobOf = (layout: string, digest: string): string => path.join(layout, "blobs", ...digest.split(":"))
const readJson = (file: string) => JSON.parse(fs.readFileSync(file, "utf8"))

/** Layers of the only image in an OCI layout, with the diff ids of its config. */
const layersOf = (layout: string): Array<{ digest: string; size: number; diffId: string; mediaType: string }> => {
  const manifest = readJson(blobOf(layout, readJson(path.join(layout, "index.json")).manifests[0].digest))
  const config = readJson(blobOf(layout, manifest.config.digest))
  return manifest.layers.map((layer: { digest: string; size: number; mediaType: string }, i: number) => ({
    ...layer,
    diffId: config.rootfs.diff_ids[i]
  }))
}

/** File systems count a directory's links in their own ways. */
const comparable = (tree: Map<string, Listed>): Array<unknown> =>
  [...tree]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, entry]) => [name, entry.mode.startsWith("4") ? { ...entry, nlink: 0 } : entry])

describe("an image of umoci's", () => {
  if (missing !== "") {
    test.skip(`needs what is not here: ${missing}`, () => {})
    return
  }

  it.live(
    "lists as umoci unpacks it, from gzip and from zstd",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const layout = path.join(directory, "layout")
        const image = `${layout}:t`
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", image)
        for (const [i, change] of [fill, edit].entries()) {
          const bundle = path.join(directory, `bundle${i}`)
          run("umoci", "unpack", "--image", image, bundle)
          change(path.join(bundle, "rootfs"))
          run("umoci", "repack", "--image", image, bundle)
        }
        const unpacked = path.join(directory, "unpacked")
        run("umoci", "unpack", "--image", image, unpacked)
        const expected = comparable(listTree(path.join(unpacked, "rootfs")))
        expect(expected.length).toBeGreaterThan(25)
        const zstd = path.join(directory, "zstd")
        run(
          "skopeo",
          "copy",
          "--insecure-policy",
          "--dest-compress-format",
          "zstd",
          "--dest-compress",
          `oci:${image}`,
          `oci:${zstd}:t`
        )
        run("umoci", "gc", "--layout", layout)
        for (const from of [layout, zstd]) {
          const paths: Array<string> = []
          for (const layer of layersOf(from)) {
            const out = path.join(directory, `${path.basename(from)}${paths.length}.erofs`)
            const stored = fs.readFileSync(blobOf(from, layer.digest))
            yield* convert(stored, out, { digest: layer.digest, sizeBytes: layer.size, diffId: layer.diffId })
            fsck(out)
            paths.push(out)
          }
          expect(paths.length).toBe(2)
          const merged = path.join(directory, `${path.basename(from)}.erofs`)
          yield* buildFsmeta(paths, merged)
          fsck(merged, paths)
          const disk = concatenate([merged, ...paths], path.join(directory, "disk"))
          expect(comparable(mounted(disk, [], listTree))).toEqual(expected)
        }
        expect(layersOf(zstd)[0]!.mediaType).toMatch(/zstd/)
      }),
    120_000
  )
})
