/**
 * What is fuzzed, and what must hold whatever the input: it is taken or refused by a typed error, within bounded time, and what is
 * taken is consistent. Each target answers the outcome in words without numbers; a new outcome makes an input worth keeping.
 */
import fs from "node:fs"
import path from "node:path"
import { Cause, Effect, Exit, Stream } from "effect"
import { ArchiveInvalid } from "../../src/domain/errors/image.ts"
import { manifestBytesMax, mediaTypes } from "../../src/domain/image/descriptor.ts"
import { defaultPlatform } from "../../src/domain/image/platform.ts"
import { referenceResult } from "../../src/domain/image/reference.ts"
import { openArchive } from "../../src/oci/archive/archive.ts"
import { buildFsmeta } from "../../src/oci/erofs/fsmeta.ts"
import type { LayerLimits } from "../../src/oci/layer/layer.ts"
import { TarRecord } from "../../src/oci/layer/tarSplit.ts"
import { resolveImage } from "../../src/oci/manifest/resolve.ts"
import { parseChallenges } from "../../src/oci/registry/token.ts"
import { archiveOf, directory, file, imageOf, indexOf, layoutFiles, savedFiles } from "../support/image.ts"
import { layoutOf } from "../support/imageStore.ts"
import { convert, sha256 } from "../support/layers.ts"
import { Model } from "../support/model.ts"
import { fsck, have } from "../support/mount.ts"
import { mutateBytes, mutateErofs, mutateJson, mutateLayer, type Random } from "./mutate.ts"
import { netTargets } from "./netTargets.ts"

export interface Target {
  readonly name: string
  /** Good inputs to begin with. */
  readonly seeds: () => Promise<ReadonlyArray<Uint8Array>>
  readonly mutate: (random: Random, input: Uint8Array, other: Uint8Array) => Buffer
  /** Throws when something does not hold. `place` is an empty directory; `thorough` adds checks that start processes. */
  readonly run: (input: Uint8Array, place: string, thorough: boolean) => Promise<string>
}

/** Longest that one input may take, in milliseconds: more is a finding. */
export const inputMaxMs = 10_000

const limits: LayerLimits = {
  entriesMax: 5_000,
  pathBytesMax: 4096,
  depthMax: 128,
  fileBytesMax: 2 ** 34,
  bytesMax: 2 ** 25,
  ratioMax: 1000,
  ratioFreeBytes: 2 ** 22
}

const withoutNumbers = (text: string): string =>
  text
    .replace(/sha256:[0-9a-f]+/g, "sha256")
    .replace(/"[^"]*"/g, "…")
    .replace(/[0-9]+/g, "n")
    .replace(/(is not valid: \S+).*/, "$1")
    .slice(0, 160)

/** The outcome of an effect; a defect is thrown as what it is. */
const outcome = async <A>(
  effect: Effect.Effect<A, { readonly _tag: string; readonly message: string }>,
  taken: (value: A) => string | Promise<string>
): Promise<string> => {
  const exit = await Effect.runPromiseExit(effect)
  if (Exit.isSuccess(exit)) return taken(exit.value)
  const { reasons } = exit.cause
  const [first] = reasons
  if (first?._tag !== "Fail") throw new Error(`a defect: ${Cause.pretty(exit.cause)}`)
  const { _tag, message } = first.error
  // What terminals obey must not come out of an input.
  if (/[\u0000-\u001f\u007f-\u009f]/.test(message)) throw new Error(`control characters in: ${JSON.stringify(message)}`)
  if (message.length > 20_000) throw new Error(`a message of ${message.length} characters`)
  return `${_tag}: ${withoutNumbers(message)}`
}

const same = (a: string, b: string): boolean => fs.readFileSync(a).equals(fs.readFileSync(b))

const layer: Target = {
  name: "layer",
  seeds: async () => {
    const models = [1, 2, 3, 4].map((seed) => new Model(seed).layer(12))
    return [...models, Bun.gzipSync(new Uint8Array(models[0]!)), Bun.zstdCompressSync(models[1]!)]
  },
  mutate: mutateLayer,
  run: async (input, place, thorough) => {
    const out = path.join(place, "layer.erofs")
    const result = await outcome(convert(input, out, { cut: [65_536] }, { limits }), async (done) => {
      const again = path.join(place, "again.erofs")
      const other = await Effect.runPromise(convert(input, again, { cut: [1 + (input.length % 997), 3] }, { limits }))
      if (other.diffId !== done.diffId || !same(out, again)) throw new Error("other pieces give another image")
      const record = TarRecord.open(out, "layer")
      if (record === undefined) throw new Error("the image has no record of its tar")
      try {
        if (sha256(Buffer.concat([...record.pieces()])) !== done.diffId)
          throw new Error("its tar can not be told again")
      } finally {
        record.close()
      }
      // A hard link into a layer below is taken; alone, the layer that has one cannot be merged.
      const merged = await outcome(buildFsmeta([out], path.join(place, "fsmeta.erofs")), () => "merged")
      if (merged !== "merged" && !merged.includes("a hard link leads to")) throw new Error(`not merged: ${merged}`)
      if (thorough && have("fsck.erofs")) {
        fsck(out)
        if (merged === "merged") fsck(path.join(place, "fsmeta.erofs"), [out])
      }
      return "taken"
    })
    if (result !== "taken" && fs.existsSync(out)) throw new Error("a refused layer left its file")
    return result
  }
}

