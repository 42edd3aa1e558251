/** Every fault of a registry ends in the image, right to the last byte, or in its typed error; and the cache stays right. */
import { describe, expect, setDefaultTimeout } from "bun:test"
import path from "node:path"
import { Effect, Redacted, Stream } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { type Fault, type FaultRule, startFaultProxy } from "../../support/faultProxy.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { file, imageOf } from "../../support/image.ts"
import { imageStoreOver, layoutOf, noise, problemsIn, pullAll } from "../../support/imageStore.ts"
import { it } from "../../support/it.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"

setDefaultTimeout(120_000)

const image = imageOf([[file("a", noise(300_000, 1))], [file("b", noise(400_000, 2))]])
const blob = image.layers[1]!.descriptor
const once =
  (end: string, fault: Fault): FaultRule =>
  (request, earlier) =>
    request.path.endsWith(end) && earlier === 0 ? fault : undefined
const always =
  (end: string, fault: Fault): FaultRule =>
  (request) =>
    request.path.endsWith(end) ? fault : undefined

const passing: ReadonlyArray<readonly [string, FaultRule]> = [
  ["a layer cut at byte 0", once(blob.digest, { cutAfter: 0 })],
  ["a layer cut at byte 123,456", once(blob.digest, { cutAfter: 123_456 })],
  ["a layer cut before its last byte", once(blob.digest, { cutAfter: blob.size - 1 })],
  [
    "a layer cut again and again",
    (request, earlier) => (request.path.endsWith(blob.digest) && earlier < 4 ? { cutAfter: 60_000 } : undefined)
  ],
  [
    "a layer cut, then sent from the start",
    (request, earlier) =>
      request.path.endsWith(blob.digest) ? (earlier === 0 ? { cutAfter: 60_000 } : { ignoreRange: true }) : undefined
  ],
  ["a layer whose length is not announced", always(blob.digest, { framing: "chunked" })],
  ["429 with Retry-After", once(blob.digest, { status: 429, headers: { "retry-after": "0" } })],
  ["429 for the manifest", once("manifests/1", { status: 429, headers: { "retry-after": "0" } })],
  ["500 for a layer", once(blob.digest, { status: 500 })],
  ["500 for the config", once(image.config.descriptor.digest, { status: 500 })],
  ["502 for the manifest", once("manifests/1", { status: 502 })],
  ["a refused connection", once(blob.digest, { refuse: true })]
]
const final: ReadonlyArray<readonly [string, FaultRule, string]> = [
  ["a longer length", always(blob.digest, { contentLength: blob.size + 1 }), "DigestMismatch"],
  ["a shorter length", always(blob.digest, { contentLength: blob.size - 1 }), "DigestMismatch"],
  [
    "one wrong byte",
    always(blob.digest, { change: (body) => Uint8Array.from(body, (byte, i) => (i === 200_000 ? byte ^ 1 : byte)) }),
    // What the byte breaks may be noticed before the digest is.
    "DigestMismatch|LayerRejected"
  ],
  [
    "a redirect to itself",
    always(blob.digest, { status: 307, headers: { location: `/v2/t/a/blobs/${blob.digest}` } }),
    "RegistryUnavailable"
  ],
  ["a redirect to no address", always(blob.digest, { status: 302 }), "RegistryUnavailable"],
  ["429 for an hour", always(blob.digest, { status: 429, headers: { "retry-after": "3600" } }), "RegistryUnavailable"],
  [
    "a manifest that is a page",
    always("manifests/1", { status: 200, body: "<html>", headers: { "content-type": "text/html" } }),
    "ManifestInvalid"
  ],
  ["another config", always(image.config.descriptor.digest, { status: 200, body: "{}" }), "DigestMismatch"],
  ["401", always("manifests/1", { status: 401 }), "RegistryAuth"],
  ["404 for a layer", always(blob.digest, { status: 404 }), "ImageNotFound"]
]

describe.skipIf(!hasRegistryTools)("a registry with faults", () => {
  it.live(
    "gives the image when they pass, and a typed error and a right cache when they do not",
    () =>
      Effect.gen(function* () {
        const registry = yield* startRegistry()
        yield* registry.push("t/a:1", layoutOf(image))
        const attempt = (rule: FaultRule) =>
          Effect.gen(function* () {
            const home = path.join(yield* temporaryDirectory, "h")
            const proxy = yield* startFaultProxy(registry.host, rule)
            const reference = `${proxy.host}/t/a:1`
            return yield* Effect.gen(function* () {
              const end = yield* pullAll({ reference, policy: "always" }).pipe(
                // Save compares every byte with the diff ids.
                Effect.andThen(ImageStore.use((store) => Stream.runDrain(store.Save({ references: [reference] })))),
                Effect.as("Done"),
                Effect.catch((error) => Effect.succeed(error._tag as string))
              )
              const { layers } = yield* ImageStore.use((store) => store.Usage())
              return {
                end,
                layers: layers.count,
                problems: problemsIn(home).filter((text) => !text.startsWith("locks/"))
              }
            }).pipe(Effect.provide(imageStoreOver(homeAt(home))))
          }).pipe(Effect.scoped)
        for (const [name, rule] of passing) {
          expect({ name, ...(yield* attempt(rule)) }).toEqual({ name, end: "Done", layers: 2, problems: [] })
        }
        for (const [name, rule, tag] of final) {
          expect({ name, ...(yield* attempt(rule)) }).toEqual({
            name,
            end: expect.stringMatching(new RegExp(`^(${tag})$`)),
            layers: 0,
            problems: []
          })
        }
      }),
    120_000
  )

  it.live(
    "sends its own password to no host that it redirects to, and takes the layer from there",
    () =>
      Effect.gen(function* () {
        const registry = yield* startRegistry()
        yield* registry.push("t/a:1", layoutOf(image))
        const storage = yield* startFaultProxy(registry.host, () => undefined)
        const front = yield* startFaultProxy(registry.host, (request) =>
          request.headers["authorization"] === undefined
            ? { status: 401, headers: { "www-authenticate": "Basic realm=x" } }
            : request.path.includes("/blobs/")
              ? { status: 307, headers: { location: `http://${storage.host}${request.path}` } }
              : undefined
        )
        const home = path.join(yield* temporaryDirectory, "h")
        yield* Effect.gen(function* () {
          const store = yield* ImageStore
          const login = { username: "me", password: Redacted.make("s3cret") }
          const events = yield* Stream.runCollect(
            store.Pull({ reference: `${front.host}/t/a:1`, policy: "always", login })
          )
          expect(events.at(-1)?._tag).toBe("Done")
          expect(storage.requests.length).toBeGreaterThan(1)
          expect(storage.requests.filter((request) => "authorization" in request.headers)).toEqual([])
        }).pipe(Effect.provide(imageStoreOver(homeAt(home))))
        expect(problemsIn(home)).toEqual([])
      }),
    60_000
  )
})
