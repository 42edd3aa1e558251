/** The API's description: it is valid, complete, says what a real server answers, and can be read by people. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Validator } from "@seriousme/openapi-schema-validator"
import Ajv2020 from "ajv/dist/2020.js"
import { Effect } from "effect"
import { makeApp } from "../../src/http/app.ts"
import { docsPage } from "../../src/http/docs.ts"
import { type OpenApi, openApi, openApiPath, shapeOf } from "../../src/http/openapi.ts"
import { summaries } from "../../src/http/summaries.ts"
import { builtInPlugins } from "../../src/plugin/builtin.ts"
import { engine, Home } from "../support/bunker.ts"
import { busyboxArchive } from "../support/busyboxImage.ts"
import { busybox, mustSkip } from "../support/requirements.ts"
import { startServer, type TestServer } from "../support/server.ts"

const plugins = builtInPlugins({} as never)
const document = openApi(plugins, "0.0.0")
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ method, path, operation }))
)

test("the document is valid OpenAPI 3.1", async () => {
  const { valid, errors } = await new Validator().validate(JSON.parse(JSON.stringify(document)))
  expect({ valid, errors }).toEqual({ valid: true, errors: undefined })
})

test("every route of the application is in it, and nothing else", () => {
  const app = makeApp({
    version: "0.0.0",
    host: { plugins, send: () => Effect.die("unused") },
    run: (effect) => Effect.runPromiseExit(effect),
    spool: () => Effect.die("unused"),
    ready: () => true,
    report: () => {}
  })
  const routes = app.routes
    .filter(({ method }) => method !== "ALL")
    .map(({ method, path }) => `${method} ${shapeOf(openApiPath(path))}`)
  const described = operations.map(({ method, path }) => `${method.toUpperCase()} ${shapeOf(path)}`)
  expect(described.toSorted()).toEqual(routes.toSorted())
  expect(new Set(operations.map(({ operation }) => operation.operationId)).size).toBe(operations.length)
})

test("no two paths differ by the names of their parameters alone, and it is said where the server is", () => {
  const shapes = Object.keys(document.paths).map(shapeOf)
  expect(shapes.filter((shape, index) => shapes.indexOf(shape) !== index)).toEqual([])
  expect(document.servers.map(({ url }) => url)).toEqual(["/"])
})

test("every route of ours has a line for people, and no line is left over", () => {
  const routed = new Set(plugins.flatMap(({ name, routes }) => routes.map(({ message }) => `${name}.${message}`)))
  expect(Object.keys(summaries).toSorted()).toEqual([...routed].toSorted())
})

test("every message has a route, but for those by which the parts of Bunker speak to each other", () => {
  const unrouted = plugins.flatMap(({ name, protocol, routes }) =>
    [...protocol.requests.keys()]
      .filter((message) => !routes.some((route) => route.message === message))
      .map((message) => `${name}.${String(message)}`)
  )
  expect(unrouted.toSorted()).toEqual([
    // An image's own record is Inspect's.
    "images.Get",
    "images.Lease",
    "leases.DropContent",
    "leases.HoldContent",
    "leases.InstallAcquire",
    "leases.InstallClear",
    "leases.InstallRenew",
    "leases.RenewContent",
    "models.Ensure",
    // One request writes a file: FilePut.
    "sandboxes.FileEnd",
    "sandboxes.FileInput",
    "sandboxes.FileWrite",
    "sandboxes.Finish",
    "sandboxes.Recover",
    "sandboxes.RunMain",
    // Blobs are bytes there: PutBlobFile and ReadBlob.
    "sessions.GetBlob",
    "sessions.PutBlob",
    "sweeper.Active",
    "sweeper.Clean",
    "sweeper.Reconcile"
  ])
})

test("a failure names the codes that the message can fail with", () => {
  const { responses } = document.paths["/v1/sandboxes/{name}/exec"]!["post"]!
  expect(responses["404"]!.description).toContain("SandboxNotFound")
  expect(responses["409"]!.description).toContain("WrongState")
  expect(document.paths["/v1/sandboxes/{name}/files"]!["get"]!.responses["404"]!.description).toContain("FileNotFound")
})

test("what a server fills in need not be sent", () => {
  const { content } = document.paths["/v1/sandboxes"]!["post"]!.requestBody!
  expect(content["application/json"]!.schema).toMatchObject({
    required: ["config"],
    properties: { config: { required: ["image"], properties: { memory_mb: { default: 512 } } } }
  })
})

test("the page has a heading for each route, names for its parts, and nothing from elsewhere", async () => {
  const ids: Array<string> = []
  const labelled: Array<string> = []
  const seen: Record<string, number> = {}
  let headings = ""
  const count = (name: string) => ({ element: () => void (seen[name] = (seen[name] ?? 0) + 1) })
  const page = new HTMLRewriter()
    .on("[id]", { element: (element) => void ids.push(element.getAttribute("id")!) })
    .on("[aria-labelledby]", { element: (element) => void labelled.push(element.getAttribute("aria-labelledby")!) })
    .on("h3", { text: ({ text }) => void (headings += text) })
    .on("th:not([scope])", count("cells without a scope"))
    .on("script, link, img, iframe, form, [onclick], [src]", count("foreign"))
    .on("main", count("main"))
    .on("nav[aria-label]", count("nav"))
    .on('html[lang="en"]', count("lang"))
    .on("title", count("title"))
    .on("h1", count("h1"))
    .transform(new Response(docsPage(document)))
  const text = await page.text()
  expect(seen).toEqual({ main: 1, nav: 1, lang: 1, title: 1, h1: 1 })
  expect(new Set(ids).size).toBe(ids.length)
  for (const label of labelled) expect(ids).toContain(label)
  for (const [, target] of text.matchAll(/href="#([^"]+)"/g)) expect(ids).toContain(target!)
  for (const { method, path } of operations) expect(headings).toContain(`${method.toUpperCase()} ${path}`)
  expect([...text.matchAll(/href="([^#"][^"]*)"/g)].map(([, target]) => target)).toEqual(["/openapi.json"])
})

test("words of a plugin are text on the page", () => {
  const [path] = Object.keys(document.paths)
  const hostile = "<img src=x onerror=alert(1)>"
  const operation = { ...document.paths[path!]!["get"]!, summary: hostile }
  const page = docsPage({ ...document, paths: { [path!]: { get: operation } } })
  expect(page).not.toContain(hostile)
  expect(page).toContain("onerror=alert(1)")
})

const skipped = mustSkip("answers against their description")

describe.skipIf(skipped)("a real server", () => {
  const home = new Home()
  let server: TestServer
  let served: OpenApi
  const ajv = new Ajv2020({ strict: false, allErrors: true, validateFormats: false })
  const covered = new Set<string>()

  beforeAll(async () => {
    const archive = path.join(home.directory, "image.tar")
    fs.writeFileSync(archive, busyboxArchive(busybox!))
    server = await startServer(home.directory, "tcp")
    served = (await (await ask("GET", "/openapi.json")).json()) as OpenApi
    ajv.addSchema({ $id: "api", components: served.components })
  }, 120_000)
  afterAll(async () => {
    await server.stop()
    await home.dispose()
  }, 120_000)

  const ask = (method: string, where: string, body?: object, headers: Record<string, string> = {}) =>
    fetch(`${server.options.url}${where}`, {
      method,
      headers: { authorization: `Bearer ${server.options.token}`, ...headers },
      ...(body === undefined ? {} : { body: body instanceof Blob ? body : JSON.stringify(body) })
    })

  const check = (schema: object, value: unknown, what: string) => {
    const own = JSON.parse(JSON.stringify(schema).replaceAll('"#/components/', '"api#/components/'))
    const valid = ajv.validate(own, value)
    expect({ what, errors: valid ? [] : ajv.errors, value: valid ? 0 : value }).toEqual({ what, errors: [], value: 0 })
  }

  /** Sends a request that fits the description, and finds its answer there. */
  const conform = async (status: number, method: string, template: string, where: string, body?: object | Blob) => {
    const operation = served.paths[template]?.[method.toLowerCase()]
    expect({ template, there: operation !== undefined }).toEqual({ template, there: true })
    const what = `${method} ${where} ${status}`
    if (body !== undefined && !(body instanceof Blob) && status < 300) {
      check(operation!.requestBody!.content["application/json"]!.schema, body, `request ${what}`)
    }
    const answer = await ask(method, where, body, body instanceof Blob ? { "content-type": "application/x-tar" } : {})
    const text = await answer.text()
    expect({ what, status: answer.status, text: answer.status === status ? "" : text }).toEqual({
      what,
      status,
      text: ""
    })
    const described = operation!.responses[String(status)]
    expect({ what, described: described !== undefined }).toEqual({ what, described: true })
    covered.add(operation!.operationId)
    const json = described!.content?.["application/json"]?.schema
    if (json === undefined) return text
    const value = JSON.parse(text)
    check(json, value, what)
    return value
  }

  const box = "/v1/sandboxes/{name}"
  const ref = "/v1/images/{reference}"
  const session = "/v1/sessions/{session_id}"

  test("answers as it is described, with a VM", async () => {
    await conform(200, "GET", "/v1/version", "/v1/version")
    await conform(200, "GET", "/healthz", "/healthz")
    await conform(200, "GET", "/readyz", "/readyz")
    await conform(200, "POST", "/v1/images/load", "/v1/images/load", Bun.file(path.join(home.directory, "image.tar")))
    await conform(200, "GET", "/v1/images", "/v1/images")
    await conform(200, "GET", ref, "/v1/images/test/busybox:1")
    await conform(404, "GET", ref, "/v1/images/none:1")
    await conform(400, "GET", ref, "/v1/images/NOT%20ONE")
    const config = { image: "test/busybox:1", engine }
    await conform(201, "POST", "/v1/sandboxes", "/v1/sandboxes", { name: "api", config })
    await conform(409, "POST", "/v1/sandboxes", "/v1/sandboxes", { name: "api", config })
    await conform(400, "POST", "/v1/sandboxes", "/v1/sandboxes", { name: "other", config: { ...config, cpus: 0 } })
    await conform(400, "POST", "/v1/sandboxes", "/v1/sandboxes", { name: "other", config, unknown: 1 })
    await conform(409, "POST", `${box}/exec`, "/v1/sandboxes/api/exec", { request: { argv: ["true"] } })
    await conform(200, "POST", `${box}/start`, "/v1/sandboxes/api/start", {})
    await conform(200, "GET", "/v1/sandboxes", "/v1/sandboxes")
    await conform(200, "GET", box, "/v1/sandboxes/api")
    await conform(404, "GET", box, "/v1/sandboxes/nobody")
    const events = await conform(200, "POST", `${box}/exec`, "/v1/sandboxes/api/exec", {
      request: { argv: ["sh", "-c", "echo out; echo err >&2; exit 3"] }
    })
    expect(events.at(-1)).toEqual({ _tag: "Exit", code: 3 })
    await conform(422, "POST", `${box}/exec`, "/v1/sandboxes/api/exec", { request: { argv: ["no-such-command"] } })
    await conform(200, "GET", `${box}/stats`, "/v1/sandboxes/api/stats")
    await conform(200, "GET", `${box}/logs`, "/v1/sandboxes/api/logs?source=exec")
    await conform(200, "GET", `${box}/files/stat`, "/v1/sandboxes/api/files/stat?path=/etc/passwd")
    await conform(200, "GET", `${box}/files/list`, "/v1/sandboxes/api/files/list?path=/etc")
    await conform(204, "POST", `${box}/files/mkdir`, "/v1/sandboxes/api/files/mkdir", { path: "/tmp/a/b" })
    expect(await conform(200, "GET", `${box}/files`, "/v1/sandboxes/api/files?path=/etc/passwd")).toContain("root")
    await conform(404, "GET", `${box}/files`, "/v1/sandboxes/api/files?path=/nothing")
    const tree = new Blob([Bun.spawnSync(["tar", "c", "-C", import.meta.dir, "openapi.test.ts"]).stdout])
    expect(await conform(200, "PUT", `${box}/tree`, "/v1/sandboxes/api/tree?path=/tmp", tree)).toEqual({ skipped: [] })
    await conform(422, "PUT", `${box}/tree`, "/v1/sandboxes/api/tree?path=/tmp", new Blob(["no tar"]))
    expect(await conform(200, "GET", `${box}/tree`, "/v1/sandboxes/api/tree?path=/tmp")).toContain("openapi.test.ts")
    await conform(204, "DELETE", `${box}/files`, "/v1/sandboxes/api/files?path=/tmp/a&recursive=true")
    await conform(204, "POST", `${box}/pause`, "/v1/sandboxes/api/pause")
    await conform(409, "POST", `${box}/pause`, "/v1/sandboxes/api/pause")
    await conform(204, "POST", `${box}/unpause`, "/v1/sandboxes/api/unpause")
    await conform(204, "POST", `${box}/touch`, "/v1/sandboxes/api/touch")
    await conform(200, "POST", `${box}/stop`, "/v1/sandboxes/api/stop", { timeout_ms: 60_000 })
    await conform(200, "POST", `${box}/wait`, "/v1/sandboxes/api/wait")
    await conform(204, "DELETE", box, "/v1/sandboxes/api")
    await conform(200, "GET", "/v1/usage", "/v1/usage")
    fs.mkdirSync(path.join(home.directory, "sandboxes/broken"))
    fs.writeFileSync(path.join(home.directory, "sandboxes/broken/config.toml"), "cpus =")
    expect(await conform(200, "GET", "/v1/problems", "/v1/problems")).toMatchObject([{ name: "broken", line: 1 }])
    await conform(422, "GET", box, "/v1/sandboxes/broken")
    await conform(204, "DELETE", box, "/v1/sandboxes/broken?force=true")
    expect(await conform(200, "GET", "/v1/problems", "/v1/problems")).toEqual([])
    await conform(200, "POST", "/v1/sweep", "/v1/sweep", {})
    await conform(200, "POST", "/v1/images/prune", "/v1/images/prune", { dry_run: true })
  }, 180_000)

  test("answers as it is described, models and sessions", async () => {
    const spec = { name: "m", source: "hf:org/repo", revision: "main", task: "any" }
    await conform(201, "POST", "/ai/models", "/ai/models", spec)
    await conform(409, "POST", "/ai/models", "/ai/models", spec)
    await conform(400, "POST", "/ai/models", "/ai/models", { name: "m" })
    await conform(200, "PUT", "/ai/models/{name}", "/ai/models/m", { ...spec, revision: "v2" })
    await conform(200, "GET", "/ai/models/{name}/cache", "/ai/models/m/cache")
    await conform(200, "DELETE", "/ai/models/{name}", "/ai/models/m")
    await conform(200, "GET", "/ai/models", "/ai/models")
    await conform(404, "GET", "/ai/models/{name}", "/ai/models/none")
    const { session_id: id } = await conform(201, "POST", "/v1/sessions", "/v1/sessions", { session_id: "s" })
    expect(id).toBe("s")
    await conform(200, "GET", "/v1/sessions", "/v1/sessions")
    await conform(200, "GET", session, "/v1/sessions/s")
    await conform(200, "GET", `${session}/graph`, "/v1/sessions/s/graph")
    await conform(200, "POST", `${session}/gc`, "/v1/sessions/s/gc", {})
    await conform(200, "POST", `${session}/vacuum`, "/v1/sessions/s/vacuum")
    await conform(201, "POST", `${session}/fork`, "/v1/sessions/s/fork", {})
    await conform(200, "DELETE", session, "/v1/sessions/s")
    await conform(404, "GET", session, "/v1/sessions/s")
  }, 60_000)

  test("answers as it is described, leases", async () => {
    const lease = "/v1/leases/{name}"
    const taken = await conform(200, "POST", `${lease}/acquire`, "/v1/leases/nightly/acquire", { duration_ms: 60_000 })
    const { name, ...held } = taken
    expect(name).toBe("nightly")
    expect(await conform(200, "POST", `${lease}/acquire`, "/v1/leases/nightly/acquire", {})).toBeNull()
    expect(await conform(200, "GET", "/v1/leases", "/v1/leases")).toContainEqual(
      expect.objectContaining({ kind: "maintenance", name: "nightly" })
    )
    const { name: _same, ...longer } = await conform(200, "POST", `${lease}/renew`, "/v1/leases/nightly/renew", {
      lease: held,
      duration_ms: 120_000
    })
    // Another name in the path is another lease.
    await conform(409, "POST", `${lease}/complete`, "/v1/leases/other/complete", { lease: longer })
    await conform(204, "POST", `${lease}/complete`, "/v1/leases/nightly/complete", { lease: longer })
    await conform(409, "POST", `${lease}/complete`, "/v1/leases/nightly/complete", { lease: longer })
    const recent = { min_interval_ms: 60_000 }
    expect(await conform(200, "POST", `${lease}/acquire`, "/v1/leases/nightly/acquire", recent)).toBeNull()
    const { name: _again, ...next } = await conform(200, "POST", `${lease}/acquire`, "/v1/leases/nightly/acquire", {})
    await conform(204, "POST", `${lease}/release`, "/v1/leases/nightly/release", { lease: next })
    expect(await conform(200, "GET", "/v1/leases", "/v1/leases")).not.toContainEqual(
      expect.objectContaining({ name: "nightly" })
    )
  }, 60_000)

  test("shows the description and the page without a token, and keeps the Host rule", async () => {
    for (const where of ["/openapi.json", "/docs"]) {
      expect((await fetch(`${server.options.url}${where}`)).status).toBe(200)
      expect((await ask("GET", where, undefined, { host: "evil.example" })).status).toBe(403)
      expect((await ask("GET", where, undefined, { origin: "http://evil.example" })).status).toBe(403)
    }
    const page = await ask("GET", "/docs")
    expect(page.headers.get("content-type")).toContain("text/html")
    expect(page.headers.get("content-security-policy")).toContain("default-src 'none'")
    expect(await page.text()).toContain("GET /v1/sandboxes")
    expect(covered.size).toBeGreaterThanOrEqual(40)
  })
})
