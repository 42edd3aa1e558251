/** Models that are one file at a URL or an artifact of a registry, and where secrets are found. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Redacted } from "effect"
import { credentialVariable } from "../../src/actors/models/install.ts"
import { fileFilter } from "../../src/domain/glob.ts"
import { findSecret, type SecretOptions } from "../../src/models/credentials.ts"
import { blobOf, jsonBlob } from "../support/image.ts"
import { noise } from "../support/imageStore.ts"
import { it } from "../support/it.ts"
import { entry, scratch, sha256, startModels } from "../support/models.ts"
import { hasRegistryTools, startRegistry } from "../support/registry.ts"

const place = Effect.acquireRelease(Effect.sync(scratch), (each) => Effect.sync(each.dispose))
const modelsAt = (home: string) =>
  Effect.acquireRelease(
    Effect.promise(() => startModels(home)),
    (models) => Effect.promise(models.dispose)
  )

describe("a model at a URL", () => {
  const content = noise(700_000, 11)
  const serve = (answer: (request: Request) => Response) =>
    Effect.acquireRelease(
      Effect.sync(() => Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer })),
      (server) => Effect.promise(() => server.stop(true))
    )
  const setUp = Effect.fnUntraced(function* (answer: (request: Request) => Response) {
    const { home } = yield* place
    const server = yield* serve(answer)
    const models = yield* modelsAt(home)
    const add = (file: string, extra: Readonly<Record<string, unknown>> = {}) =>
      Effect.promise(() =>
        models.ask("PUT", "/ai/models/m", entry("m", { source: `http://127.0.0.1:${server.port}${file}`, ...extra }))
      )
    yield* Effect.promise(() => models.ask("POST", "/ai/models", entry("m")))
    const pull = Effect.promise(() => models.ask("POST", "/ai/models/m/pull"))
    return { home, add, pull }
  })

  it.live("is taken, hashed and kept under its own name", () =>
    Effect.gen(function* () {
      const { add, pull, home } = yield* setUp(() => new Response(content))
      yield* add("/files/model%201.gguf?download=true")
      const { status, body } = yield* pull
      expect(status).toBe(200)
      expect(body.manifest.files).toEqual([
        { path: "model 1.gguf", sha256: sha256(content), size_bytes: content.length }
      ])
      expect(fs.readFileSync(path.join(home, "models/m/payload/model 1.gguf")).equals(content)).toBe(true)
    })
  )

  it.live("is what a revision sha256:… says, or nothing", () =>
    Effect.gen(function* () {
      let asked = 0
      const { add, pull } = yield* setUp(() => {
        asked += 1
        return new Response(content)
      })
      yield* add("/m.gguf", { revision: `sha256:${sha256(content)}` })
      expect(yield* pull).toMatchObject({ status: 200 })
      const before = asked
      expect(yield* pull).toMatchObject({ status: 200 })
      expect(asked).toBe(before + 1)
      yield* add("/m.gguf", { revision: `sha256:${"0".repeat(64)}` })
      const refused = yield* pull
      expect(refused).toMatchObject({ status: 500, body: { code: "ModelInstallFailed" } })
      expect(refused.body.error).toContain(sha256(content))
    })
  )

  it.live("says what is wrong with the address or the answer", () =>
    Effect.gen(function* () {
      const { add, pull } = yield* setUp((request) => {
        const url = new URL(request.url)
        if (url.pathname === "/gone") return new Response(null, { status: 404 })
        if (url.pathname === "/away") return Response.redirect("http://example.invalid/x", 302)
        return new Response(
          new ReadableStream({
            start: (controller) => {
              controller.enqueue(content)
              controller.close()
            }
          })
        )
      })
      const wrong: ReadonlyArray<readonly [string, number, string]> = [
        ["/directory/", 400, "name of a file"],
        ["/.hidden", 400, "name of a file"],
        ["/a%2Fb", 400, "name of a file"],
        ["/gone", 500, "404"],
        ["/away", 500, "example.invalid"],
        ["/endless", 500, "does not say how long"]
      ]
      for (const [file, status, words] of wrong) {
        yield* add(file)
        const refused = yield* pull
        expect({ file, status: refused.status }).toEqual({ file, status })
        expect(refused.body.error).toContain(words)
      }
    })
  )
})

describe("a model of a registry", () => {
  const weights = noise(300_000, 13)
  const titled = (mediaType: string, title: string | undefined, bytes: Uint8Array) => {
    const blob = blobOf(mediaType, bytes)
    const annotations = title === undefined ? {} : { annotations: { "org.opencontainers.image.title": title } }
    return { ...blob, descriptor: { ...blob.descriptor, ...annotations } }
  }
  const artifact = (layers: ReadonlyArray<ReturnType<typeof titled>>) => {
    const config = jsonBlob("application/vnd.oci.empty.v1+json", {})
    const top = jsonBlob("application/vnd.oci.image.manifest.v1+json", {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      artifactType: "application/vnd.example.model",
      config: config.descriptor,
      layers: layers.map((layer) => layer.descriptor)
    })
    return { top, blobs: [config, ...layers] }
  }
  const test = hasRegistryTools ? it.live : () => undefined

  test("is the files that its layers name; images and archives are refused", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      const { home } = yield* place
      const models = yield* modelsAt(home)
      const ask = (...request: Parameters<typeof models.ask>) => Effect.promise(() => models.ask(...request))
      const file = "application/octet-stream"
      const good = artifact([titled(file, "weights.bin", weights), titled(file, "sub/config.json", Buffer.from("{}"))])
      yield* registry.seed("org/model", "1", good)
      const pullOf = Effect.fnUntraced(function* (tag: string) {
        yield* ask("PUT", "/ai/models/m", entry("m", { source: `oci:${registry.host}/org/model:${tag}` }))
        return yield* ask("POST", "/ai/models/m/pull")
      })
      yield* ask("POST", "/ai/models", entry("m"))
      const { status, body } = yield* pullOf("1")
      expect({ status, error: body.error }).toEqual({ status: 200, error: undefined })
      expect(body.manifest.resolved_revision).toBe(good.top.descriptor.digest)
      expect(body.manifest.files).toEqual([
        { path: "sub/config.json", sha256: sha256("{}"), size_bytes: 2 },
        { path: "weights.bin", sha256: sha256(weights), size_bytes: weights.length }
      ])
      expect(yield* ask("GET", "/ai/models/m/cache?verify=full")).toMatchObject({ body: { status: "installed" } })
      const bad: ReadonlyArray<readonly [string, ReturnType<typeof artifact>, string]> = [
        [
          "tar",
          artifact([titled("application/vnd.oci.image.layer.v1.tar+gzip", "a.tar", Buffer.from("x"))]),
          "archive"
        ],
        ["nameless", artifact([titled(file, undefined, Buffer.from("x"))]), "names no file"],
        ["leaves", artifact([titled(file, "../x", Buffer.from("x"))]), "../x"],
        ["empty", artifact([]), "contains no files to install"]
      ]
      for (const [tag, image, words] of bad) {
        yield* registry.seed("org/model", tag, image)
        const refused = yield* pullOf(tag)
        expect({ tag, status: refused.status }).toEqual({ tag, status: 500 })
        expect(refused.body.error).toContain(words)
      }
      expect((yield* pullOf("none")).status).toBe(500)
      yield* ask("PUT", "/ai/models/m", entry("m", { source: "oci:!!" }))
      expect(yield* ask("POST", "/ai/models/m/pull")).toMatchObject({
        status: 400,
        body: { code: "ModelSourceInvalid" }
      })
    }))
})

describe("the secret of an alias", () => {
  const find = (alias: string, options: Partial<SecretOptions>) =>
    Effect.map(
      findSecret(alias, {
        variable: credentialVariable,
        env: {},
        keyring: async () => null,
        reference: () => Effect.succeed(undefined),
        ...options
      }),
      (secret) => (secret === undefined ? undefined : Redacted.value(secret))
    )

  it.live("comes from the environment, then the keyring, then what the config refers to", () =>
    Effect.gen(function* () {
      const file = path.join((yield* place).tree("secrets", { token: "from file\n" }), "token")
      const everything: Partial<SecretOptions> = {
        env: { BUNKER_HF_TOKEN_MY_WORK_1: "from env", OTHER: "from reference" },
        keyring: async (name) => (name === "hf/my-work_1" ? "from keyring" : null),
        reference: () => Effect.succeed({ env: "OTHER" })
      }
      expect(yield* find("my-work_1", everything)).toBe("from env")
      expect(yield* find("my-work_1", { ...everything, env: { BUNKER_HF_TOKEN_MY_WORK_1: " " } })).toBe("from keyring")
      expect(yield* find("x", everything)).toBe("from reference")
      expect(yield* find("x", { reference: () => Effect.succeed({ file }) })).toBe("from file")
      expect(yield* find("x", { reference: () => Effect.succeed({ file: `${file}.none` }) })).toBeUndefined()
      expect(yield* find("x", { reference: () => Effect.succeed({ env: "NONE" }) })).toBeUndefined()
      expect(yield* find("x", {})).toBeUndefined()
    })
  )
})

describe("patterns of files", () => {
  it.live("mean what the Hub's clients mean by them", () =>
    Effect.sync(() => {
      const cases: ReadonlyArray<readonly [string, string, boolean]> = [
        ["*.json", "a.json", true],
        ["*.json", "deep/a.json", true],
        ["*.json", "a.jsonl", false],
        ["model-?????-of-*", "model-00001-of-00002.safetensors", true],
        ["onnx/", "onnx/a/b", true],
        ["onnx/", "onnx", false],
        ["[ab].txt", "a.txt", true],
        ["[!ab].txt", "a.txt", false],
        ["[!ab].txt", "c.txt", true],
        ["[z-a]x", "mx", false],
        ["[", "[", true],
        ["a.c", "abc", false],
        ["(a|b)+", "a", false],
        ["**/x", "a/b/x", true],
        ["a-b/*", "a-b/c", true],
        ["[]x]", "]", true],
        ["", "a", false]
      ]
      for (const [pattern, name, taken] of cases) {
        expect({ pattern, name, taken: fileFilter([pattern], undefined)(name) }).toEqual({ pattern, name, taken })
        expect(fileFilter(undefined, [pattern])(name)).toBe(!taken)
      }
      expect(fileFilter(["*a*a*a*a*a*a*a*a*a*b"], undefined)("a".repeat(200))).toBe(false)
    })
  )
})
