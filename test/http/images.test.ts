/** Images over HTTP as archives: uploads and downloads of any length, and what breaks them. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import http from "node:http"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"
import { archiveOf, file, imageOf, layoutFiles, tarOf } from "../support/image.ts"
import { first, layoutOf, noise, problemsIn } from "../support/imageStore.ts"

setDefaultTimeout(60_000)
const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip) console.warn("skipped: images over HTTP; missing: dist/bunker ('bun run build' makes it)")

const big = imageOf([[file("noise", noise(3_000_000, 5))]])
const archive = archiveOf(
  layoutFiles([
    { ...layoutOf(first), name: "test/first:1" },
    { ...layoutOf(big), name: "test/big:1" }
  ])
)

suite("images over HTTP", () => {
  const home = new Home()
  let server: ReturnType<Home["start"]>
  beforeAll(async () => {
    server = home.start(["serve"])
    await server.stderr.getReader().read()
  })
  afterAll(async () => {
    server.kill("SIGTERM")
    await server.exited
    await home.dispose()
  })
  const socket = path.join(home.directory, "bunker.sock")
  const temporary = () => readdirSync(path.join(home.directory, "cache/tmp"))
  const send = (url: string, body: Uint8Array | string, type = "application/x-tar") =>
    fetch(`http://bunker${url}`, { method: "POST", body, headers: { "content-type": type }, unix: socket })
  const json = async (response: Response) => ({ status: response.status, body: (await response.json()) as unknown })
  const save = (...references: ReadonlyArray<string>) =>
    send("/v1/images/save", JSON.stringify({ references }), "application/json")

  test("an uploaded archive is loaded, and downloaded again as the CLI saves it", async () => {
    expect(archive.length).toBeGreaterThan(2 ** 20)
    const loaded = await json(await send("/v1/images/load", Bun.zstdCompressSync(archive)))
    expect(loaded.status).toBe(200)
    const done = (loaded.body as ReadonlyArray<{ _tag: string }>).filter((event) => event._tag === "Done")
    expect(done).toHaveLength(2)
    expect(temporary()).toEqual([])
    const saved = await save("test/first:1", "test/big:1")
    expect(saved.headers.get("content-type")).toBe("application/x-tar")
    const bytes = Buffer.from(await saved.arrayBuffer())
    const target = path.join(home.directory, "x.tar")
    await home.must(["save", "-q", "-o", target, "test/first:1", "test/big:1"])
    expect(bytes.equals(readFileSync(target))).toBe(true)
  })

  test("a root file system is imported with what the query says, events as they come", async () => {
    const query = new URLSearchParams({ reference: "mine:1", changes: '["CMD [\\"a\\"]"]' })
    const response = await fetch(`http://bunker/v1/images/import?${query}`, {
      method: "POST",
      body: tarOf([file("a", "a")]),
      headers: { "content-type": "application/octet-stream", accept: "text/event-stream" },
      unix: socket
    })
    expect(await response.text()).toContain('"_tag":"Done"')
    const inspected = await fetch("http://bunker/v1/images/mine:1", { unix: socket })
    expect(await inspected.json()).toMatchObject({ config: { cmd: ["a"] } })
    expect(temporary()).toEqual([])
  })

  test("what is wrong is answered as such, and leaves nothing behind", async () => {
    expect(await json(await save("none:1"))).toMatchObject({ status: 404, body: { code: "ImageNotFound" } })
    expect(await json(await save())).toMatchObject({ status: 400, body: { code: "InvalidInput" } })
    expect(await json(await send("/v1/images/load", "no archive"))).toMatchObject({
      status: 422,
      body: { code: "ArchiveInvalid" }
    })
    expect(await json(await send("/v1/images/load?colour=red", archive))).toMatchObject({ status: 400 })
    expect(await json(await send("/v1/images/import?reference=x:1&changes=RUN", tarOf([])))).toMatchObject({
      status: 400
    })
    expect(await json(await send("/v1/images/pull", archive))).toMatchObject({ status: 413 })
    expect(temporary()).toEqual([])
  })

  test("a download that turns out damaged is broken off, and never looks whole", async () => {
    const layer = path.join(home.directory, "cache/layers", `${big.diffIds[0]!.slice(7)}.erofs`)
    const good = readFileSync(layer)
    const bad = Buffer.from(good)
    bad[2_500_000] = bad[2_500_000]! ^ 1
    writeFileSync(layer, bad)
    // By hand: the body must end as cut off, whatever a client makes of it.
    const whole = await new Promise<boolean>((resolve, reject) => {
      const headers = { "content-type": "application/json" }
      const request = http.request(
        { socketPath: socket, path: "/v1/images/save", method: "POST", headers },
        (answer) => {
          answer.on("data", () => undefined)
          answer.on("end", () => resolve(answer.complete))
          answer.on("error", () => resolve(false))
        }
      )
      request.on("error", reject)
      request.end('{"references":["test/big:1"]}')
    })
    expect(whole).toBe(false)
    writeFileSync(layer, good)
    expect((await save("test/big:1")).status).toBe(200)
  })

  test("a client that goes away in the middle leaves nothing behind", async () => {
    const response = await save("test/big:1")
    await response.body!.getReader().read()
    await response.body!.cancel().catch(() => undefined)
    const upload = new AbortController()
    const endless = new ReadableStream<Uint8Array>({
      pull: async (to) => {
        to.enqueue(new Uint8Array(65_536))
        if (temporary().length > 0) upload.abort()
      }
    })
    const options = { method: "POST", body: endless, headers: { "content-type": "application/x-tar" }, unix: socket }
    await fetch("http://bunker/v1/images/load", { ...options, signal: upload.signal }).catch(() => undefined)
    while (temporary().length > 0) await Bun.sleep(20)
    expect((await fetch("http://bunker/healthz", { unix: socket })).status).toBe(200)
    expect(problemsIn(home.directory).filter((problem) => !problem.startsWith("locks/"))).toEqual([])
  })
})
