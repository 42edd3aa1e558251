/** `bunker serve` as a process: its socket, its rivals and its end. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, statSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"

const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip) console.warn("skipped: bunker serve; missing: dist/bunker ('bun run build' makes it)")

suite("bunker serve", () => {
  let home: Home
  beforeAll(() => {
    home = new Home()
  })
  afterAll(() => home.dispose())

  const socket = () => path.join(home.directory, "bunker.sock")
  const serve = async (...args: ReadonlyArray<string>) => {
    const child = home.start(["serve", ...args])
    const reader = child.stderr.getReader()
    const said = new TextDecoder().decode((await reader.read()).value)
    reader.releaseLock()
    return { child, said }
  }
  const ask = async (url: string, init: RequestInit = {}) => {
    const response = await fetch(`http://bunker${url}`, { ...init, unix: socket() })
    return { status: response.status, body: (await response.json()) as unknown }
  }

  test("serves on a socket of its owner's alone, until SIGTERM", async () => {
    const { child, said } = await serve()
    expect(said).toContain(socket())
    expect(statSync(socket()).mode & 0o777).toBe(0o600)
    expect(await ask("/healthz")).toEqual({ status: 200, body: { ok: true } })
    expect(await ask("/v1/sandboxes")).toEqual({ status: 200, body: [] })
    expect(await ask("/v1/images")).toEqual({ status: 200, body: [] })
    expect(await ask("/v1/sandboxes/none")).toMatchObject({ status: 404, body: { code: "SandboxNotFound" } })
    expect(await ask("/v1/sandboxes", { method: "POST", body: '{"config":{"image":"x","cpus":99}}' })).toMatchObject({
      status: 400,
      body: { code: "InvalidInput", details: { issues: [{ path: "config.cpus" }] } }
    })
    const second = await home.bunker(["serve"])
    expect(second).toMatchObject({ code: 125, stderr: expect.stringContaining("listens on") })
    expect(await ask("/healthz")).toEqual({ status: 200, body: { ok: true } })
    child.kill("SIGTERM")
    expect(await child.exited).toBe(0)
    expect(existsSync(socket())).toBe(false)
  })

  test("replaces the socket of a server that was killed", async () => {
    const first = await serve()
    first.child.kill("SIGKILL")
    await first.child.exited
    expect(existsSync(socket())).toBe(true)
    const { child } = await serve()
    expect(await ask("/healthz")).toEqual({ status: 200, body: { ok: true } })
    child.kill("SIGINT")
    expect(await child.exited).toBe(0)
  })

  test("refuses what is no socket, too long a path and what is no address", async () => {
    const file = path.join(home.directory, "precious")
    writeFileSync(file, "kept")
    for (const listen of [
      `unix:${file}`,
      `unix:/tmp/${"x".repeat(110)}`,
      "127.0.0.1",
      "127.0.0.1:99999",
      "[::1]",
      "unix:"
    ]) {
      const { code, stderr } = await home.bunker(["serve", "--listen", listen])
      expect({ listen, code, lines: stderr.trim().split("\n").length }).toEqual({ listen, code: 125, lines: 1 })
    }
    expect(await Bun.file(file).text()).toBe("kept")
  })

  test("waits longer than Bun does by itself", async () => {
    writeFileSync(path.join(home.directory, "bunker.config.ts"), slowPlugin)
    const { child } = await serve()
    expect(await ask("/slow", { method: "POST" })).toEqual({ status: 200, body: "rested" })
    child.kill("SIGTERM")
    expect(await child.exited).toBe(0)
  }, 30_000)

  test("a broken config file is one line that names it", async () => {
    writeFileSync(path.join(home.directory, "bunker.config.ts"), "export default {")
    const { code, stderr } = await home.bunker(["serve"])
    expect({ code, lines: stderr.trim().split("\n").length }).toEqual({ code: 125, lines: 1 })
    expect(stderr).toContain("bunker.config.ts")
  })
})

const slowPlugin = `
import { Context, Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { definePlugin, layerLocal } from "bunker/plugin"
const Rest = RpcGroup.make(Rpc.make("Rest", { success: Schema.String }))
class Sleeper extends Context.Service()("slow/Sleeper") {}
export default definePlugin({
  name: "slow",
  options: Schema.Struct({}),
  address: Sleeper,
  protocol: Rest,
  permissions: { Rest: "slow:rest" },
  layer: () => layerLocal(Sleeper, Rest, Effect.succeed({ Rest: () => Effect.as(Effect.sleep("12 seconds"), "rested") })),
  routes: [{ method: "POST", path: "/slow", message: "Rest" }]
})
`
