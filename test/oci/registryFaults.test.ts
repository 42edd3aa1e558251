import { describe, expect } from "bun:test"
import { Effect, Exit, Fiber, Stream } from "effect"
import { mediaTypes } from "../../src/domain/descriptor.ts"
import { defaultPlatform } from "../../src/domain/platform.ts"
import { parseReference } from "../../src/domain/reference.ts"
import { basicCredential, explicitCredential } from "../../src/oci/credentials.ts"
import { type RegistryOptions, registrySource } from "../../src/oci/registry.ts"
import type { ImageSource, ResolvedLayer } from "../../src/oci/source.ts"
import { type Fault, type FaultRule, type SeenRequest, startFaultProxy } from "../support/faultProxy.ts"
import { file, type ImageBlob, imageOf, indexOf, jsonBlob } from "../support/image.ts"
import { it } from "../support/it.ts"

const quick = { attemptsMax: 4, baseDelayMs: 5, stallTimeoutMs: 400 }
const content = crypto.getRandomValues(new Uint8Array(50_000))
const image = imageOf([[file("a", content), file("b", content)]], { compression: "none" })
const layerBlob = image.layers[0]!
const layerPath = `/v2/app/blobs/${layerBlob.descriptor.digest}`
const manifestPath = "/v2/app/manifests/1"
const size = layerBlob.bytes.length
const layer: ResolvedLayer = {
  mediaType: mediaTypes.ociLayer,
  digest: layerBlob.descriptor.digest,
  sizeBytes: size,
  diffId: image.diffIds[0]
}

/** Answers as a registry that holds these blobs under `app`, `1` being the first; understands Range. */
const holding =
  (blobs: ReadonlyArray<ImageBlob>) =>
  (request: SeenRequest): Fault => {
    const selector = request.path.split("?")[0]?.split("/").at(-1)
    const blob = selector === "1" ? blobs[0] : blobs.find((candidate) => candidate.descriptor.digest === selector)
    if (blob === undefined) return { status: 404 }
    const headers = { "content-type": blob.descriptor.mediaType }
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers["range"] ?? "")?.[1] ?? 0)
    if (from === 0) return { status: 200, headers, body: blob.bytes }
    if (from >= blob.bytes.length) return { status: 416 }
    const range = `bytes ${from}-${blob.bytes.length - 1}/${blob.bytes.length}`
    return { status: 206, headers: { ...headers, "content-range": range }, body: blob.bytes.subarray(from) }
  }
const registryOf = holding([image.manifest, image.config, layerBlob])

/** A registry that spoils what `rule` says. */
const spoilt = (rule: FaultRule, answer: (request: SeenRequest) => Fault = registryOf) =>
  startFaultProxy(undefined, (request, earlier) => {
    const fault = rule(request, earlier)
    const { ignoreRange = false, ...rest } = fault ?? {}
    const { range: _range, ...headers } = request.headers
    return { ...answer(ignoreRange ? { ...request, headers } : request), ...rest }
  })

const sourceAt = (host: string, options: RegistryOptions = {}, name = "app:1") =>
  Effect.map(parseReference(`${host}/${name}`), (parsed) => registrySource(parsed, { retry: quick, ...options }))
const resolveAt = (host: string, options: RegistryOptions = {}) =>
  Effect.flatMap(sourceAt(host, options), (source) => source.resolve(defaultPlatform))
const bytesOf = (source: ImageSource, wanted: ResolvedLayer = layer) =>
  Effect.map(Stream.runCollect(source.blob(wanted)), (chunks) => Buffer.concat(chunks))

const onBlob =
  (fault: (request: SeenRequest, earlier: number) => Fault | undefined): FaultRule =>
  (request, earlier) =>
    request.path === layerPath ? fault(request, earlier) : undefined
const onManifest =
  (fault: (earlier: number) => Fault | undefined): FaultRule =>
  (request, earlier) =>
    request.path === manifestPath ? fault(earlier) : undefined

