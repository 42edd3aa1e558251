/** The images that the bench pulls: busybox, a Debian made by mmdebstrap (kept between runs), and forty small layers. */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { mediaTypes } from "../../src/domain/image/descriptor.ts"
import { busyboxLayer, busyboxPath } from "../../test/support/busyboxImage.ts"
import { blobOf, directory, type Entry, file, imageOf, jsonBlob, type LayoutImage } from "../../test/support/image.ts"
import { layoutOf } from "../../test/support/imageStore.ts"
import { sha256 } from "../../test/support/layers.ts"
import { generator } from "../../test/support/random.ts"

const must = (command: ReadonlyArray<string>): void => {
  const { exitCode, stderr } = Bun.spawnSync([...command], { stdout: "inherit", stderr: "pipe" })
  if (exitCode !== 0) throw new Error(`${command.join(" ")} ended with ${exitCode}:\n${stderr}`)
}

/** Debian bookworm with python3, about 100 MB compressed and 10,000 entries, as a plain tar; made once. */
const debianTar = (): string => {
  const cache = path.join(os.homedir(), ".cache/bunker-bench")
  const tar = path.join(cache, "debian-bookworm.tar")
  if (!fs.existsSync(tar)) {
    fs.mkdirSync(cache, { recursive: true })
    const packages = "--include=python3,perl"
    must(["mmdebstrap", "--quiet", "--variant=important", packages, "bookworm", `${tar}.part.tar`])
    fs.renameSync(`${tar}.part.tar`, tar)
  }
  return tar
}

/** An image of one tar, compressed as registries' images are: gzip, level 6. */
const imageOfTar = (tarFile: string): LayoutImage => {
  const packed = `${tarFile}.gz`
  if (!fs.existsSync(packed)) {
    must(["gzip", "-6", "-n", "-k", "-f", tarFile])
  }
  const layer = blobOf(mediaTypes.ociLayerGzip, fs.readFileSync(packed))
  const config = jsonBlob(mediaTypes.ociConfig, {
    architecture: "amd64",
    os: "linux",
    config: { Cmd: ["/bin/sh"] },
    rootfs: { type: "layers", diff_ids: [sha256(fs.readFileSync(tarFile))] }
  })
  const manifest = jsonBlob(mediaTypes.ociManifest, {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: config.descriptor,
    layers: [layer.descriptor]
  })
  return { top: manifest, blobs: [layer, config, manifest] }
}

/** Forty layers of twenty files of up to 16 KiB, each changing a little of the one below. */
const fortyLayers = (): LayoutImage => {
  const random = generator(40)
  const layer = (number: number): ReadonlyArray<Entry> => [
    directory(`srv/${number % 8}`),
    ...Array.from({ length: 20 }, (_, index) => {
      const words = Array.from({ length: random(2000) + 1 }, () => `${random(100_000)}`)
      return file(`srv/${number % 8}/${index}`, words.join(" "))
    })
  ]
  return layoutOf(imageOf(Array.from({ length: 40 }, (_, number) => layer(number))))
}

export interface Subject {
  readonly name: string
  readonly image: LayoutImage
}

/** What the bench needs from the machine to make them; empty when all is there. */
export const missingForCorpus = (): ReadonlyArray<string> => [
  ...["mmdebstrap", "gzip"].filter((tool) => Bun.which(tool) === null),
  ...(busyboxPath() === undefined ? ["a static busybox"] : [])
]

export const corpus = (): ReadonlyArray<Subject> => [
  { name: "busybox", image: layoutOf(imageOf([busyboxLayer(busyboxPath()!)])) },
  { name: "debian", image: imageOfTar(debianTar()) },
  { name: "forty", image: fortyLayers() }
]
