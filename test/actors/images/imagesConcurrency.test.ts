import { describe, expect } from "bun:test"
import path from "node:path"
import { Effect } from "effect"
import type { SafeName } from "../../../src/domain/name.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { insertSandbox } from "../../../src/store/database/sandboxes.ts"
import { startFaultProxy } from "../../support/faultProxy.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { file, imageOf } from "../../support/image.ts"
import {
  first,
  imageStoreOver,
  layoutOf,
  noise,
  problemsIn,
  pullAll,
  repeating,
  second
} from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"
import { config } from "../../support/sandboxes.ts"

const support = (name: string) => JSON.stringify(path.join(import.meta.dir, "../../support", name))

const source = (name: string) => JSON.stringify(path.join(import.meta.dir, "../../../src", name))

/** How long processes pull and prune against each other; BUNKER_TEST_SOAK_SECONDS for longer than the suite's time. */
const soakMs = Number(process.env["BUNKER_TEST_SOAK_SECONDS"] ?? 5) * 1000

/** Runs the body of an async generator function over the store of `home` in a process of its own; answers what it wrote. */
const inProcess = async (home: string, body: string): Promise<string> => {
  const script = `
    import { Effect } from "effect"
    import { readFileSync, statSync } from "node:fs"
    import path from "node:path"
    /** Every file that a disk is made of is there, whole. */
    const mustBeWhole = (disk) => {
      const extents = [...readFileSync(disk, "utf8").matchAll(/^RW (\\d+) FLAT "([^"]+)" 0$/gm)]
      if (extents.length < 2) throw new Error(disk + " is no disk")
      for (const [, sectors, name] of extents)
        if (statSync(path.resolve(path.dirname(disk), name)).size !== sectors * 512) throw new Error(name + " is not whole")
    }
    import { ImageStore } from ${source("actors/images/ImageStore.ts")}
    import { imageStoreOver, pullAll } from ${support("imageStore.ts")}
    import { homeAt } from ${support("home.ts")}
    import { LeaseManager } from ${source("actors/leases/LeaseManager.ts")}
    import { leaseToken } from ${source("store/processes/processToken.ts")}
    const program = Effect.gen(function* () { const store = yield* ImageStore; const leases = yield* LeaseManager; ${body} })
    const over = imageStoreOver(homeAt(${JSON.stringify(home)}))
    await Effect.runPromise(program.pipe(Effect.provide(over), Effect.scoped))`
  const child = Bun.spawn([process.execPath, "-e", script], { cwd: import.meta.dir, stdout: "pipe", stderr: "pipe" })
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return (await child.exited) === 0 ? out : `exit ${child.exitCode}: ${out}${err}`
}

describe.skipIf(!hasRegistryTools)("several processes", () => {
  it.live(
    "eight that pull one image at once download each layer once",
    () =>
      Effect.gen(function* () {
        const registry = yield* startRegistry()
        const image = imageOf([1, 2, 3].map((seed) => [file(`noise-${seed}`, noise(3_000_000, seed))]))
        yield* registry.push("team/big:1", layoutOf(image))
        const proxy = yield* startFaultProxy(registry.host, () => undefined)
        const home = yield* temporaryDirectory
        const body = `
          const events = yield* pullAll({ reference: "${proxy.host}/team/big:1", policy: "always" })
          process.stdout.write(events.at(-1)._tag)`
        const said = yield* Effect.promise(() => Promise.all(Array.from({ length: 8 }, () => inProcess(home, body))))
        expect(said).toEqual(Array.from({ length: 8 }, () => "Done"))
        for (const { descriptor } of image.layers) {
          const gets = proxy.requests.filter((request) => request.path.endsWith(`/blobs/${descriptor.digest}`))
          expect(gets).toHaveLength(1)
        }
        expect(problemsIn(home)).toEqual([])
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "pulling, removing and pruning at once loses nothing that is referenced",
    () =>
      Effect.gen(function* () {
        const registry = yield* startRegistry()
        yield* registry.push("team/first:1", layoutOf(first))
        yield* registry.push("team/second:1", layoutOf(second))
        yield* registry.push("team/again:1", layoutOf(repeating))
        const home = yield* temporaryDirectory
        const at = (name: string) => `${registry.host}/team/${name}`
        const sandboxId = yield* Effect.gen(function* () {
          yield* pullAll({ reference: at("second:1"), policy: "always" })
          const db = yield* Database
          const manifestDigest = second.manifest.descriptor.digest
          return yield* insertSandbox(db, {
            name: "box" as SafeName,
            config,
            ephemeral: false,
            manifestDigest,
            nowMs: 1
          })
        }).pipe(Effect.provide(imageStoreOver(homeAt(home))))
        const seed = Date.now() % 1_000_000
        console.log(`seed ${seed}`)
        const body = (process: number) => `
          let state = ${seed + process * 7919}
          const random = (n) => ((state = (state * 1103515245 + 12345) % 2147483648) >> 8) % n
          const names = ["first:1", "second:1", "again:1"]
          const end = Date.now() + ${soakMs}
          let rounds = 0
          while (Date.now() < end) {
            rounds += 1
            const reference = "${registry.host}/team/" + names[random(3)]
            const what = random(6)
            if (what < 2) yield* pullAll({ reference, policy: what === 0 ? "always" : "if-missing" })
            else if (what === 5) {
              const token = leaseToken()
              const leased = yield* store.Lease({ reference, token, durationMs: 60_000 }).pipe(Effect.option)
              if (leased._tag === "Some") {
                for (let look = 0; look < 5; look += 1) {
                  mustBeWhole(leased.value.disk)
                  yield* Effect.sleep(1 + random(5))
                }
              }
              yield* leases.DropContent({ token })
            }
            else if (what === 2) yield* store.Prune({})
            else if (what === 3) yield* store.Remove({ reference, force: false }).pipe(
              Effect.catchTags({ ImageNotFound: () => Effect.void, ImageInUse: () => Effect.void }))
            else {
              const leased = yield* store.Lease({ reference: "gone", sandboxId: ${sandboxId}, token: "t${process}", durationMs: 1000 })
              mustBeWhole(leased.disk)
            }
          }
          process.stdout.write("rounds " + rounds)`
        const said = yield* Effect.promise(() => Promise.all([0, 1, 2, 3].map((each) => inProcess(home, body(each)))))
        for (const words of said) expect(words).toMatch(/^rounds \d+$/)
        console.log(said.join(", "))
        yield* Effect.gen(function* () {
          for (const name of ["first:1", "second:1", "again:1"])
            yield* pullAll({ reference: at(name), policy: "if-missing" })
        }).pipe(Effect.provide(imageStoreOver(homeAt(home))))
        expect(problemsIn(home)).toEqual([])
      }).pipe(Effect.scoped),
    soakMs + 60_000
  )
})