describe("a blob", () => {
  const whole = (rule: FaultRule) =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(rule)
      const bytes = yield* bytesOf(yield* sourceAt(proxy.host))
      expect(bytes.equals(Buffer.from(layerBlob.bytes))).toBe(true)
      return proxy.requests.map((request) => request.headers["range"])
    })
  const failing = (rule: FaultRule, wanted = layer) =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(rule)
      const error = yield* Effect.flip(bytesOf(yield* sourceAt(proxy.host), wanted))
      return { error, requests: proxy.requests.length }
    })

  it.live("goes on by Range after a cut, inside the same stream", () =>
    Effect.gen(function* () {
      const ranges = yield* whole(onBlob((_, earlier) => (earlier < 2 ? { cutAfter: 20_000 } : undefined)))
      expect(ranges).toEqual([undefined, "bytes=20000-", "bytes=40000-"])
    })
  )
  it.live("skips what it has when the server ignores Range", () =>
    Effect.gen(function* () {
      const ranges = yield* whole(
        onBlob((_, earlier) => (earlier === 0 ? { cutAfter: 33_333 } : { ignoreRange: true }))
      )
      expect(ranges).toEqual([undefined, "bytes=33333-"])
    })
  )
  it.live("outlives more cuts than one try may take, as long as each brings bytes", () =>
    Effect.gen(function* () {
      expect((yield* whole(onBlob(() => ({ cutAfter: 9_000 })))).length).toBe(Math.ceil(size / 9_000))
    })
  )
  it.live("outlives 500, 503 and a refused connection", () =>
    whole(onBlob((_, earlier) => [{ status: 500 }, { status: 503 }, { refuse: true }][earlier])).pipe(Effect.asVoid)
  )
  it.live("goes on after a stall", () =>
    Effect.gen(function* () {
      expect(yield* whole(onBlob((_, earlier) => (earlier === 0 ? { stallAfter: 10_000 } : undefined)))).toEqual([
        undefined,
        "bytes=10000-"
      ])
    })
  )
  it.live("goes on when a body without a length ends early", () =>
    Effect.gen(function* () {
      const short = { framing: "close", body: layerBlob.bytes.subarray(0, 5_000) } as const
      expect(yield* whole(onBlob((_, earlier) => (earlier === 0 ? short : undefined)))).toEqual([
        undefined,
        "bytes=5000-"
      ])
    })
  )
  it.live("that never comes ends after the allowed tries", () =>
    Effect.gen(function* () {
      const { error, requests } = yield* failing(onBlob(() => ({ status: 502 })))
      expect(error).toMatchObject({ _tag: "RegistryUnavailable", attempts: 4 })
      expect(requests).toBe(4)
    })
  )
  it.live("of other bytes is a DigestMismatch with both digests", () =>
    Effect.gen(function* () {
      const { error } = yield* failing(
        onBlob(() => ({ change: (body) => body.map((byte, i) => (i === 700 ? byte ^ 1 : byte)) }))
      )
      expect(error).toMatchObject({ _tag: "DigestMismatch", expected: layer.digest })
    })
  )
  it.live("with another announced length is refused before it is read", () =>
    Effect.gen(function* () {
      for (const body of [layerBlob.bytes.subarray(1), Buffer.concat([layerBlob.bytes, Buffer.from("x")])]) {
        const { error, requests } = yield* failing(onBlob(() => ({ body })))
        expect(error).toMatchObject({
          _tag: "DigestMismatch",
          expected: `${size} bytes`,
          actual: `${body.length} bytes`
        })
        expect(requests).toBe(1)
      }
    })
  )
  it.live("that goes on after its announced end is stopped there", () =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(
        onBlob(() => ({ framing: "chunked", body: Buffer.concat([layerBlob.bytes, Buffer.alloc(9_000_000)]) }))
      )
      let received = 0
      const stream = (yield* sourceAt(proxy.host)).blob(layer)
      const error = yield* Effect.flip(
        Stream.runForEach(stream, (chunk) => Effect.sync(() => void (received += chunk.length)))
      )
      expect(error).toMatchObject({ _tag: "DigestMismatch", expected: `${size} bytes` })
      expect(received).toBeLessThanOrEqual(size)
    })
  )
  it.live("that is whole but short is a DigestMismatch", () =>
    Effect.gen(function* () {
      const { error } = yield* failing(onBlob(() => ({ framing: "chunked", body: layerBlob.bytes.subarray(0, 100) })))
      expect(error).toMatchObject({ _tag: "DigestMismatch", actual: "100 bytes" })
    })
  )
  it.live("that the registry does not have is ImageNotFound", () =>
    Effect.gen(function* () {
      const { error } = yield* failing(() => undefined, { ...layer, digest: `sha256:${"0".repeat(64)}` })
      expect(error._tag).toBe("ImageNotFound")
    })
  )
  it.live("hangs up when its reader goes away", () =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(onBlob(() => ({ stallAfter: 10_000 })))
      const source = yield* sourceAt(proxy.host, { retry: { ...quick, stallTimeoutMs: 60_000 } })
      const fiber = yield* Effect.forkChild(bytesOf(source))
      while (proxy.requests.length === 0 || proxy.open.size === 0) yield* Effect.sleep(5)
      yield* Effect.sleep(50)
      yield* Fiber.interrupt(fiber)
      expect(Exit.hasInterrupts(yield* Fiber.await(fiber))).toBe(true)
      for (let i = 0; i < 200 && proxy.open.size > 0; i++) yield* Effect.sleep(5)
      expect(proxy.open.size).toBe(0)
    })
  )
})

