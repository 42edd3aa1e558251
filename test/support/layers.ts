/** Converts layers that tests make in memory, and merges them. */

import fs from "node:fs"
import path from "node:path"
import { Effect, Stream } from "effect"
import { type ConvertedLayer, type ConvertOptions, convertLayer } from "../../src/oci/layer/layer.ts"

export const sha256 = (bytes: Uint8Array): string =>
  `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`

/** Cuts bytes into pieces of the given sizes, over and over. */
const pieces = (bytes: Uint8Array, ...sizes: ReadonlyArray<number>): Array<Uint8Array> => {
  const list: Array<Uint8Array> = []
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length]!
    list.push(bytes.subarray(at, at + size))
    at += size
  }
  return list
}

export const convert = (
  stored: Uint8Array,
  outPath: string,
  expected: {
    readonly diffId?: string
    readonly digest?: string
    readonly sizeBytes?: number
    readonly cut?: ReadonlyArray<number>
  } = {},
  options: ConvertOptions = {}
) =>
  convertLayer(
    {
      mediaType: "application/vnd.oci.image.layer.v1.tar",
      digest: expected.digest ?? sha256(stored),
      sizeBytes: expected.sizeBytes ?? stored.length,
      diffId: expected.diffId,
      bytes: Stream.fromIterable(pieces(stored, ...(expected.cut ?? [65_536])))
    },
    outPath,
    options
  )

/** Converts tars to layer images `0.erofs`, `1.erofs`, … in a directory. */
export const convertAll = Effect.fnUntraced(function* (directory: string, tars: ReadonlyArray<Uint8Array>) {
  const done: Array<ConvertedLayer & { readonly path: string }> = []
  for (const [i, bytes] of tars.entries()) {
    const out = path.join(directory, `${i}.erofs`)
    done.push({ ...(yield* convert(bytes, out)), path: out })
  }
  return done
})

/** Lays files end to end, as the VM's disk does. */
export const concatenate = (files: ReadonlyArray<string>, outPath: string): string => {
  const out = fs.openSync(outPath, "w")
  for (const file of files) fs.writeSync(out, fs.readFileSync(file))
  fs.closeSync(out)
  return outPath
}
