/** What a policy keeps a server's clients from: host paths, ports and networks have permissions of their own. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"

setDefaultTimeout(60_000)
const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip) console.warn("skipped: permissions over HTTP; missing: dist/bunker ('bun run build')")

const hostPaths = ["images:host-paths", "models:host-paths", "sessions:host-paths"]
const denied = ["sandboxes:mount", "sandboxes:publish", "sandboxes:network", ...hostPaths]

suite("a policy", () => {
  const home = new Home()
  let server: ReturnType<Home["start"]>
  beforeAll(async () => {
    const config = path.join(home.directory, "bunker.config.ts")
    writeFileSync(config, `export default { permissions: { deny: ${JSON.stringify(denied)} } }\n`)
    server = home.start(["serve"])
    await server.stderr.getReader().read()
  })
  afterAll(async () => {
    server.kill("SIGTERM")
    await server.exited
    await home.dispose()
  })
  const ask = async (method: string, url: string, body: unknown, type = "application/json") => {
    const unix = path.join(home.directory, "bunker.sock")
    const text = typeof body === "string" ? body : JSON.stringify(body)
    const answer = await fetch(`http://bunker${url}`, { method, body: text, headers: { "content-type": type }, unix })
    return { status: answer.status, text: await answer.text() }
  }
  const check = (config: object) =>
    ask("POST", "/v1/sandboxes/check", { name: "box", config: { image: "x:1", ...config } })
  const refused = (permission: string) => ({ status: 403, text: expect.stringContaining(permission) })

  test("lets sandboxes be made without what it denies", async () => {
    expect(await check({})).toMatchObject({ status: 204 })
    expect(await check({ mounts: [], ports: [] })).toMatchObject({ status: 204 })
  })

  test("denies mounts, ports and networks by name, wherever a definition comes in", async () => {
    const mounts = [{ source: "/tmp", target: "/data", read_only: true }]
    expect(await check({ mounts })).toMatchObject(refused("sandboxes:mount"))
    expect(await check({ ports: [{ host_port: 0, guest_port: 80 }] })).toMatchObject(refused("sandboxes:publish"))
    expect(await check({ network: {} })).toMatchObject(refused("sandboxes:network"))
    const created = await ask("POST", "/v1/sandboxes", { name: "box", config: { image: "x:1", mounts } })
    expect(created).toMatchObject(refused("sandboxes:mount"))
  })

  test("denies paths of this machine, and takes what is sent", async () => {
    const file = "/etc/passwd"
    expect(await ask("POST", "/v1/images/load", { path: file })).toMatchObject(refused("images:host-paths"))
    expect(await ask("POST", `/v1/images/load?path=${file}`, {})).toMatchObject(refused("images:host-paths"))
    const request = { path: "/", reference: "all:1" }
    expect(await ask("POST", "/v1/images/import", request)).toMatchObject(refused("images:host-paths"))
    expect(await ask("POST", "/v1/sessions/import", { file })).toMatchObject(refused("sessions:host-paths"))
    expect(await ask("POST", "/v1/images/load", "no archive", "application/x-tar")).toMatchObject({ status: 422 })
  })

  test("no query puts a path of this machine in the place of what was sent", async () => {
    const given = { status: 400, text: expect.stringContaining("given once, in the body") }
    const tar = "application/x-tar"
    expect(await ask("POST", "/v1/images/load?path=/etc/passwd", "x", tar)).toMatchObject(given)
    expect(await ask("PUT", "/v1/sandboxes/box/files?path=/x&source=/etc/passwd", "x", tar)).toMatchObject(given)
    expect(await ask("PUT", "/v1/sandboxes/box/tree?path=/x&source=/etc/passwd", "x", tar)).toMatchObject(given)
    expect(await ask("PUT", `/v1/sessions/s/blobs/${"0".repeat(64)}?file=/etc/passwd`, "x", tar)).toMatchObject(given)
  })
})
