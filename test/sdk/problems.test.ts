/** Definitions that are broken, as programs see them: of this process, of a server, and over plain HTTP. Boots nothing. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { MachineConfigInvalid, Sandbox } from "../../src/sdk/index.ts"
import { program } from "../support/bunker.ts"
import { startServer, type TestServer } from "../support/server.ts"

if (!existsSync(program)) console.warn("skipped: broken definitions; missing: dist/bunker ('bun run build' makes it)")

describe.skipIf(!existsSync(program))("a broken definition", () => {
  const home = mkdtempSync(path.join(tmpdir(), "bk-"))
  const file = path.join(home, "sandboxes/web/config.toml")
  let server: TestServer

  beforeAll(async () => {
    mkdirSync(path.dirname(file), { recursive: true })
    writeFileSync(
      file,
      'name = "web"\nvm_id = "899a504a-f66e-4a9f-b58a-b50e2fb909ad"\nstate = "stopped"\ncpus = 0\nmemory_mb = 512\ndisk_gb = 4\n'
    )
    server = await startServer(home, "unix")
  }, 60_000)
  afterAll(async () => {
    await server.stop()
    rmSync(home, { recursive: true, force: true })
  })

  const expected = { name: "web", path: file, kind: "broken", line: 4, reason: expect.stringContaining("cpus") }

  test("is in no list, and among the problems with its place", async () => {
    for (const place of [{ home }, { server: server.options }]) {
      expect(await Sandbox.list(place)).toEqual([])
      expect(await Sandbox.problems(place)).toMatchObject([expected])
      await expect(Sandbox.get("web", place)).rejects.toBeInstanceOf(MachineConfigInvalid)
    }
    expect(await Sandbox.connect(server.options).problems()).toMatchObject([expected])
    const answer = await fetch("http://bunker/v1/problems", { unix: server.options.url.slice("unix:".length) })
    expect({ status: answer.status, body: await answer.json() }).toMatchObject({ status: 200, body: [expected] })
  })
})
