/** The registry of models over HTTP: entries, their rules, and secrets that are refused. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { entry, type Models, scratch, startModels } from "../support/models.ts"

describe("the registry of models", () => {
  const place = scratch()
  let it: Models
  beforeAll(async () => {
    it = await startModels(place.home)
  })
  afterAll(async () => {
    await it.dispose()
    place.dispose()
  })
  const ask: Models["ask"] = (...request) => it.ask(...request)
  const issuesOf = async (fields: Readonly<Record<string, unknown>>) => {
    const { status, body } = await ask("POST", "/ai/models", fields)
    const paths = (body.details?.issues ?? []).map((each: { path: string }) => each.path)
    return { status, paths: [...new Set(paths)] }
  }

  test("registers an entry with its defaults; a second one is 409", async () => {
    const { status, body } = await ask("POST", "/ai/models", entry("first"))
    expect(status).toBe(201)
    expect(body).toMatchObject({
      name: "first",
      provider: "local",
      source: "hf:org/repo",
      engine: "candle",
      dimensions: null,
      pull_policy: "if_missing",
      trust_policy: "disabled",
      status: "registered",
      cache_dir: null,
      created_at_unix_ms: expect.any(Number)
    })
    expect(await ask("POST", "/ai/models", entry("first"))).toMatchObject({
      status: 409,
      body: { code: "ModelExists" }
    })
  })

  test("names every bad field", async () => {
    const wrong: ReadonlyArray<readonly [Readonly<Record<string, unknown>>, string]> = [
      [{ name: "1a" }, "name"],
      [{ name: "" }, "name"],
      [{ name: "a.b" }, "name"],
      [{ name: "a".repeat(129) }, "name"],
      [{ provider: "cloud" }, "provider"],
      [{ source: "" }, "source"],
      [{ source: "hf:a b" }, "source"],
      [{ source: "ftp://x" }, "source"],
      [{ source: "hf:../x" }, "source"],
      [{ source: "http://example.org/x" }, "source"],
      [{ revision: "a b" }, "revision"],
      [{ revision: "" }, "revision"],
      [{ task: "sing" }, "task"],
      [{ engine: "a b" }, "engine"],
      [{ task: "embedding" }, "dimensions"],
      [{ dimensions: 0 }, "dimensions"],
      [{ dimensions: 65_537 }, "dimensions"],
      [{ dimensions: 1.5 }, "dimensions"],
      [{ pull_policy: "sometimes" }, "pull_policy"],
      [{ trust_policy: "yes" }, "trust_policy"],
      [{ trust_policy: "allow_remote_code" }, "acknowledge_remote_code_risk"],
      [{ trust_policy: "allow_remote_code", acknowledge_remote_code_risk: false }, "acknowledge_remote_code_risk"],
      [{ credential_alias: "a b" }, "credential_alias"],
      [{ credential_alias: "a".repeat(129) }, "credential_alias"],
      [{ allow_patterns: [""] }, "allow_patterns.0"],
      [{ ignore_patterns: "x" }, "ignore_patterns"],
      [{ unknown: 1 }, "unknown"],
      [{ pullPolicy: "never" }, "pullPolicy"]
    ]
    for (const [fields, path] of wrong) {
      expect({ fields, ...(await issuesOf(entry("wrong", fields))) }).toEqual({ fields, status: 400, paths: [path] })
    }
    for (const field of ["name", "source", "revision", "task"]) {
      const { [field]: _, ...rest } = entry("wrong") as Record<string, unknown>
      expect(await issuesOf(rest)).toEqual({ status: 400, paths: [field] })
    }
    expect((await ask("GET", "/ai/models/wrong")).status).toBe(404)
  })

  test("knows the old names of pull policies, in any case", async () => {
    const names = { manual: "never", ON_DEMAND: "if_missing", Eager: "always", NEVER: "never", always: "always" }
    for (const [given, kept] of Object.entries(names)) {
      const { status, body } = await ask("POST", "/ai/models", entry(`policy-${given}`, { pull_policy: given }))
      expect({ status, policy: body.pull_policy }).toEqual({ status: 201, policy: kept })
      await ask("DELETE", `/ai/models/policy-${given}`)
    }
  })

  test("takes remote code only with the risk acknowledged", async () => {
    const risky = entry("risky", { trust_policy: "allow_remote_code", acknowledge_remote_code_risk: true })
    expect(await ask("POST", "/ai/models", risky)).toMatchObject({
      status: 201,
      body: { trust_policy: "allow_remote_code" }
    })
    await ask("DELETE", "/ai/models/risky")
  })

  test("lists by name with a count; unknown is 404", async () => {
    await ask("POST", "/ai/models", entry("zeta"))
    await ask("POST", "/ai/models", entry("Alpha", { task: "embedding", dimensions: 384 }))
    const { body } = await ask("GET", "/ai/models")
    expect({ count: body.count, names: body.models.map((each: { name: string }) => each.name) }).toEqual({
      count: 3,
      names: ["Alpha", "first", "zeta"]
    })
    expect(await ask("GET", "/ai/models/Alpha")).toMatchObject({ status: 200, body: { dimensions: 384 } })
    expect(await ask("GET", "/ai/models/none")).toMatchObject({ status: 404, body: { code: "ModelNotFound" } })
  })

  test("replaces an entry; 404 for an unknown one, 400 for another name", async () => {
    const { name: _, ...rest } = entry("zeta", { engine: "onnx" })
    expect(await ask("PUT", "/ai/models/zeta", rest)).toMatchObject({
      status: 200,
      body: { name: "zeta", engine: "onnx" }
    })
    expect(await ask("PUT", "/ai/models/zeta", entry("zeta"))).toMatchObject({
      status: 200,
      body: { engine: "candle" }
    })
    expect(await ask("PUT", "/ai/models/none", rest)).toMatchObject({ status: 404 })
    expect(await ask("PUT", "/ai/models/zeta", entry("other"))).toMatchObject({
      status: 400,
      body: { code: "ModelNameMismatch" }
    })
    expect(await ask("PUT", "/ai/models/zeta", { ...rest, task: "x" })).toMatchObject({ status: 400 })
  })

  test("a path segment that is no name is 400", async () => {
    for (const segment of ["..%2Fx", "a%20b", "1x", "a%00b"]) {
      for (const [method, tail] of [
        ["GET", ""],
        ["DELETE", ""],
        ["GET", "/cache"],
        ["DELETE", "/cache"],
        ["POST", "/pull"]
      ] as const) {
        const { status } = await ask(method, `/ai/models/${segment}${tail}`)
        expect({ segment, method, tail, status }).toEqual({ segment, method, tail, status: 400 })
      }
    }
  })

  test("a secret in plain text is refused before anything else, at any depth and in any case", async () => {
    const keys =
      "api_key apikey api_token token auth_token bearer_token password secret hf_token huggingface_token huggingface_api_key".split(
        " "
      )
    for (const key of [...keys, "API_Key", "Token"]) {
      const { status, body, text } = await ask("POST", "/ai/models", { [key]: "hf_s3cr3t", name: 7 })
      expect({ key, status, code: body.code }).toEqual({ key, status: 400, code: "PlaintextCredential" })
      expect(body.error).toContain(key)
      expect(body.error).toContain("credential_alias")
      expect(text).not.toContain("hf_s3cr3t")
    }
    for (const body of [
      entry("x", { engine: { deep: [{ Password: "a" }] } }),
      { target: "x", options: { a: { b: { c: { HF_TOKEN: 1 } } } } }
    ]) {
      expect(await ask("POST", "/ai/models", body)).toMatchObject({ body: { code: "PlaintextCredential" } })
      expect(await ask("PUT", "/ai/models/zeta", body)).toMatchObject({ body: { code: "PlaintextCredential" } })
      // Before the 404 of an unknown model, after a bad name.
      expect(await ask("POST", "/ai/models/none/pull", body)).toMatchObject({ body: { code: "PlaintextCredential" } })
      expect(await ask("POST", "/ai/models/1x/pull", body)).toMatchObject({ body: { code: "InvalidModelName" } })
    }
    expect(await ask("POST", "/ai/models/none/pull", "[1")).toMatchObject({ status: 400, body: { code: "BadRequest" } })
    expect(await ask("POST", "/ai/models/none/pull?token=a")).toMatchObject({ body: { code: "PlaintextCredential" } })
    let deep = '"x"'
    for (let level = 0; level < 20_000; level++) deep = `{"a":${deep}}`
    expect((await ask("POST", "/ai/models", `{"a":${deep}}`)).status).toBe(400)
  })

  test("an unknown model is 404 on pull, cache and drop", async () => {
    expect(await ask("POST", "/ai/models/none/pull")).toMatchObject({ status: 404, body: { code: "ModelNotFound" } })
    expect(await ask("GET", "/ai/models/none/cache")).toMatchObject({ status: 404 })
    expect(await ask("DELETE", "/ai/models/none/cache")).toMatchObject({ status: 404 })
    expect(await ask("DELETE", "/ai/models/none")).toMatchObject({ status: 404 })
    expect(it.reported).toEqual([])
  })
})
