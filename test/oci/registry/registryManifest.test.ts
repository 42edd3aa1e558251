import { describe, expect } from "bun:test"
import { Effect, Redacted } from "effect"
import { mediaTypes } from "../../../src/domain/image/descriptor.ts"
import { defaultPlatform } from "../../../src/domain/image/platform.ts"
import { basicCredential, explicitCredential } from "../../../src/oci/registry/credentials.ts"
import { makeAuthorizer } from "../../../src/oci/registry/token.ts"
import { type Fault, startFaultProxy } from "../../support/faultProxy.ts"
import { type ImageBlob, indexOf, jsonBlob } from "../../support/image.ts"
import { it } from "../../support/it.ts"
import { holding, image, layerBlob, onManifest, resolveAt, sourceAt, spoilt } from "../../support/spoiltRegistry.ts"

describe("a manifest", () => {
  const bad = (body: string | Uint8Array, type: string = mediaTypes.ociManifest) =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(onManifest(() => ({ body, headers: { "content-type": type } })))
      return yield* Effect.flip(resolveAt(proxy.host))
    })
  const json = JSON.parse(new TextDecoder().decode(image.manifest.bytes))
  const changed = (change: (manifest: typeof json) => void) => {
    const copy = structuredClone(json)
    change(copy)
    return JSON.stringify(copy)
  }

  it.live("that breaks its schema names field and value", () =>
    Effect.gen(function* () {
      const table: ReadonlyArray<readonly [body: string, field: string, value: RegExp]> = [
        ["<!DOCTYPE html><html>sign in</html>", "$", /HTML.*DOCTYPE/],
        ["", "$", /empty/],
        ["[]", "$", /\[\]/],
        ["null", "$", /null/],
        ['{"schemaVersion":1,"name":"app","fsLayers":[]}', "$.schemaVersion", /^1$/],
        [changed((m) => (m.mediaType = "application/vnd.cncf.thing")), "$.mediaType", /cncf/],
        [
          changed((m) => (m.config.mediaType = "application/vnd.cncf.helm.config.v1+json")),
          "$.config.mediaType",
          /helm/
        ],
        [
          changed((m) => (m.layers[0].mediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")),
          "$.layers[0].mediaType",
          /foreign/
        ],
        [changed((m) => (m.layers[0].digest = "sha256:../../etc/passwd")), "$.layers[0].digest", /passwd/],
        [changed((m) => (m.layers[0].size = -1)), "$.layers[0].size", /-1/],
        [changed((m) => (m.layers[0].size = 2 ** 50)), "$.layers[0].size", /1125899906842624/],
        [changed((m) => delete m.config), "$.config", /missing/],
        [changed((m) => (m.layers = Array(257).fill(m.layers[0]))), "$.layers", /./],
        [changed((m) => (m.layers = [])), "$.rootfs.diff_ids", /1 entries for 0 layers/],
        [changed((m) => (m.manifests = [])), "$", /both/],
        [changed((m) => (m.config.size = 9_000_000)), "size", /9000000/]
      ]
      for (const [body, field, value] of table) {
        const error = yield* bad(body)
        expect(error._tag === "ManifestInvalid" ? [error._tag, error.field] : error).toEqual(["ManifestInvalid", field])
        if (error._tag === "ManifestInvalid") expect(error.value).toMatch(value)
      }
    })
  )
  it.live("of more than 4 MiB is not read to its end", () =>
    Effect.gen(function* () {
      const error = yield* bad(Buffer.alloc(5 * 1024 * 1024, 0x20))
      expect(error).toMatchObject({ _tag: "ManifestInvalid", field: "size" })
    })
  )
  it.live("asked for by digest must have it", () =>
    Effect.gen(function* () {
      const { digest } = image.manifest.descriptor
      const proxy = yield* spoilt((request) =>
        request.path.includes("/manifests/") ? { body: changed((m) => (m.x = 1)) } : undefined
      )
      const error = yield* Effect.flip((yield* sourceAt(proxy.host, {}, `app@${digest}`)).resolve(defaultPlatform))
      expect(error).toMatchObject({ _tag: "DigestMismatch", expected: digest })
    })
  )
  it.live("names a config whose bytes must match", () =>
    Effect.gen(function* () {
      const { digest } = image.config.descriptor
      const proxy = yield* spoilt((request) =>
        request.path.endsWith(digest) ? { change: (body) => body.map((byte) => byte ^ 1) } : undefined
      )
      expect(yield* Effect.flip(resolveAt(proxy.host))).toMatchObject({ _tag: "DigestMismatch", expected: digest })
    })
  )
  it.live("in five indexes is too deep, in four is found, in itself ends", () =>
    Effect.gen(function* () {
      const nest = (depth: number): ReadonlyArray<ImageBlob> => {
        const blobs: Array<ImageBlob> = [image.manifest]
        for (let i = 0; i < depth; i++) blobs.unshift(indexOf([{ blob: blobs[0]! }]))
        return [...blobs, image.config, layerBlob]
      }
      const four = yield* startFaultProxy(undefined, holding(nest(4)))
      expect((yield* resolveAt(four.host)).manifestDigest).toBe(image.manifest.descriptor.digest)
      const five = yield* startFaultProxy(undefined, holding(nest(5)))
      expect(yield* Effect.flip(resolveAt(five.host))).toMatchObject({ _tag: "ManifestInvalid", field: "$.manifests" })
    })
  )
  it.live("tree that fans out is read only so far", () =>
    Effect.gen(function* () {
      const leaves = Array.from({ length: 200 }, (_, i) =>
        jsonBlob(mediaTypes.ociIndex, {
          schemaVersion: 2,
          mediaType: mediaTypes.ociIndex,
          manifests: [],
          annotations: { i: String(i) }
        })
      )
      const proxy = yield* startFaultProxy(undefined, holding([indexOf(leaves.map((blob) => ({ blob }))), ...leaves]))
      expect(yield* Effect.flip(resolveAt(proxy.host))).toMatchObject({
        _tag: "ManifestInvalid",
        value: expect.stringContaining("64 documents")
      })
      expect(proxy.requests.length).toBeLessThan(70)
    })
  )
  it.live("of an index skips attestations and what it does not know", () =>
    Effect.gen(function* () {
      const attestation = jsonBlob(mediaTypes.ociManifest, { schemaVersion: 2 })
      const odd = jsonBlob("application/x-odd", {})
      const top = indexOf([
        { blob: odd },
        { blob: attestation, platform: { os: "unknown", architecture: "unknown" } },
        { blob: image.manifest, platform: defaultPlatform }
      ])
      const proxy = yield* startFaultProxy(undefined, holding([top, attestation, odd, image.manifest, image.config]))
      expect((yield* resolveAt(proxy.host)).manifestDigest).toBe(image.manifest.descriptor.digest)
      const error = yield* Effect.flip((yield* sourceAt(proxy.host)).resolve({ os: "linux", architecture: "riscv64" }))
      expect(error).toMatchObject({ _tag: "PlatformNotFound", available: ["linux/amd64"] })
    })
  )
})

