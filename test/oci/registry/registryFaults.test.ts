import { describe, expect, test } from "bun:test"
import { Effect, Exit, Fiber, Stream } from "effect"
import { defaultPlatform } from "../../../src/domain/image/platform.ts"
import { basicCredential, explicitCredential } from "../../../src/oci/registry/credentials.ts"
import { mayFollow } from "../../../src/oci/registry/http.ts"
import type { RegistryOptions } from "../../../src/oci/registry/registry.ts"
import { type Fault, type FaultRule, startFaultProxy } from "../../support/faultProxy.ts"
import { it } from "../../support/it.ts"
import { selfSigned } from "../../support/registry.ts"
import {
  bytesOf,
  image,
  layer,
  layerBlob,
  layerPath,
  manifestPath,
  onBlob,
  onManifest,
  quick,
  registryOf,
  resolveAt,
  size,
  sourceAt,
  spoilt
} from "../../support/spoiltRegistry.ts"

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
  it.live("hangs up when its reader goes away before the answer", () =>
    Effect.gen(function* () {
      const proxy = yield* spoilt(onBlob(() => ({ silent: true })))
      const source = yield* sourceAt(proxy.host, { retry: { ...quick, stallTimeoutMs: 60_000 } })
      const fiber = yield* Effect.forkChild(bytesOf(source))
      while (proxy.requests.length === 0) yield* Effect.sleep(5)
      yield* Fiber.interrupt(fiber)
      for (let i = 0; i < 200 && proxy.open.size > 0; i++) yield* Effect.sleep(5)
      expect(proxy.open.size).toBe(0)
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
  const secret = (host: string): RegistryOptions => ({
    credentials: explicitCredential(host, basicCredential("me", "s3cret"))
  })
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

describe("a redirect", () => {
  const cases: ReadonlyArray<readonly [from: string, to: string, insecure: boolean, followed: boolean]> = [
    ["https://a.io/x", "https://b.io/x", false, true],
    ["https://a.io/x", "http://b.io/x", false, false],
    ["https://a.io/x", "http://a.io/x", false, false],
    ["https://a.io/x", "http://127.0.0.1:9/x", false, false],
    ["https://a.io/x", "http://[::1]/x", false, false],
    ["http://localhost:5000/x", "http://127.0.0.1:9/x", false, true],
    ["http://127.0.0.1:5000/x", "http://b.io/x", false, false],
    ["http://a.io/x", "http://b.io/x", true, true],
    ["http://a.io/x", "file:///etc/passwd", true, false],
    ["https://a.io/x", "ftp://b.io/x", true, false],
    // Services of this machine: not over TLS, under no spelling, and not where plain HTTP is allowed.
    ...[
      ...["127.0.0.1:9", "localhost", "localhost.", "x.localhost", "0.0.0.0:80", "0", "2130706433", "127.1", "[::1]"],
      ...[
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:0.0.0.0]",
        "[::127.0.0.1]",
        "169.254.169.254",
        "[::ffff:169.254.1.1]",
        "[fe80::1]"
      ]
    ].flatMap((host) => [
      ["https://a.io/x", `https://${host}/x`, false, false] as const,
      ["http://a.io/x", `http://${host}/x`, true, false] as const
    ]),
    ["https://localhost:5000/x", "https://127.0.0.1:9/x", false, true],
    ["https://a.io/x", "https://10.0.0.1/x", false, true],
    ["https://a.io/x", "https://[2001:db8::7f00:1]/x", false, true],
    ["https://a.io/x", "https://128.0.0.1/x", false, true]
  ]
  test.each(cases)("from %s to %s, insecure %p: followed %p", (from, to, insecure, followed) => {
    expect(mayFollow(new URL(from), new URL(to), insecure)).toBe(followed)
  })
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
  it.live("under a certificate that nobody vouches for is refused at once", () =>
    Effect.gen(function* () {
      if (Bun.which("openssl") === null) return console.log("openssl is not installed: skipped")
      const { key, certificate } = yield* selfSigned()
      const server = yield* Effect.acquireRelease(
        Effect.sync(() => {
          const tls = { key: Bun.file(key), cert: Bun.file(certificate) }
          return Bun.serve({ port: 0, hostname: "127.0.0.1", tls, fetch: () => new Response("{}") })
        }),
        (server) => Effect.promise(() => server.stop(true))
      )
      // A name of this machine that does not count as loopback, so that HTTPS is spoken.
      const error = yield* Effect.flip(resolveAt(`0.0.0.0:${server.port}`))
      expect(error).toMatchObject({ _tag: "RegistryUnavailable", attempts: 1 })
      expect(error.message).toContain("TLS")
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
