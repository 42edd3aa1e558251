/** Options of bunker.config.ts that reach Bunker's own commands, through the compiled program; a broken file stops none of them. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"
import { archiveOf, directory, file, imageOf, layoutFiles } from "../support/image.ts"

if (!fs.existsSync(program)) console.warn("skipped: options; missing: dist/bunker ('bun run build' makes it)")

describe.skipIf(!fs.existsSync(program))("options of bunker.config.ts", () => {
  const home = new Home()
  const archive = path.join(home.directory, "image.tar")
  const config = path.join(home.directory, "bunker.config.ts")
  const remembered = path.join(home.directory, "cache", "options.json")

  beforeAll(() => {
    const { manifest, blobs } = imageOf([[directory("etc"), file("etc/hostname", "x"), file("etc/other", "y")]])
    fs.writeFileSync(archive, archiveOf(layoutFiles([{ name: "test/tiny:1", top: manifest, blobs }])))
  })
  afterAll(() => home.dispose())

  const load = async (env: Readonly<Record<string, string>> = {}) => {
    const { code, stderr } = await home.bunker(["load", "-q", archive], { env })
    if (code === 0) await home.must(["image", "rm", "test/tiny:1"])
    return { code, stderr }
  }
  const write = (text: string) => fs.writeFileSync(config, text)

  test("count for commands that run no plugin, and a changed file counts at once", async () => {
    write(
      'import { defineConfig } from "bunker/plugin"\nexport default defineConfig({ options: { images: { limits: { entries: 1 } } } })\n'
    )
    for (let turn = 0; turn < 2; turn += 1) {
      const { code, stderr } = await load()
      expect({ code, lines: stderr.trim().split("\n").length }).toEqual({ code: 125, lines: 1 })
      expect(stderr).toContain("entries")
      expect(fs.existsSync(remembered)).toBe(true)
    }
    expect(fs.statSync(remembered).mode & 0o777).toBe(0o600)
    write("export default { options: { images: { limits: { entries: 10 } } } }\n")
    expect(await load()).toEqual({ code: 0, stderr: "" })
    fs.rmSync(config)
    expect(await load()).toEqual({ code: 0, stderr: "" })
  }, 60_000)

  test("that depend on more than the file are asked each time", async () => {
    write("export default { options: { images: { limits: { entries: Number(process.env.ENTRIES) } } } }\n")
    expect((await load({ ENTRIES: "1" })).code).toBe(125)
    expect((await load({ ENTRIES: "10" })).code).toBe(0)
    expect((await load({ ENTRIES: "1" })).code).toBe(125)
  }, 60_000)

  test("that are wrong, or a file that is, are said and stop nothing", async () => {
    for (const text of ["export default { options: { images: { limits: { entries: -1 } } } }\n", "export default {"]) {
      write(text)
      const { code, stderr } = await load()
      expect(code).toBe(0)
      expect(stderr).toContain("bunker.config.ts")
      expect(stderr).toContain("do not count")
      expect((await home.bunker(["ps"])).code).toBe(0)
    }
  }, 60_000)
})
