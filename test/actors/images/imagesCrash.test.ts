/** Processes that die by SIGKILL at each named step of their work on images, and what the next one finds. */

import { Database as Sqlite } from "bun:sqlite"
import { afterAll, beforeAll, describe, expect, setDefaultTimeout } from "bun:test"
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Effect } from "effect"
import type { Step } from "../../../src/domain/failpoint.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { archiveOf, file, imageOf, layoutFiles } from "../../support/image.ts"
import { layoutOf, noise, problemsIn } from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { sha256 } from "../../support/layers.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"
import { startTokenServer } from "../../support/tokenServer.ts"

setDefaultTimeout(240_000)

const image = imageOf([
  [file("a", noise(2_000_000, 1))],
  [file("b", "b"), file("c/d", noise(9000, 2))],
  [file("a", "another")]
])
const other = imageOf([[file("a", noise(2_000_000, 1))], [file("e", "e")]])

/** Steps of a pull; all but the first are those of a load, too. */
const pullSteps = [
  "token",
  "manifest",
  "lease.held",
  "layer.locked",
  "blob.half",
  "blob.whole",
  "layer.converted",
  "layer.synced",
  "layer.renamed",
  "layer.published",
  "layer.recorded",
  "fsmeta.built",
  "fsmeta.synced",
  "fsmeta.renamed",
  "fsmeta.published",
  "vmdk.synced",
  "vmdk.renamed",
  "vmdk.published",
  "image.half-recorded",
  "image.recorded",
  "lease.dropped"
] satisfies ReadonlyArray<Step>
const collectSteps = ["collect.half-deleted", "collect.deleted", "collect.file-removed"] satisfies ReadonlyArray<Step>

/** The child as one file, so that it starts in a tenth of the time. */
let bundle: string
beforeAll(async () => {
  bundle = mkdtempSync(path.join(tmpdir(), "bk-child-"))
  const entrypoint = path.join(import.meta.dir, "../../support/failpointChild.ts")
  await Bun.build({ entrypoints: [entrypoint], outdir: bundle, target: "bun" })
})
afterAll(() => rmSync(bundle, { recursive: true, force: true }))

const child = (home: string, action: string, what = "", step?: Step) =>
  Effect.promise(async () => {
    const running = Bun.spawn([process.execPath, path.join(bundle, "failpointChild.js"), home, action, what], {
      env: { PATH: process.env["PATH"], ...(step === undefined ? {} : { BUNKER_TEST_FAILPOINT: step }) },
      stdio: ["ignore", "ignore", "pipe"]
    })
    const said = await new Response(running.stderr).text()
    await running.exited
    return running.signalCode ?? `exit ${running.exitCode}${running.exitCode === 0 ? "" : `: ${said}`}`
  })

/** Every file with mode and content, but the database's own and what it held: rows without times and row ids. */
const snapshot = (home: string): unknown => {
  const files = readdirSync(home, { recursive: true, encoding: "utf8" })
    .filter((name) => !name.startsWith("bunker.db"))
    .toSorted()
    .map((name) => {
      const at = path.join(home, name)
      const stat = lstatSync(at)
      return `${name} ${stat.mode.toString(8)} ${stat.isFile() ? sha256(readFileSync(at)) : ""}`
    })
  const sqlite = new Sqlite(path.join(home, "bunker.db"), { readonly: true })
  try {
    const rows = (sql: string) => sqlite.query(sql).all()
    return {
      files,
      manifests: rows("SELECT digest, media_type, config_digest, layer_count, total_size_bytes FROM manifest"),
      references: rows("SELECT reference, digest FROM image_ref JOIN manifest ON manifest.id = manifest_id"),
      configs: rows("SELECT digest, env, cmd, labels FROM config"),
      layers: rows("SELECT diff_id, blob_digest, erofs_size_bytes FROM layer ORDER BY diff_id"),
      junctions: rows(
        "SELECT diff_id, position FROM manifest_layer JOIN layer ON layer.id = layer_id ORDER BY position"
      ),
      leases: rows("SELECT token, resource FROM content_lease")
    }
  } finally {
    sqlite.close()
  }
}

