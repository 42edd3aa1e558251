/** Downloads that were cut, and how the next pull goes on with them. */
import { describe, expect, setDefaultTimeout } from "bun:test"
import { existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect, Fiber } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { type FaultRule, startFaultProxy } from "../../support/faultProxy.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { file, imageOf } from "../../support/image.ts"
import { imageStoreOver, keepAll, layoutOf, noise, problemsIn, pullAll } from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"

setDefaultTimeout(30_000)

const image = imageOf([[file("big", noise(6_000_000, 3))], [file("small", "s")]])
const layer = image.layers[0]!.descriptor

/** A registry with the image behind a proxy; while `spoil` is set it decides about requests for the big layer. */
const start = Effect.fnUntraced(function* (sources: Parameters<typeof imageStoreOver>[3] = keepAll) {
  const registry = yield* startRegistry()
  yield* registry.seed("team/app", "1", layoutOf(image))
  const state: { spoil: FaultRule | undefined } = { spoil: undefined }
  const proxy = yield* startFaultProxy(registry.host, (request, earlier) =>
    request.path.endsWith(layer.digest) ? state.spoil?.(request, earlier) : undefined
  )
  const home = yield* temporaryDirectory
  const reference = `${proxy.host}/team/app:1`
  /** Each use has connections and leases of its own, as a program has. */
  const inProgram = <A, E>(body: Effect.Effect<A, E, ImageStore>) =>
    body.pipe(Effect.provide(imageStoreOver(homeAt(home), [], {}, sources)))
  const places = path.join(home, "cache/tmp")
  return {
    home,
    reference,
    state,
    inProgram,
    pull: inProgram(pullAll({ reference, policy: "always" })),
    /** The Range headers that were sent for the big layer, since the last call. */
    ranges: () =>
      proxy.requests
        .splice(0)
        .filter((request) => request.path.endsWith(layer.digest))
        .map(({ headers }) => headers["range"]),
    kept: () => (existsSync(places) ? readdirSync(places).map((name) => path.join(places, name)) : [])
  }
})

const cut: FaultRule = (_request, earlier) => (earlier === 0 ? { cutAfter: 3_500_000 } : { refuse: true })

describe.skipIf(!hasRegistryTools)("a pull that the network cut", () => {
  it.live("is gone on with by the next one, which asks for the rest and checks the whole", () =>
    Effect.gen(function* () {
      const { home, kept, pull, ranges, state } = yield* start()
      state.spoil = cut
      expect(yield* Effect.flip(pull)).toMatchObject({ _tag: "RegistryUnavailable" })
      const [part = ""] = kept()
      expect(kept()).toEqual([expect.stringMatching(/\.part$/)])
      const bytes = statSync(part).size
      expect(bytes).toBeGreaterThan(500_000)
      expect(readFileSync(part)).toEqual(Buffer.from(image.layers[0]!.bytes.subarray(0, bytes)))
      ranges()
      state.spoil = undefined
      yield* pull
      expect(ranges()).toEqual([`bytes=${bytes}-`])
      expect(kept()).toEqual([])
      expect(problemsIn(home)).toEqual([])
    }).pipe(Effect.scoped)
  )

  it.live("starts over when what was kept is not what the registry has", () =>
    Effect.gen(function* () {
      for (const spoil of [
        (bytes: Buffer) => bytes.fill(7, 200_000, 200_100),
        (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(layer.size)])
      ]) {
        const { home, kept, pull, ranges, state } = yield* start()
        state.spoil = cut
        yield* Effect.flip(pull)
        const [part = ""] = kept()
        if (part === "") throw new Error("nothing was kept")
        writeFileSync(part, spoil(readFileSync(part)))
        ranges()
        state.spoil = undefined
        yield* pull
        expect(ranges().at(-1)).toBeUndefined()
        expect(kept()).toEqual([])
        expect(problemsIn(home)).toEqual([])
      }
    }).pipe(Effect.scoped)
  )

  it.live("keeps nothing when the bytes were wrong, or when asking again costs little", () =>
    Effect.gen(function* () {
      const wrong = yield* start()
      wrong.state.spoil = () => ({ change: (body) => Buffer.from(body).fill(9, 3_000_000, 3_000_100) })
      expect(["DigestMismatch", "LayerRejected"]).toContain((yield* Effect.flip(wrong.pull))._tag)
      expect(wrong.kept()).toEqual([])
      const quick = yield* start({})
      quick.state.spoil = cut
      expect(yield* Effect.flip(quick.pull)).toMatchObject({ _tag: "RegistryUnavailable" })
      expect(quick.kept()).toEqual([])
    }).pipe(Effect.scoped)
  )

  it.live("is kept for a day when somebody lost patience, and goes at once with a prune", () =>
    Effect.gen(function* () {
      const { inProgram, kept, pull, state } = yield* start()
      state.spoil = () => ({ stallAfter: 3_500_000 })
      const interrupted = Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(pull)
        while (kept().every((name) => !name.endsWith(".part") || statSync(name).size === 0)) yield* Effect.sleep(5)
        // Whoever pulls holds it.
        yield* inProgram(ImageStore.use((store) => store.Prune({})))
        expect(kept()).not.toEqual([])
        yield* Fiber.interrupt(fiber)
        expect(kept()).toEqual([expect.stringMatching(/\.part$/)])
      })
      yield* interrupted
      yield* inProgram(ImageStore.use((store) => store.Prune({})))
      expect(kept()).toEqual([])
      yield* interrupted
      for (const part of kept()) utimesSync(part, 1, 1)
      state.spoil = undefined
      // Any pull clears away what is that old.
      yield* pull
      expect(kept()).toEqual([])
    }).pipe(Effect.scoped)
  )

  it.live("is gone on with after a SIGKILL", () =>
    Effect.gen(function* () {
      const { home, kept, pull, ranges, reference, state } = yield* start()
      state.spoil = () => ({ stallAfter: 3_500_000 })
      const script = path.join(import.meta.dir, "../../support/failpointChild.ts")
      const child = Bun.spawn([process.execPath, script, home, "pull", reference], {
        env: { ...process.env, BUNKER_TEST_KEEP_ALL: "1" },
        stdio: ["ignore", "ignore", "inherit"]
      })
      const parts = () => kept().filter((name) => name.endsWith(".part"))
      while (parts().every((name) => statSync(name).size < 1_000_000)) yield* Effect.sleep(5)
      child.kill("SIGKILL")
      yield* Effect.promise(() => child.exited)
      state.spoil = undefined
      const bytes = parts().map((name) => statSync(name).size)
      expect(bytes).toHaveLength(1)
      ranges()
      yield* pull
      expect(ranges()).toEqual([`bytes=${bytes[0]}-`])
      expect(kept()).toEqual([])
      expect(problemsIn(home)).toEqual([])
    }).pipe(Effect.scoped)
  )
})
