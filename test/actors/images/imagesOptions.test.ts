/** What the owner of a machine chooses about images holds for every pull and load. */
import { describe, expect, test } from "bun:test"
import path from "node:path"
import { Effect } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { type ImageOptions, mergeImageOptions, readImageOptions } from "../../../src/domain/image/imageOptions.ts"
import { startFaultProxy } from "../../support/faultProxy.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { file, directory as folder, imageOf, layoutFiles, type TestImage, writeFiles } from "../../support/image.ts"
import { first, imageStoreOver, layoutOf, loadAll, noise, pullAll } from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"

const within = <A, E>(options: ImageOptions, body: Effect.Effect<A, E, ImageStore>) =>
  Effect.gen(function* () {
    const home = yield* temporaryDirectory
    return yield* body.pipe(Effect.provide(imageStoreOver(homeAt(home), [], options)))
  })

const loadedFrom = (image: TestImage) =>
  Effect.gen(function* () {
    const directory = yield* temporaryDirectory
    yield* Effect.promise(() => writeFiles(directory, layoutFiles([layoutOf(image)])))
    return yield* loadAll({ path: path.join(directory), tag: "x:1" })
  }).pipe(Effect.scoped)

describe("limits", () => {
  const deep = imageOf([[folder("a"), folder("a/b"), file("a/b/c", "c")]])
  const large = imageOf([[file("large", noise(9000, 1))]])
  const hollow = imageOf([[file("hollow", Buffer.alloc(30 * 2 ** 20))]])
  const cases: ReadonlyArray<readonly [keyof NonNullable<ImageOptions["limits"]>, number, TestImage, string]> = [
    ["entries", 2, deep, "more than 2 entries"],
    ["pathBytes", 4, deep, "more than 4 bytes"],
    ["depth", 2, deep, "deeper than 2"],
    ["fileBytes", 8999, large, "more than 8999 bytes"],
    ["layerBytes", 8192, large, "more than 8192 bytes"],
    ["inflateRatio", 100, hollow, "more than 100 times"],
    ["layers", 2, first, "layers is 3, more than the 2"],
    ["manifestBytes", 100, deep, "size of the manifest"],
    ["configBytes", 100, deep, "size of the config"]
  ]
  for (const [limit, value, image, words] of cases)
    it.live(`${limit}: past it the image is refused and nothing is kept, under it it is taken`, () =>
      Effect.gen(function* () {
        yield* within(
          { limits: { [limit]: value } },
          Effect.gen(function* () {
            const error = yield* Effect.flip(loadedFrom(image))
            expect(error._tag).toBeOneOf(["LayerRejected", "ManifestInvalid"])
            expect(error.message).toContain(words)
            const usage = yield* ImageStore.use((store) => store.Usage())
            expect(usage.layers.count).toBe(0)
          })
        )
        expect((yield* within({ limits: { [limit]: value * 1000 } }, loadedFrom(image))).at(-1)?._tag).toBe("Done")
      })
    )
})

describe.skipIf(!hasRegistryTools)("mirrors", () => {
  it.live("are asked first for the registries that they copy, and for no others", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      yield* registry.push("t/first:1", layoutOf(first))
      const mirror = yield* startFaultProxy(registry.host, () => undefined)
      const origin = yield* startFaultProxy(registry.host, () => undefined)
      const options = { mirrors: { [origin.host]: ["127.0.0.1:1", mirror.host] } }
      const pull = (host: string) => within(options, pullAll({ reference: `${host}/t/first:1`, policy: "always" }))
      expect((yield* pull(origin.host)).at(-1)).toMatchObject({ image: { reference: `${origin.host}/t/first:1` } })
      expect(origin.requests).toHaveLength(0)
      const asked = mirror.requests.length
      expect(asked).toBeGreaterThan(3)
      yield* pull(registry.host)
      expect(mirror.requests).toHaveLength(asked)
    })
  )
})

describe("the text of BUNKER_IMAGES", () => {
  const parsed = (text: string | undefined) => Effect.runSync(Effect.result(readImageOptions("BUNKER_IMAGES", text)))
  test("is JSON in the names of the wire", () => {
    const text =
      '{"mirrors":{"docker.io":["m.lan:5000"]},"insecure_registries":["m.lan:5000"],"limits":{"path_bytes":100}}'
    expect(parsed(text)).toMatchObject({
      success: {
        mirrors: { "docker.io": ["m.lan:5000"] },
        insecureRegistries: ["m.lan:5000"],
        limits: { pathBytes: 100 }
      }
    })
    expect(parsed(undefined)).toMatchObject({ success: {} })
  })
  for (const [text, words] of [
    ["", "not JSON"],
    ["[]", ""],
    ['{"mirors":{}}', "mirors: there is no such field"],
    ['{"limits":{"depth":1000}}', "limits.depth"],
    ['{"limits":{"pathBytes":1}}', "limits.path"],
    ['{"mirrors":{"docker.io":["https://m.lan/x"]}}', "mirrors.docker.io"]
  ] as const)
    test(`${text || "(empty)"} is refused`, () => {
      expect(parsed(text)).toMatchObject({ failure: { _tag: "InvalidSpec", field: "BUNKER_IMAGES" } })
      expect((parsed(text) as { failure: Error }).failure.message).toContain(words)
    })
  test("lies under the options of the plugin", () => {
    const merged = mergeImageOptions(
      { mirrors: { a: ["1"] }, limits: { depth: 3 } },
      { mirrors: { a: ["2"], b: ["3"] }, insecureRegistries: ["c"], limits: { depth: 4, layers: 5 } }
    )
    expect(merged).toEqual({
      mirrors: { a: ["1"], b: ["3"] },
      insecureRegistries: ["c"],
      limits: { depth: 3, layers: 5 }
    })
  })
})
