/** What records cost: persists of an image that is known already, and the prune of many images with their files. */
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { ImageStore } from "../../src/actors/images/ImageStore.ts"
import type { Digest } from "../../src/domain/image/digest.ts"
import { RunDefaults } from "../../src/domain/image/image.ts"
import { Database } from "../../src/store/database/Database.ts"
import { type ImageMetadata, persistImage, recordLayer } from "../../src/store/database/images.ts"
import { Paths } from "../../src/store/files/Paths.ts"
import { homeAt } from "../../test/support/home.ts"
import { imageStoreOver } from "../../test/support/imageStore.ts"
import { summarize } from "../support/statistics.ts"

const digest = (number: number): Digest => `sha256:${number.toString(16).padStart(64, "0")}` as Digest

const config = new RunDefaults({
  env: ["PATH=/bin"],
  cmd: ["/bin/sh"],
  entrypoint: [],
  workingDir: "",
  user: "",
  labels: {},
  stopSignal: null,
  exposedPorts: [],
  volumes: []
})

const metadata = (number: number, diffIds: ReadonlyArray<Digest>): ImageMetadata => ({
  manifestDigest: digest(number),
  mediaType: "m",
  configDigest: digest(number + 1),
  architecture: "amd64",
  os: "linux",
  variant: undefined,
  totalSizeBytes: 1,
  builtAt: null,
  config,
  diffIds
})

const putLayer = Effect.fnUntraced(function* (diffId: Digest, nowMs: number) {
  const db = yield* Database
  const row = { diffId, blobDigest: diffId, mediaType: "l", compressedSizeBytes: 1, erofsSizeBytes: 4096 }
  yield* recordLayer(db, row, nowMs)
})

/** Persists of an image of eight layers that the reference names already: the fast path. */
export const persistsPerSecond = (home: string) =>
  Effect.runPromise(
    Effect.gen(function* () {
      const db = yield* Database
      const diffIds = Array.from({ length: 8 }, (_, index) => digest(100 + index))
      for (const diffId of diffIds) yield* putLayer(diffId, 1)
      const meta = metadata(1, diffIds)
      yield* persistImage(db, "docker.io/bench/known:1", meta, 2)
      const rates = []
      for (let round = 0; round < 5; round += 1) {
        const count = 2000
        const began = performance.now()
        for (let index = 0; index < count; index += 1)
          yield* persistImage(db, "docker.io/bench/known:1", meta, 3 + index)
        rates.push(count / ((performance.now() - began) / 1000))
      }
      return summarize(rates)!
    }).pipe(Effect.provide(homeAt(home)))
  )

const images = 1000

/** Milliseconds of a prune that removes 1,000 images of two layers each, one of them shared by all, with their files. */
export const pruneThousand = (home: string, rounds: number) =>
  Effect.runPromise(
    Effect.gen(function* () {
      const db = yield* Database
      const paths = yield* Paths
      const store = yield* ImageStore
      const times = []
      const block = Buffer.alloc(4096)
      for (let round = 0; round < rounds; round += 1) {
        const put = (file: string) => fs.writeFileSync(file, block)
        const shared = digest(7)
        yield* putLayer(shared, 1)
        put(paths.layerImage(shared))
        for (let index = 0; index < images; index += 1) {
          const own = digest(1_000_000 + index)
          const meta = metadata(2_000_000 + 2 * index, [shared, own])
          yield* putLayer(own, 1)
          put(paths.layerImage(own))
          put(paths.fsmeta(meta.manifestDigest))
          put(paths.vmdk(meta.manifestDigest))
          yield* persistImage(db, `docker.io/bench/image:${index}`, meta, 2)
        }
        const began = performance.now()
        const report = yield* store.Prune({})
        times.push(performance.now() - began)
        const left = fs.readdirSync(paths.layers).length
        if (report.manifests_removed !== images || left !== 0)
          throw new Error(`the prune left ${path.basename(home)} full`)
      }
      return summarize(times)!
    }).pipe(Effect.provide(imageStoreOver(homeAt(home))), Effect.scoped)
  )
