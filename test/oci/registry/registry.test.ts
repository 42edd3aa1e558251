import { describe, expect } from "bun:test"
import { Effect, Redacted, Stream } from "effect"
import { mediaTypes } from "../../../src/domain/image/descriptor.ts"
import { defaultPlatform } from "../../../src/domain/image/platform.ts"
import { parseReference } from "../../../src/domain/image/reference.ts"
import type { ImageSource, ResolvedLayer } from "../../../src/oci/manifest/source.ts"
import { basicCredential, type Credential, explicitCredential } from "../../../src/oci/registry/credentials.ts"
import { type RegistryOptions, registrySource } from "../../../src/oci/registry/registry.ts"
import {
  blobOf,
  directory,
  file,
  hardlink,
  imageOf,
  indexOf,
  type LayoutImage,
  symlink,
  whiteout
} from "../../support/image.ts"
import { it } from "../../support/it.ts"
import { hasRegistryTools, startRegistry } from "../../support/registry.ts"
import { startTokenServer } from "../../support/tokenServer.ts"

const arm = { os: "linux", architecture: "arm64" }
const quick = { attemptsMax: 3, baseDelayMs: 5, stallTimeoutMs: 2_000 }
const at = (reference: string, options: RegistryOptions = {}) =>
  Effect.map(parseReference(reference), (parsed) => registrySource(parsed, { retry: quick, ...options }))
const bytesOf = (source: ImageSource, layer: ResolvedLayer) =>
  Effect.map(Stream.runCollect(source.blob(layer)), (chunks) => Buffer.concat(chunks))

const small = imageOf([
  [directory("etc"), file("etc/a", "one"), hardlink("etc/b", "etc/a")],
  [whiteout("etc/b"), symlink("c", "etc/a")]
])
const smallLayout: LayoutImage = { top: small.manifest, blobs: small.blobs }

