/** What starts clear away without being asked: strays of the cache, leases of the dead, images that only a sandbox kept. */
import { describe, expect, setDefaultTimeout } from "bun:test"
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { LeaseManager } from "../../../src/actors/leases/LeaseManager.ts"
import { Sweeper } from "../../../src/actors/sandboxes/Sweeper.ts"
import type { Digest } from "../../../src/domain/image/digest.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { insertSandbox } from "../../../src/store/database/sandboxes.ts"
import { fileLock } from "../../../src/store/files/lock.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { isAbandoned, leaseToken } from "../../../src/store/processes/processToken.ts"
import { Home, program } from "../../support/bunker.ts"
import { freshHome, temporaryDirectory } from "../../support/home.ts"
import { archiveOf, layoutFiles, writeFiles } from "../../support/image.ts"
import { first, imageStoreOver, layoutOf, loadAll, problemsIn, second } from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { config } from "../../support/sandboxes.ts"

setDefaultTimeout(30_000)

const environment = Layer.provideMerge(Sweeper.layer(), imageStoreOver(freshHome))
const named = { ...layoutOf(first), name: "test/first:1" }
const manifestDigest = first.manifest.descriptor.digest as Digest

const loaded = Effect.gen(function* () {
  const directory = yield* temporaryDirectory
  yield* Effect.promise(() => writeFiles(directory, layoutFiles([named])))
  yield* loadAll({ path: directory })
  return yield* Paths
})

/** Content token of a process that has ended, made by that process. */
const tokenOfTheDead = Effect.promise(async () => {
  const file = JSON.stringify(path.join(import.meta.dir, "../../../src/store/processes/processToken.ts"))
  const script = `import { leaseToken } from ${file}; process.stdout.write(leaseToken())`
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", cwd: import.meta.dir })
  const token = await new Response(child.stdout).text()
  await child.exited
  return token
})

describe("the startup sweep", () => {
  it.live("takes files of the cache that nothing names, and leaves those that are recorded, leased or locked", () =>
    Effect.gen(function* () {
      const paths = yield* loaded
      const sweeper = yield* Sweeper
      const leases = yield* LeaseManager
      const stray = (directory: string, name: string) => {
        writeFileSync(path.join(directory, name), "x")
        return path.join(directory, name)
      }
      const [gone, leased, locked] = ["a", "b", "c"].map((letter) => letter.repeat(64))
      const going = [
        stray(paths.layers, `${gone}.erofs`),
        stray(paths.fsmetas, `${gone}.erofs`),
        stray(paths.vmdks, `${gone}.vmdk`),
        stray(paths.locks, `${"d".repeat(64)}.lock`)
      ]
      const staying = [
        stray(paths.fsmetas, `${leased}.erofs`),
        stray(paths.layers, `${locked}.erofs`),
        stray(paths.layers, "notes.txt"),
        paths.vmdk(manifestDigest)
      ]
      yield* leases.HoldContent({ token: leaseToken(), resources: [`sha256:${leased}`], durationMs: 60_000 })
      yield* Effect.gen(function* () {
        yield* fileLock(paths.lockFile(`sha256:${locked}` as Digest))
        yield* sweeper.Sweep({ force: true })
        expect(going.filter((file) => existsSync(file))).toEqual([])
        expect(staying.filter((file) => !existsSync(file))).toEqual([])
      }).pipe(Effect.scoped)
      yield* sweeper.Sweep({ force: true })
      expect(staying.map((file) => existsSync(file))).toEqual([true, false, true, true])
    }).pipe(Effect.provide(environment), Effect.scoped)
  )
})

describe("leases of the dead", () => {
  it.live("a process that died holds nothing any more, one that lives or can not be seen does", () =>
    Effect.gen(function* () {
      const paths = yield* loaded
      const store = yield* ImageStore
      const leases = yield* LeaseManager
      const dead = yield* tokenOfTheDead
      const elsewhere = dead.replace(/^([0-9]+-[0-9]+)-[0-9]+-/, "$1-1-")
      expect(isAbandoned(dead)).toBe(true)
      for (const token of [
        leaseToken(),
        "a-token-of-somebody",
        elsewhere,
        dead.replace(/[0-9a-f]{12}\//, "000000000000/")
      ]) {
        expect({ token, abandoned: isAbandoned(token) }).toEqual({ token, abandoned: false })
        yield* leases.HoldContent({ token, resources: [manifestDigest], durationMs: 60_000 })
        expect(yield* store.Prune({})).toMatchObject({ image_refs_removed: 0 })
        yield* leases.DropContent({ token })
      }
      yield* leases.HoldContent({ token: dead, resources: [manifestDigest], durationMs: 60_000 })
      expect(yield* store.Prune({})).toMatchObject({ image_refs_removed: 1, layers_removed: 3 })
      expect(yield* Database.use((db) => db.all("SELECT * FROM content_lease"))).toEqual([])
      expect(readdirSync(paths.layers)).toEqual([])
    }).pipe(Effect.provide(environment), Effect.scoped)
  )
})

describe("an image that was removed by force", () => {
  it.live("goes with the last ephemeral sandbox that is made from it", () =>
    Effect.gen(function* () {
      const paths = yield* loaded
      const db = yield* Database
      const store = yield* ImageStore
      const sweeper = yield* Sweeper
      for (const name of ["one", "two"] as ReadonlyArray<string>) {
        yield* insertSandbox(db, { name: name as SafeName, config, ephemeral: true, manifestDigest, nowMs: 1 })
      }
      yield* db.run("UPDATE sandbox SET status = 'stopped'")
      yield* store.Remove({ reference: "test/first:1", force: true })
      expect(existsSync(paths.vmdk(manifestDigest))).toBe(true)
      expect(yield* sweeper.Clean({ name: "one" as SafeName })).toBe("removed")
      expect(existsSync(paths.vmdk(manifestDigest))).toBe(true)
      expect(yield* sweeper.Clean({ name: "two" as SafeName })).toBe("removed")
      expect(problemsIn(paths.home)).toEqual([])
      expect([paths.layers, paths.fsmetas, paths.vmdks].flatMap((directory) => readdirSync(directory))).toEqual([])
    }).pipe(Effect.provide(environment), Effect.scoped)
  )

  it.live("goes with a persistent sandbox that is removed, and an image with a name stays", () =>
    Effect.promise(async () => {
      const home = new Home()
      try {
        const archive = path.join(home.directory, "image.tar")
        const images = [named, { ...layoutOf(second), name: "test/second:1" }]
        writeFileSync(archive, archiveOf(layoutFiles(images)))
        // The released program has no failpoints, whatever the environment says.
        const env = { BUNKER_TEST_FAILPOINT: "layer.renamed" }
        await home.must(["load", archive], { env })
        for (const name of ["first", "second"]) await home.must(["create", "--name", name, `test/${name}:1`])
        await home.must(["image", "rm", "-f", "test/first:1"])
        const layers = () => readdirSync(path.join(home.directory, "cache/layers")).length
        expect(layers()).toBe(4)
        await home.must(["rm", "first", "second"])
        expect(layers()).toBe(2)
        expect(problemsIn(home.directory)).toEqual([])
      } finally {
        await home.dispose()
      }
    })
  )
})

describe("the built program", () => {
  it.live("has no way to arm a failpoint", () =>
    Effect.sync(() => {
      const bytes = readFileSync(program)
      expect(bytes.includes("BUNKER_HOME")).toBe(true)
      expect(bytes.includes("BUNKER_TEST_FAILPOINT")).toBe(false)
    })
  )
})