/** Kills `action` at every step, in homes of their own; after `again` each home must be as one that saw no kill. */
const killedAtEach = Effect.fnUntraced(function* (
  steps: ReadonlyArray<Step>,
  action: string,
  what: string,
  prepare: (home: string) => Effect.Effect<unknown>,
  again: (home: string) => Effect.Effect<unknown>
) {
  const place = yield* temporaryDirectory
  const clean = path.join(place, "clean")
  yield* prepare(clean)
  expect(yield* child(clean, action, what)).toBe("exit 0")
  yield* again(clean)
  const wanted = snapshot(clean)
  expect(problemsIn(clean)).toEqual([])
  yield* Effect.forEach(
    steps,
    (step) =>
      Effect.gen(function* () {
        const home = path.join(place, step)
        yield* prepare(home)
        expect({ step, end: yield* child(home, action, what, step) }).toEqual({ step, end: "SIGKILL" })
        expect({ step, end: yield* again(home) }).toEqual({ step, end: "exit 0" })
        expect({ step, home: snapshot(home) }).toEqual({ step, home: wanted })
        expect({ step, problems: problemsIn(home) }).toEqual({ step, problems: [] })
      }),
    { concurrency: 3 }
  )
})

describe("killed at each step", () => {
  if (hasRegistryTools)
    it.live("a pull leaves a cache in which the next one succeeds, and nothing else stays", () =>
      Effect.gen(function* () {
        const tokens = yield* startTokenServer()
        const registry = yield* startRegistry(tokens.registry)
        yield* registry.seed("team/app", "1", layoutOf(image))
        const reference = `${registry.host}/team/app:1`
        const pull = (home: string) => child(home, "pull", reference)
        yield* killedAtEach(pullSteps, "pull", reference, () => Effect.void, pull)
      })
    )

  it.live("a load leaves a cache in which the next one succeeds, and nothing else stays", () =>
    Effect.gen(function* () {
      const archive = path.join(yield* temporaryDirectory, "image.tar.gz")
      const files = layoutFiles([{ ...layoutOf(image), name: "test/app:1" }])
      writeFileSync(archive, Bun.gzipSync(new Uint8Array(archiveOf(files))))
      const load = (home: string) => child(home, "load", archive)
      const steps = ["load.opened", "blob.half", "layer.renamed", "fsmeta.renamed", "image.half-recorded"] as const
      yield* killedAtEach(steps, "load", archive, () => Effect.void, load)
    })
  )

  it.live("a removal is whole after the next start's sweep, and other images keep what they share", () =>
    Effect.gen(function* () {
      const archive = path.join(yield* temporaryDirectory, "image.tar")
      const names = [
        { ...layoutOf(image), name: "test/app:1" },
        { ...layoutOf(other), name: "test/other:1" }
      ]
      writeFileSync(archive, archiveOf(layoutFiles(names)))
      const prepare = (home: string) => child(home, "load", archive)
      const again = Effect.fnUntraced(function* (home: string) {
        // Before its transaction ended nothing had happened; after it, the name is gone and files are the sweep's.
        yield* child(home, "remove", "test/app:1")
        return yield* child(home, "sweep")
      })
      yield* killedAtEach(collectSteps, "remove", "test/app:1", prepare, again)
    })
  )

  it.live("a prune is whole after the next start's sweep or the next prune", () =>
    Effect.gen(function* () {
      const archive = path.join(yield* temporaryDirectory, "image.tar")
      writeFileSync(archive, archiveOf(layoutFiles([{ ...layoutOf(image), name: "test/app:1" }])))
      const prepare = (home: string) => child(home, "load", archive)
      const again = Effect.fnUntraced(function* (home: string) {
        yield* child(home, "sweep")
        return yield* child(home, "prune")
      })
      yield* killedAtEach(collectSteps, "prune", "", prepare, again)
    })
  )
})