const erofs: Target = {
  name: "erofs",
  seeds: async () => {
    const place = fs.mkdtempSync(path.join(process.env["TMPDIR"] ?? "/tmp", "bk-seed-"))
    try {
      const out = path.join(place, "x")
      const images = []
      for (const seed of [1, 2, 3]) {
        await Effect.runPromise(convert(new Model(seed).layer(15), out))
        images.push(fs.readFileSync(out))
      }
      return images
    } finally {
      fs.rmSync(place, { recursive: true })
    }
  },
  mutate: mutateErofs,
  run: (input, place) => {
    const image = path.join(place, "image.erofs")
    fs.writeFileSync(image, input)
    const merged = path.join(place, "fsmeta.erofs")
    return outcome(buildFsmeta([image], merged), () => {
      let told = "no record"
      try {
        const record = TarRecord.open(image, "image")
        try {
          let bytes = 0
          for (const piece of record?.pieces() ?? []) {
            bytes += piece.length
            if (bytes > 2 ** 27) break
          }
          if (record !== undefined) told = "record"
        } finally {
          record?.close()
        }
      } catch (cause) {
        if ((cause as Error).name !== "RejectedInput") throw cause
        told = withoutNumbers((cause as { readonly reason?: string }).reason ?? "refused")
      }
      return `merged, ${told}`
    })
  }
}

const good = imageOf([[directory("a"), file("a/b", "c")], [file("d", "e")]])

const documents: Target = {
  name: "documents",
  seeds: async () => [
    good.manifest.bytes,
    good.config.bytes,
    indexOf([{ blob: good.manifest, platform: good.platform }]).bytes,
    imageOf([[file("x", "y")]], { flavour: "docker" }).manifest.bytes,
    Buffer.from('Bearer realm="https://auth.example/token",service="s",scope="repository:a/b:pull"'),
    Buffer.from("registry.example:5000/team/app:1.0@sha256:" + "a".repeat(64))
  ],
  mutate: mutateJson,
  run: async (input) => {
    const text = Buffer.from(input).toString("latin1")
    parseChallenges(text.slice(0, 4096))
    const reference = referenceResult(text.slice(0, 1024))._tag
    const blobs = [...good.blobs, indexOf([{ blob: good.manifest, platform: good.platform }])]
    const outcomes: Array<string> = []
    // As the top, and as the config of a good manifest.
    for (const place of ["root", "config"] as const) {
      const mediaType = [undefined, mediaTypes.ociManifest, mediaTypes.ociIndex][input.length % 3]
      const store = {
        name: "fuzzed",
        root: Effect.succeed(
          place === "root" ? { bytes: input, mediaType } : { bytes: good.manifest.bytes, mediaType: undefined }
        ),
        document: (kind: "manifest" | "config", { digest }: { readonly digest: string }) => {
          if (kind === "config" && place === "config") return Effect.succeed(input)
          const blob = blobs.find(({ descriptor }) => descriptor.digest === digest)
          return blob === undefined
            ? Effect.fail(new ArchiveInvalid({ path: "fuzzed", reason: "missing" }))
            : Effect.succeed(blob.bytes)
        }
      }
      if (input.length > manifestBytesMax) continue
      outcomes.push(await outcome(resolveImage(store, defaultPlatform), () => "resolved"))
    }
    return `${reference}, ${outcomes.join(", ")}`
  }
}

const archive: Target = {
  name: "archive",
  seeds: async () => {
    const named = { ...layoutOf(good), name: "test/good:1" }
    const plain = archiveOf(layoutFiles([named]))
    return [plain, archiveOf(savedFiles(good, ["a:1", "b:2"])), Bun.gzipSync(new Uint8Array(plain))]
  },
  mutate: (random, input, other) => (random(3) === 0 ? mutateBytes(random, input) : mutateLayer(random, input, other)),
  run: (input, place) => {
    const at = path.join(place, "archive")
    fs.writeFileSync(at, input)
    return outcome(
      Effect.gen(function* () {
        const opened = yield* openArchive(at, { spoolDirectory: place })
        const source = opened.source(0)
        const image = yield* source.resolve(defaultPlatform)
        for (const each of image.layers.slice(0, 8)) yield* Stream.runDrain(source.blob(each))
        return image.layers.length
      }).pipe(Effect.scoped),
      (layers) => `opened, ${Math.min(layers, 3)} layers`
    )
  }
}

export const targets: ReadonlyArray<Target> = [layer, erofs, documents, archive, ...netTargets]
