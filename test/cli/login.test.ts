/** Logging in and out as a person does, at a terminal and through pipes. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, readFileSync, rmSync } from "node:fs"
import path from "node:path"
import { Effect, Exit, Scope } from "effect"
import { Home, program } from "../support/bunker.ts"
import { first, layoutOf } from "../support/imageStore.ts"
import { hasRegistryTools, startRegistry } from "../support/registry.ts"

setDefaultTimeout(60_000)

const built = existsSync(program)
if (!built) console.log(`skipped: tests of the program, since there is no ${program}; run 'bun run build'`)
const scope = Scope.makeUnsafe()
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

/** Runs the program on a terminal, answering each question when it comes; answers all that was shown. */
const atTerminal = async (
  home: Home,
  args: ReadonlyArray<string>,
  answers: ReadonlyArray<readonly [string, string]>
) => {
  let seen = ""
  let next = 0
  const child = Bun.spawn([program, ...args], {
    env: home.environment(),
    terminal: {
      cols: 80,
      rows: 24,
      data: (terminal: { readonly write: (text: string) => void }, data: Uint8Array) => {
        seen += new TextDecoder().decode(data)
        const answer = answers[next]
        if (answer !== undefined && seen.endsWith(answer[0])) {
          next += 1
          terminal.write(answer[1])
        }
      }
    }
  } as Parameters<typeof Bun.spawn>[1]) as Bun.Subprocess & { readonly terminal: { readonly close: () => void } }
  const code = await child.exited
  child.terminal.close()
  return { code, seen }
}

describe.skipIf(!built || !hasRegistryTools)("a private registry", () => {
  let host = ""
  const home = new Home()
  afterAll(() => rmSync(home.directory, { recursive: true, force: true }))
  const config = path.join(home.directory, ".docker", "config.json")
  const image = () => `${host}/team/first:1`
  beforeAll(async () => {
    const auth = { kind: "basic", username: "me", password: "s3cret" } as const
    const registry = await Effect.runPromise(Scope.provide(startRegistry(auth), scope))
    await Effect.runPromise(registry.push("team/first:1", layoutOf(first)))
    host = registry.host
  })

  test("without a login is refused in one line that names the command", async () => {
    const { code, stderr } = await home.bunker(["pull", image()])
    expect(code).toBe(125)
    expect(stderr).toMatch(/^bunker: [^\n]+ refused access to team\/first \(HTTP 401\)[^\n]+'bunker login 127[^\n]+\n$/)
  })

  test("takes a login for one pull from a pipe, and keeps nothing", async () => {
    const args = ["pull", "-q", "-u", "me", "--password-stdin", image()]
    expect(await home.must(args, { stdin: "s3cret\n" })).toBe(`${image()}\n`)
    expect((await home.bunker(args, { stdin: "wr0ng" })).stderr).toContain("refused access")
    expect((await home.bunker(["pull", "--password-stdin", image()])).stderr).toContain("needs --username")
    expect(existsSync(config)).toBe(false)
  })

  test("takes one from the environment", async () => {
    const env = { BUNKER_REGISTRY: host, BUNKER_REGISTRY_USERNAME: "me", BUNKER_REGISTRY_PASSWORD: "s3cret" }
    expect(await home.must(["pull", "-q", image()], { env })).toBe(`${image()}\n`)
  })

  test("login asks at the terminal without an echo, checks, and stores; logout forgets", async () => {
    const wrong = await atTerminal(
      home,
      ["login", host],
      [
        [`User name at ${host}: `, "me\r"],
        ["Password: ", "wr0ng\r"]
      ]
    )
    expect(wrong.code).toBe(125)
    expect(wrong.seen).toContain("does not accept this user name and password")
    expect(existsSync(config)).toBe(false)
    const right = await atTerminal(home, ["login", "-u", "me", host], [["Password: ", "x\x7fs3cret\r"]])
    expect(right).toMatchObject({ code: 0, seen: expect.stringContaining(`logged in to ${host}`) })
    expect(right.seen + wrong.seen).not.toMatch(/s3cret|wr0ng/)
    expect(JSON.parse(readFileSync(config, "utf8"))).toEqual({
      auths: { [host]: { auth: Buffer.from("me:s3cret").toString("base64") } }
    })
    expect(await home.must(["pull", "-q", image()])).toBe(`${image()}\n`)
    expect((await home.bunker(["logout", host])).stderr).toBe(`logged out of ${host}\n`)
    expect((await home.bunker(["logout", host])).stderr).toBe(`there was no login for ${host}\n`)
    expect((await home.bunker(["pull", image()])).code).toBe(125)
  })

  test("Ctrl-C at the password ends with 130 and leaves the terminal as it was", async () => {
    const { code, seen } = await atTerminal(home, ["login", "-u", "me", host], [["Password: ", "s3\x03"]])
    expect(code).toBe(130)
    expect(seen).not.toContain("s3")
  })

  test("login reads a password from a pipe, and wants one", async () => {
    const args = ["login", "-u", "me", "--password-stdin", host]
    expect((await home.bunker(args, { stdin: "s3cret\n" })).stderr).toContain("logged in")
    for (const [given, words] of [
      [{ stdin: "" }, "the password is empty"],
      [{ stdin: "wr0ng" }, "does not accept"]
    ] as const) {
      expect(await home.bunker(args, given)).toMatchObject({ code: 125, stderr: expect.stringContaining(words) })
    }
    expect((await home.bunker(["login", host])).stderr).toMatch(/^bunker: stdin is no terminal[^\n]+--username\n$/)
    expect((await home.bunker(["login", "-u", "me", host])).stderr).toContain("--password-stdin")
    expect((await home.bunker(["login", "-u", "me", "--password-stdin", "not a host"], { stdin: "x" })).code).toBe(125)
  })
})
