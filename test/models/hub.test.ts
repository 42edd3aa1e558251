/** Live pulls from a Hub: commits, pages, redirects without the token, checks, resumption, limits, and secrets that stay secret. */
import { afterEach, describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { type HubFaults, type HubRepository, startHub } from "../support/hub.ts"
import { noise } from "../support/imageStore.ts"
import { entry, scratch, sha256, sourcesFor, startModels } from "../support/models.ts"

const large = noise(3_000_000, 7)
const repository: HubRepository = {
  files: {
    ".gitattributes": "x",
    "config.json": "{}",
    "model.safetensors": large,
    "onnx/model #1.onnx": noise(70_000, 9),
    "onnx/readme": "hello world",
    "tokenizer.json": "tokens",
    "vocab.txt": ""
  },
  large: ["model.safetensors", "onnx/model #1.onnx"]
}
const taken = ["config.json", "model.safetensors", "onnx/model #1.onnx", "onnx/readme", "tokenizer.json", "vocab.txt"]
const secret = "hf_vErYsEcReT0123456789"

describe("a pull from the Hub", () => {
  const cleanups: Array<() => unknown> = []
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
  })
  const setUp = async (
    options: {
      readonly repository?: HubRepository
      readonly faults?: HubFaults
      readonly entry?: Readonly<Record<string, unknown>>
      readonly offline?: boolean
      readonly endpoint?: string
      readonly repositories?: Record<string, HubRepository>
    } = {}
  ) => {
    const place = scratch()
    const hub = startHub(options.repositories ?? { "org/repo": options.repository ?? repository }, options.faults)
    const sources = sourcesFor(
      { hubEndpoint: options.endpoint ?? hub.endpoint, hubOffline: options.offline === true },
      { work: secret, wrong: "hf_wrong", empty: "" }
    )
    const it = await startModels(place.home, sources)
    cleanups.push(place.dispose, () => hub.stop(), it.dispose)
    await it.ask("POST", "/ai/models", entry("m", options.entry))
    const pull = (body?: unknown, headers?: Record<string, string>) =>
      it.ask("POST", "/ai/models/m/pull", body, headers)
    const status = async () => (await it.ask("GET", "/ai/models/m/cache?verify=full")).body
    return { place, hub, it, pull, status }
  }
  const failing = async (options: Parameters<typeof setUp>[0], words: string) => {
    const { pull, status, place } = await setUp(options)
    const refused = await pull()
    expect(refused).toMatchObject({ status: 500, body: { code: "ModelInstallFailed" } })
    expect(refused.body.error).toContain(words)
    expect(await status()).toMatchObject({ status: "missing" })
    const staging = path.join(place.home, "models", ".staging")
    expect(fs.existsSync(staging) ? fs.readdirSync(staging) : []).toEqual([])
    return refused.body.error as string
  }

  test("resolves the branch once and takes every file of that commit", async () => {
    const { pull, status, hub, it } = await setUp()
    const { status: code, body } = await pull()
    expect(code).toBe(200)
    const commit = hub.commitOf("org/repo", "main")!
    expect(body.manifest).toMatchObject({ source: "hf:org/repo", revision: "main", resolved_revision: commit })
    expect(body.manifest.files.map((file: { path: string }) => file.path)).toEqual(taken)
    expect(body.manifest.files[1].sha256).toBe(sha256(large))
    expect(await status()).toMatchObject({ status: "installed" })
    expect((await it.ask("GET", "/ai/models/m")).body.resolved_revision).toBe(commit)
    expect(hub.requests.filter((each) => each.path.includes("/revision/main"))).toHaveLength(1)
    expect(hub.requests.filter((each) => /\/(tree|resolve)\//.test(each.path) && !each.path.includes(commit))).toEqual(
      []
    )
    // Seven files at three a page.
    expect(hub.requests.filter((each) => each.path.includes("/tree/"))).toHaveLength(3)
  })

  test("fetches nothing again while the branch names the same commit, and everything when it moves", async () => {
    const { pull, hub } = await setUp()
    await pull()
    const before = hub.downloads("model.safetensors").length
    expect(await pull()).toMatchObject({ status: 200 })
    expect(hub.downloads("model.safetensors")).toHaveLength(before)
    const commit = "c".repeat(40)
    hub.setCommit("org/repo", "main", commit)
    expect((await pull()).body.manifest.resolved_revision).toBe(commit)
    expect(hub.downloads("model.safetensors")).toHaveLength(before + 1)
  })

  test("a damaged cache is fetched again", async () => {
    const { pull, status, place } = await setUp()
    await pull()
    fs.rmSync(path.join(place.home, "models", "m", "payload", "config.json"))
    expect(await status()).toMatchObject({ status: "unhealthy" })
    await pull()
    expect(await status()).toMatchObject({ status: "installed" })
  })

  test("patterns leave files on the Hub", async () => {
    const { pull, hub } = await setUp({ entry: { allow_patterns: ["*.json", "onnx/"], ignore_patterns: ["*token*"] } })
    const { body } = await pull()
    const paths = body.manifest.files.map((file: { path: string }) => file.path)
    expect(paths).toEqual(["config.json", "onnx/model #1.onnx", "onnx/readme"])
    expect(hub.downloads("model.safetensors")).toEqual([])
  })

  test("a gated repository wants a token, which goes to the Hub alone and is kept nowhere", async () => {
    const { pull, status, hub, it, place } = await setUp({ repository: { ...repository, token: secret } })
    const anonymous = await pull()
    expect(anonymous).toMatchObject({ status: 500, body: { code: "ModelInstallFailed" } })
    expect(anonymous.body.error).toContain("credential_alias")
    expect((await pull({ credential_alias: "wrong" })).body.error).toContain("403")
    for (const alias of ["nobody", "empty"]) {
      const unknown = await pull({ credential_alias: alias })
      expect(unknown).toMatchObject({ status: 400, body: { code: "CredentialNotFound", details: { alias } } })
      expect(unknown.body.error).toContain(`BUNKER_HF_TOKEN_${alias.toUpperCase()}`)
    }
    const answers = [
      await pull({ credential_alias: "work" }, { accept: "text/event-stream" }),
      await it.ask("GET", "/ai/models"),
      await it.ask("GET", "/ai/models/m/cache")
    ]
    expect(await status()).toMatchObject({ status: "installed" })
    expect(answers[0]!.text).toContain("Done")
    expect(hub.requests.filter((each) => each.origin === "hub").at(-1)!.authorization).toBe(`Bearer ${secret}`)
    const stored = hub.requests.filter((each) => each.origin === "storage")
    expect(stored.length).toBeGreaterThan(0)
    expect(stored.map((each) => each.authorization).filter((each) => each !== null)).toEqual([])
    for (const answer of answers) expect(answer.text).not.toContain(secret)
    expect(it.reported).toEqual([])
    const kept = fs.readdirSync(place.home, { recursive: true, encoding: "utf8" })
    for (const file of kept) {
      const whole = path.join(place.home, file)
      if (fs.statSync(whole).isFile())
        expect({ file, has: fs.readFileSync(whole).includes(secret) }).toEqual({ file, has: false })
    }
  })

  test("the request's alias goes over the entry's", async () => {
    const { pull } = await setUp({
      repository: { ...repository, token: secret },
      entry: { credential_alias: "wrong" }
    })
    expect((await pull()).body.error).toContain("403")
    expect((await pull({ credential_alias: "work" })).status).toBe(200)
  })

  test("a cut connection goes on where it ended, a storage without ranges from the start", async () => {
    for (const noRanges of [false, true]) {
      const cuts = { "model.safetensors": noRanges ? [1_000_000, 2_000_000] : [1_000_000, 500_000, 10] }
      const { pull, status, hub } = await setUp({ faults: { cuts, noRanges } })
      expect(await pull()).toMatchObject({ status: 200 })
      expect(await status()).toMatchObject({ status: "installed" })
      const requests = hub.downloads("model.safetensors")
      expect(requests.length).toBeGreaterThanOrEqual(3)
      expect(requests[0]!.range).toBeNull()
      expect(Number(/bytes=(\d+)-/.exec(requests[1]!.range ?? "")?.[1])).toBeGreaterThan(0)
    }
  })

  test("a connection that is cut again and again without a byte is given up", async () => {
    const cuts = { "model.safetensors": Array<number>(20).fill(0) }
    const error = await failing({ faults: { cuts } }, "model.safetensors")
    expect(error).toContain("attempt")
  })

  test("waits as long as a 429 asks, and gives up on one that asks for too long", async () => {
    const busy = (after: string) => () => new Response("busy", { status: 429, headers: { "retry-after": after } })
    const { pull } = await setUp({
      faults: {
        answers: {
          "/revision/main": [busy("0"), busy("0")],
          "/config.json": [busy("0")],
          "storage:model.safetensors": [busy("0")]
        }
      }
    })
    expect(await pull()).toMatchObject({ status: 200 })
    await failing({ faults: { answers: { "/revision/main": [busy("3600")] } } }, "3600 s")
    await failing({ faults: { answers: { "/config.json": [busy("3600")] } } }, "3600 s")
  })

  test("a server error passes, a lasting one ends the pull", async () => {
    const broken = () => new Response(null, { status: 503 })
    const { pull } = await setUp({ faults: { answers: { "/config.json": [broken, broken] } } })
    expect(await pull()).toMatchObject({ status: 200 })
    await failing({ faults: { answers: { "/config.json": Array(9).fill(broken) } } }, "503")
  })

  test("bytes that are not what the Hub listed are fetched once more, then refused", async () => {
    const flip = (bytes: Uint8Array) => {
      const copy = Uint8Array.from(bytes)
      copy[5]! ^= 1
      return copy
    }
    let times = 0
    const once = (name: string, bytes: Uint8Array) =>
      name === "model.safetensors" && times++ === 0 ? flip(bytes) : bytes
    const { pull, status } = await setUp({ faults: { spoil: once } })
    expect(await pull()).toMatchObject({ status: 200 })
    expect(await status()).toMatchObject({ status: "installed" })
    await failing(
      { faults: { spoil: (name, bytes) => (name === "model.safetensors" ? flip(bytes) : bytes) } },
      sha256(large)
    )
    await failing(
      { faults: { spoil: (name, bytes) => (name === "tokenizer.json" ? flip(bytes) : bytes) } },
      "tokenizer.json"
    )
    await failing(
      { faults: { spoil: (name, bytes) => (name === "model.safetensors" ? bytes.slice(1) : bytes) } },
      "2999999"
    )
  })

  test("headers that contradict the list are refused", async () => {
    const set = (name: string, value: string): HubFaults => ({
      headers: (headers, file) => void (file === "model.safetensors" && headers.set(name, value))
    })
    await failing({ faults: set("x-linked-etag", `"${"0".repeat(64)}"`) }, "0".repeat(64))
    await failing({ faults: set("x-linked-size", "7") }, "announces 7 bytes")
    await failing({ faults: set("x-repo-commit", "d".repeat(40)) }, "d".repeat(40))
    await failing({ faults: set("location", "ftp://127.0.0.1/x") }, "redirects")
  })

  test("a list with a path that leaves the payload, twice the same or without a hash is refused", async () => {
    const tree = (entries: ReadonlyArray<unknown>, headers: Record<string, string> = {}): HubFaults => {
      const commit = sha256("org/repo").slice(0, 40)
      return { answers: { [`/tree/${commit}`]: [() => Response.json(entries, { headers })] } }
    }
    const file = (name: string) => ({ type: "file", path: name, size: 1, oid: "a".repeat(40) })
    await failing({ faults: tree([file("a/../../x")]) }, "name")
    await failing({ faults: tree([file("/etc/x")]) }, "name")
    await failing({ faults: tree([file("a"), file("a")]) }, "twice")
    await failing({ faults: tree([file("a"), file("a/b")]) }, "twice")
    await failing({ faults: tree([{ type: "file", path: "a", size: 1 }]) }, "hash")
    await failing({ faults: tree([{ ...file("a"), size: -1 }]) }, "length")
    await failing({ faults: tree([]) }, "contains no files to install")
    await failing({ faults: tree([file("a")], { link: '<http://example.invalid/x>; rel="next"' }) }, "example.invalid")
    await failing({ faults: { answers: { "/revision/main": [() => new Response("<html>")] } } }, "revision")
  })

  test("an unknown repository or revision says so; a pinned commit must be what is answered", async () => {
    await failing({ entry: { source: "hf:org/none" } }, "RepoNotFound")
    await failing({ entry: { revision: "v9" } }, "RevisionNotFound")
    const pinned = sha256("org/repo").slice(0, 40)
    const { pull } = await setUp({ entry: { revision: pinned } })
    expect((await pull()).body.manifest.resolved_revision).toBe(pinned)
  })

  test("offline or with a broken endpoint it is 400 and names the setting and fixture_dir", async () => {
    const offline = await (await setUp({ offline: true })).pull()
    expect(offline).toMatchObject({ status: 400, body: { code: "ModelSourceInvalid" } })
    expect(offline.body.error).toContain("HF_HUB_OFFLINE")
    expect(offline.body.error).toContain("fixture_dir")
    const broken = await (await setUp({ endpoint: "not a url" })).pull()
    expect(broken).toMatchObject({ status: 400, body: { code: "ModelSourceInvalid" } })
    expect(broken.body.error).toContain("HF_ENDPOINT")
  })

  test("nothing listens: the pull fails and says where", async () => {
    await failing({ endpoint: "http://127.0.0.1:9" }, "127.0.0.1:9")
  })

  test("a client that goes away ends the pull and leaves nothing", async () => {
    const gate = Promise.withResolvers<void>()
    const { it, hub, place, status } = await setUp({ faults: { gate: gate.promise } })
    const gone = new AbortController()
    const request = new Request("http://x/ai/models/m/pull", { method: "POST", signal: gone.signal })
    const answer = it.app.request(request)
    while (hub.downloads("model.safetensors").length === 0) await Bun.sleep(5)
    gone.abort()
    await answer
    gate.resolve()
    // The lock is free again, and nothing is left.
    expect((await it.ask("DELETE", "/ai/models/m/cache")).status).toBe(200)
    expect(await status()).toMatchObject({ status: "missing" })
    expect(fs.readdirSync(path.join(place.home, "models", ".staging"))).toEqual([])
  })
})
