/** A third party's plugin in `bunker.config.ts`, reached through the program as people start it: compiled, and from the checkout. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"

const root = path.join(import.meta.dir, "../..")
const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip)
  console.warn("skipped: plugins of the program; missing: dist/bunker ('bun run build' makes it)")

/** The greeter as its author would write it: with the names that the package exports, in a directory without node_modules. */
const greeter = readFileSync(path.join(root, "test/support/greeterPlugin.ts"), "utf8")
  .replace("../../src/actors/kit/Actor.ts", "bunker/plugin")
  .replace("../../src/plugin/Plugin.ts", "bunker/plugin")

suite("a plugin of the home's owner", () => {
  let home: Home
  const writeConfig = (text: string) => writeFileSync(path.join(home.directory, "bunker.config.ts"), text)

  beforeAll(() => {
    home = new Home()
    writeFileSync(path.join(home.directory, "greeter.ts"), greeter)
  })
  afterAll(() => home.dispose())

  const fromCheckout = async (...args: ReadonlyArray<string>) => {
    const child = Bun.spawn([process.execPath, path.join(root, "src/cli/main.ts"), ...args], {
      env: home.environment(),
      stdout: "pipe",
      stderr: "pipe"
    })
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    return { code: await child.exited, stdout, stderr }
  }

  test("adds a command to the compiled program and to the checkout's", async () => {
    writeConfig('export { default } from "./greeter"')
    const greeted = { code: 0, stdout: '{"text":"hello, Ada"}\n', stderr: "" }
    expect(await home.bunker(["greet", "Ada"])).toEqual(greeted)
    expect(await fromCheckout("greet", "Ada")).toEqual(greeted)
    expect((await home.bunker(["--help"])).stdout).toContain("Greet somebody")
    expect(await home.bunker(["greet", "nobody"])).toMatchObject({
      code: 125,
      stderr: "bunker: there is nobody called nobody; greet somebody else\n"
    })
  })

  test("adds a route to the server; options, permissions and the audit of the config hold", async () => {
    writeConfig(`
      import { defineConfig } from "bunker/plugin"
      import greeter from "./greeter.ts"
      export default defineConfig({
        plugins: [greeter],
        options: { greeter: { greeting: "moin" } },
        permissions: { deny: ["greeter:count", "sandboxes:*"] },
        auditFile: "audit.jsonl"
      })`)
    const child = home.start(["serve"])
    await child.stderr.getReader().read()
    const ask = async (url: string, init: RequestInit = {}) => {
      const response = await fetch(`http://bunker${url}`, { ...init, unix: path.join(home.directory, "bunker.sock") })
      return { status: response.status, body: (await response.json()) as unknown }
    }
    expect(await ask("/x/greeter/Ada", { method: "POST" })).toEqual({ status: 201, body: { text: "moin, Ada" } })
    expect(await ask("/x/greeter/count?to=3")).toMatchObject({ status: 403, body: { code: "PermissionDenied" } })
    expect(await ask("/v1/sandboxes")).toMatchObject({ status: 403, body: { details: { plugin: "sandboxes" } } })
    expect((await ask("/v1/images")).status).toBe(200)
    child.kill("SIGTERM")
    expect(await child.exited).toBe(0)
    const audit = readFileSync(path.join(home.directory, "audit.jsonl"), "utf8").trim().split("\n")
    expect(audit.map((line) => JSON.parse(line)).map(({ permission, allowed }) => [permission, allowed])).toEqual([
      ["greeter:greet", true],
      ["greeter:count", false],
      ["sandboxes:read", false],
      ["images:read", true]
    ])
    // The owner's own commands ask nobody.
    expect((await home.bunker(["ps"])).code).toBe(0)
  })

  test("can not take a command of Bunker's own", async () => {
    writeConfig(
      'import greeter from "./greeter.ts"\nexport default { ...greeter, commands: [{ ...greeter.commands[0], name: "ps" }] }'
    )
    const { code, stderr } = await home.bunker(["greet", "Ada"])
    expect(code).toBe(125)
    expect(stderr).toContain('"ps" is one of Bunker\'s own')
  })

  test("a broken config is one line that names the file, and stops none of Bunker's own commands", async () => {
    writeConfig("import nothing from './nowhere.ts'\nexport default nothing")
    for (const command of [["ps"], ["images"], ["df"]]) expect((await home.bunker(command)).code).toBe(0)
    for (const command of [["greet", "Ada"], ["serve"]]) {
      const { code, stderr } = await home.bunker(command)
      expect({ code, lines: stderr.trim().split("\n").length }).toEqual({ code: 125, lines: 1 })
      expect(stderr).toContain(`${home.directory}/bunker.config.ts`)
    }
    const help = await home.bunker(["--help"])
    expect(help).toMatchObject({ code: 0, stderr: expect.stringContaining("bunker.config.ts") })
    expect(help.stdout).toContain("SUBCOMMANDS")
  })
})