describe("redirects", () => {
  const secret = explicitCredentialFor
  it.live("to another host carry no Authorization", () =>
    Effect.gen(function* () {
      const storage = yield* startFaultProxy(undefined, registryOf)
      const front = yield* spoilt((request) => {
        if (request.headers["authorization"] === undefined)
          return { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } }
        return request.path === layerPath
          ? { status: 307, headers: { location: `http://${storage.host}${layerPath}?signed=1` }, body: "" }
          : undefined
      })
      const source = yield* sourceAt(front.host, secret(front.host))
      yield* source.resolve(defaultPlatform)
      expect(yield* bytesOf(source)).toHaveLength(size)
      expect(front.requests.at(-1)?.headers["authorization"]).toStartWith("Basic ")
      expect(storage.requests.map((request) => request.headers["authorization"])).toEqual([undefined])
    })
  )
  it.live("within the host keep it, relative ones too", () =>
    Effect.gen(function* () {
      const front = yield* spoilt((request) => {
        if (request.headers["authorization"] === undefined)
          return { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } }
        return request.path === manifestPath
          ? { status: 302, headers: { location: `../manifests/${image.manifest.descriptor.digest}` } }
          : undefined
      })
      yield* resolveAt(front.host, secret(front.host))
    })
  )
  it.live("in a loop, to nowhere, and to another scheme fail at once", () =>
    Effect.gen(function* () {
      for (const location of [manifestPath, "", "http://registry.invalid/x", "file:///etc/passwd", "http://[bad"]) {
        const proxy = yield* spoilt(onManifest(() => ({ status: 302, headers: location === "" ? {} : { location } })))
        const error = yield* Effect.flip(resolveAt(proxy.host))
        expect(error).toMatchObject({ _tag: "RegistryUnavailable", attempts: 1 })
        expect(error.message).toContain("redirect")
        expect(proxy.requests.length).toBeLessThanOrEqual(6)
      }
    })
  )
})

describe("a registry's answer", () => {
  const errorOf = (fault: Fault | ((earlier: number) => Fault | undefined), options: RegistryOptions = {}) =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(onManifest(typeof fault === "function" ? fault : () => fault))
      const started = performance.now()
      const error = yield* Effect.flip(resolveAt(proxy.host, options))
      return { error, requests: proxy.requests.length, tookMs: performance.now() - started, host: proxy.host }
    })

  it.live("429 is waited for as long as it says", () =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(
        onManifest((earlier) => (earlier === 0 ? { status: 429, headers: { "retry-after": "1" } } : undefined))
      )
      const started = performance.now()
      yield* resolveAt(proxy.host)
      expect(performance.now() - started).toBeGreaterThan(950)
    })
  )
  it.live("429 for an hour is not waited for", () =>
    Effect.gen(function* () {
      const { error, requests } = yield* errorOf({ status: 429, headers: { "retry-after": "3600" } })
      expect(error).toMatchObject({ _tag: "RegistryUnavailable", attempts: 1 })
      expect(error.message).toContain("3600 s")
      expect(requests).toBe(1)
    })
  )
  it.live("401 without a way in, 403, 404 and 500", () =>
    Effect.gen(function* () {
      for (const [status, tag, requests] of [
        [401, "RegistryAuth", 1],
        [403, "RegistryAuth", 1],
        [404, "ImageNotFound", 1],
        [500, "RegistryUnavailable", 4],
        [418, "RegistryUnavailable", 1]
      ] as const) {
        const answer = yield* errorOf({ status, body: "no" })
        expect([status, answer.error._tag, answer.requests]).toEqual([status, tag, requests])
        expect(answer.error.message).toContain(answer.host)
      }
    })
  )
  it.live("that never starts is given up", () =>
    Effect.gen(function* () {
      const { error } = yield* errorOf(
        { stallAfter: 0 },
        { retry: { attemptsMax: 2, baseDelayMs: 1, stallTimeoutMs: 100 } }
      )
      expect(error).toMatchObject({ _tag: "RegistryUnavailable", attempts: 2 })
    })
  )
  it.live("from nobody: refused connection and unknown name", () =>
    Effect.gen(function* () {
      expect(yield* Effect.flip(resolveAt("127.0.0.1:1"))).toMatchObject({
        _tag: "RegistryUnavailable",
        host: "127.0.0.1:1",
        attempts: 4
      })
      const unknown = yield* Effect.flip(resolveAt("registry.invalid"))
      expect(unknown).toMatchObject({ _tag: "RegistryUnavailable", host: "registry.invalid" })
    })
  )
  it.live("that is not HTTPS is not listened to unless asked", () =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(() => undefined)
      // The same server under a name that does not count as loopback.
      const host = proxy.host.replace("127.0.0.1", "0.0.0.0")
      const error = yield* Effect.flip(resolveAt(host, { retry: { attemptsMax: 1, stallTimeoutMs: 300 } }))
      expect(error).toMatchObject({ _tag: "RegistryUnavailable", host })
      expect(proxy.requests).toEqual([])
      yield* resolveAt(host, { insecure: true })
    })
  )
})

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
        expect((yield* Effect.flip(resolveAt(registry.host)))._tag).toBe("RegistryUnavailable")
      }
    })
  )
})

function explicitCredentialFor(host: string): RegistryOptions {
  return { credentials: explicitCredential(host, basicCredential("me", "s3cret")) }
}