describe.skipIf(!hasRegistryTools)("a real docker-registry", () => {
  for (const flavour of ["oci", "docker"] as const) {
    for (const compression of ["none", "gzip", "zstd"] as const) {
      // skopeo does not know zstd layers of Docker's media types.
      if (flavour === "docker" && compression !== "gzip") continue
      it.live(`gives a ${flavour} image with ${compression} layers byte by byte`, () =>
        Effect.gen(function* () {
          const registry = yield* startRegistry()
          const config = {
            Labels: { a: "b" },
            User: "1:2",
            WorkingDir: "/w",
            ExposedPorts: { "80/tcp": {} },
            Volumes: null
          }
          const image = imageOf([[file("a", "one")], [file("b", "two")]], { flavour, compression, config })
          yield* registry.push("team/app:v1", { top: image.manifest, blobs: image.blobs })
          const source = yield* at(`${registry.host}/team/app:v1`)
          const resolved = yield* source.resolve(defaultPlatform)
          expect(resolved.manifestDigest).toBe(image.manifest.descriptor.digest)
          expect(resolved.manifestMediaType).toBe(image.manifest.descriptor.mediaType)
          expect(resolved.configDigest).toBe(image.config.descriptor.digest)
          expect(resolved.config).toMatchObject({
            labels: { a: "b" },
            user: "1:2",
            workingDir: "/w",
            exposedPorts: ["80/tcp"],
            volumes: []
          })
          expect(resolved.config.diffIds).toEqual(image.diffIds as never)
          expect(resolved.totalSizeBytes).toBe(image.blobs.reduce((sum, blob) => sum + blob.bytes.length, 0))
          for (const [i, layer] of resolved.layers.entries()) {
            expect(layer.diffId).toBe(image.diffIds[i]!)
            expect((yield* bytesOf(source, layer)).equals(Buffer.from(image.layers[i]!.bytes))).toBe(true)
          }
        })
      )
    }
  }

  it.live("chooses the platform in an index inside an index", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      const other = imageOf([[file("arm", "arm")]], { platform: arm })
      const inner = indexOf([{ blob: other.manifest, platform: arm }])
      const top = indexOf([{ blob: small.manifest, platform: defaultPlatform }, { blob: inner }])
      // skopeo does not copy nested indexes, so the blobs go first and the indexes by hand.
      yield* registry.push("multi:amd", smallLayout)
      yield* registry.push("multi:arm", { top: other.manifest, blobs: other.blobs })
      for (const [tag, blob] of [
        ["inner", inner],
        ["all", top]
      ] as const)
        yield* registry.putManifest(`multi:${tag}`, blob)
      const source = yield* at(`${registry.host}/multi:all`)
      expect((yield* source.resolve(defaultPlatform)).manifestDigest).toBe(small.manifest.descriptor.digest)
      expect((yield* source.resolve(arm)).manifestDigest).toBe(other.manifest.descriptor.digest)
      const error = yield* Effect.flip(source.resolve({ os: "linux", architecture: "s390x" }))
      expect(error).toMatchObject({
        _tag: "PlatformNotFound",
        wanted: "linux/s390x",
        available: ["linux/amd64", "linux/arm64"]
      })
    })
  )

  it.live("refuses a lone image for another CPU and says which it is for", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      yield* registry.push("app:1", smallLayout)
      const error = yield* Effect.flip((yield* at(`${registry.host}/app:1`)).resolve(arm))
      expect(error).toMatchObject({ _tag: "PlatformNotFound", wanted: "linux/arm64", available: ["linux/amd64"] })
    })
  )

  it.live("is asked by digest, with and without a tag", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      yield* registry.push("app:1", smallLayout)
      const { digest } = small.manifest.descriptor
      for (const name of [`app@${digest}`, `app:gone@${digest}`]) {
        expect((yield* (yield* at(`${registry.host}/${name}`)).resolve(defaultPlatform)).manifestDigest).toBe(digest)
      }
    })
  )

  it.live("has no such tag: ImageNotFound with the host", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      const error = yield* Effect.flip((yield* at(`${registry.host}/nobody/app:1`)).resolve(defaultPlatform))
      expect(error).toMatchObject({
        _tag: "ImageNotFound",
        host: registry.host,
        reference: `${registry.host}/nobody/app:1`
      })
    })
  )

  it.live("wants a password: gets it, or answers RegistryAuth without showing it", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry({ kind: "basic", username: "me", password: "s3cret" })
      yield* registry.push("app:1", smallLayout)
      const name = `${registry.host}/app:1`
      const credentials = explicitCredential(registry.host, basicCredential("me", "s3cret"))
      const source = yield* at(name, { credentials })
      const resolved = yield* source.resolve(defaultPlatform)
      expect(yield* bytesOf(source, resolved.layers[0]!)).toHaveLength(resolved.layers[0]!.sizeBytes)
      const wrong: RegistryOptions = { credentials: explicitCredential(registry.host, basicCredential("me", "wr0ng")) }
      for (const options of [{}, wrong]) {
        const error = yield* Effect.flip((yield* at(name, options)).resolve(defaultPlatform))
        expect(error).toMatchObject({ _tag: "RegistryAuth", status: 401, host: registry.host })
        expect(JSON.stringify(error) + error.message + String(error)).not.toContain("wr0ng")
      }
    })
  )

  it.live("wants tokens: one serves all requests of a repository", () =>
    Effect.gen(function* () {
      const tokens = yield* startTokenServer({ username: "me", password: "s3cret" })
      const registry = yield* startRegistry(tokens.registry)
      yield* registry.seed("app", "1", smallLayout)
      const credentials = explicitCredential(registry.host, basicCredential("me", "s3cret"))
      const source = yield* at(`${registry.host}/app:1`, { credentials })
      const resolved = yield* source.resolve(defaultPlatform)
      for (const layer of resolved.layers) yield* bytesOf(source, layer)
      expect(tokens.requests).toHaveLength(1)
      expect(tokens.requests[0]).toMatchObject({
        method: "GET",
        scope: "repository:app:pull",
        service: "test registry"
      })
      const error = yield* Effect.flip((yield* at(`${registry.host}/app:1`)).resolve(defaultPlatform))
      expect(error).toMatchObject({ _tag: "RegistryAuth", status: 401 })
    })
  )

  it.live("takes anonymous tokens, identity tokens and ready ones", () =>
    Effect.gen(function* () {
      const open = yield* startTokenServer()
      const closed = yield* startTokenServer({ identityToken: "refresh-me" })
      for (const [tokens, credential] of [
        [open, undefined],
        [closed, { kind: "identity", token: Redacted.make("refresh-me") } satisfies Credential]
      ] as const) {
        const registry = yield* startRegistry(tokens.registry)
        yield* registry.seed("app", "1", smallLayout)
        const options = credential === undefined ? {} : { credentials: explicitCredential(registry.host, credential) }
        yield* (yield* at(`${registry.host}/app:1`, options)).resolve(defaultPlatform)
      }
      expect(closed.requests[0]).toMatchObject({
        method: "POST",
        refreshToken: "refresh-me",
        scope: "repository:app:pull"
      })
      const wrong = explicitCredential("any", { kind: "bearer", token: Redacted.make("not-a-jwt") })
      const registry = yield* startRegistry(open.registry)
      const error = yield* Effect.flip(
        (yield* at(`${registry.host}/app:1`, { credentials: { get: () => wrong.get("any") } })).resolve(defaultPlatform)
      )
      expect(error._tag).toBe("RegistryAuth")
    })
  )

  it.live("is copied by mirrors: the first that has the image gives it, the registry itself the rest", () =>
    Effect.gen(function* () {
      const empty = yield* startRegistry()
      const full = yield* startRegistry()
      yield* full.push("app:1", smallLayout)
      const mirrored = yield* at("registry.invalid/app:1", { mirrors: ["127.0.0.1:1", empty.host, full.host] })
      const resolved = yield* mirrored.resolve(defaultPlatform)
      expect(yield* bytesOf(mirrored, resolved.layers[1]!)).toHaveLength(resolved.layers[1]!.sizeBytes)
      const origin = yield* at(`${full.host}/app:1`, { mirrors: [empty.host] })
      expect(yield* bytesOf(origin, (yield* origin.resolve(defaultPlatform)).layers[0]!)).toHaveLength(
        resolved.layers[0]!.sizeBytes
      )
    })
  )

  it.live("that nobody has is looked for everywhere, and the registry itself answers", () =>
    Effect.gen(function* () {
      const mirror = yield* startRegistry()
      const origin = yield* startRegistry()
      const error = yield* Effect.flip(
        (yield* at(`${origin.host}/app:1`, { mirrors: [mirror.host] })).resolve(defaultPlatform)
      )
      expect(error).toMatchObject({ _tag: "ImageNotFound", host: origin.host })
    })
  )

  it.live("reads a blob of many chunks", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      const content = crypto.getRandomValues(new Uint8Array(60_000))
      const big = imageOf([Array.from({ length: 80 }, (_, i) => file(`f${i}`, content))], { compression: "none" })
      yield* registry.push("big:1", { top: big.manifest, blobs: big.blobs })
      const source = yield* at(`${registry.host}/big:1`)
      const bytes = yield* bytesOf(source, (yield* source.resolve(defaultPlatform)).layers[0]!)
      expect(blobOf(mediaTypes.ociLayer, bytes).descriptor.digest).toBe(big.diffIds[0]!)
    })
  )
})