describe("tokens", () => {
  const tokenRegistry = (token: (earlier: number) => Fault) =>
    Effect.gen(function* () {
      const server = yield* startFaultProxy(undefined, (_, earlier) => token(earlier))
      const registry = yield* spoilt((request) =>
        request.headers["authorization"] === undefined
          ? {
              status: 401,
              headers: {
                "www-authenticate": `Bearer realm="http://${server.host}/t",service="s",scope="repository:app:pull"`
              }
            }
          : undefined
      )
      return { server, registry }
    })

  it.live("are renewed when they have run out", () =>
    Effect.gen(function* () {
      const server = yield* startFaultProxy(undefined, () => ({ status: 200, body: '{"token":"T"}' }))
      let served = 0
      const registry = yield* spoilt((request) => {
        const stale = request.headers["authorization"] === undefined || ++served === 2
        return stale
          ? { status: 401, headers: { "www-authenticate": `Bearer realm="http://${server.host}/t",service="s"` } }
          : undefined
      })
      yield* resolveAt(registry.host)
      expect(server.requests.map((request) => request.path)).toEqual(
        Array(2).fill("/t?service=s&scope=repository%3Aapp%3Apull")
      )
    })
  )
  it.live("that do not help end in RegistryAuth", () =>
    Effect.gen(function* () {
      const server = yield* startFaultProxy(undefined, () => ({ status: 200, body: '{"token":"T"}' }))
      const registry = yield* spoilt(() => ({
        status: 401,
        headers: { "www-authenticate": `Bearer realm="http://${server.host}/t"` }
      }))
      expect(yield* Effect.flip(resolveAt(registry.host))).toMatchObject({ _tag: "RegistryAuth", status: 401 })
      expect(registry.requests).toHaveLength(2)
    })
  )
  it.live("come late but come: 503 from their server is tried again", () =>
    Effect.gen(function* () {
      const { registry } = yield* tokenRegistry((earlier) =>
        earlier === 0 ? { status: 503 } : { status: 200, body: '{"access_token":"T","expires_in":300}' }
      )
      yield* resolveAt(registry.host)
    })
  )
  it.live("servers that answer nonsense are named, and nothing secret is", () =>
    Effect.gen(function* () {
      for (const body of ["<html>", "{}", '{"token":"a\\nb"}', "x".repeat(2_000_000)]) {
        const { registry, server } = yield* tokenRegistry(() => ({ status: 200, body }))
        const credentials = explicitCredential(registry.host, basicCredential("me", "s3cret"))
        const error = yield* Effect.flip(resolveAt(registry.host, { credentials }))
        expect(error).toMatchObject({ _tag: "RegistryUnavailable", host: server.host })
        expect(`${error.message} ${JSON.stringify(error)}`).not.toContain("s3cret")
      }
    })
  )
  it.live("are not fetched over plain HTTP from elsewhere", () =>
    Effect.gen(function* () {
      for (const realm of ["http://tokens.invalid/t", "nonsense", "file:///etc/passwd"]) {
        const registry = yield* spoilt(() => ({
          status: 401,
          headers: { "www-authenticate": `Bearer realm="${realm}"` }
        }))
        const error = yield* Effect.flip(resolveAt(registry.host))
        expect(error).toMatchObject({ _tag: "RegistryUnavailable", attempts: 1 })
        expect(error.message).toMatch(/token server.*(not a URL|not HTTPS)/)
      }
    })
  )
  it.live("of a remote registry are not fetched from services of this machine, nor is a password sent there", () =>
    Effect.gen(function* () {
      const service = yield* startFaultProxy(undefined, () => ({ status: 200, body: '{"token":"T"}' }))
      for (const insecure of [false, true]) {
        const authorizer = makeAuthorizer({
          domain: "registry.example",
          host: "registry.example",
          registry: new URL("https://registry.example/v2/"),
          repository: "app",
          credentials: explicitCredential("registry.example", basicCredential("me", "s3cret")),
          insecure,
          stallTimeoutMs: 10_000
        })
        const realm = `http://${service.host}/t`
        const error = yield* Effect.flip(authorizer.answer([{ scheme: "bearer", parameters: { realm } }]))
        expect(error).toMatchObject({ _tag: "RegistryUnavailable", host: "registry.example" })
        expect(error.message).toContain("a service of this machine")
      }
      expect(service.requests.length).toBe(0)
    })
  )

  it.live("asked for with a token of its owner's are not followed to another server", () =>
    Effect.gen(function* () {
      const thief = yield* startFaultProxy(undefined, () => ({ status: 200, body: '{"token":"T"}' }))
      const { registry } = yield* tokenRegistry(() => ({
        status: 307,
        headers: { location: `http://${thief.host}/t` }
      }))
      const identity = { kind: "identity", token: Redacted.make("refresh") } as const
      const credentials = explicitCredential(registry.host, identity)
      const error = yield* Effect.flip(resolveAt(registry.host, { credentials }))
      expect(error.message).toContain("holds a secret")
      expect(thief.requests.length).toBe(0)
    })
  )
})
