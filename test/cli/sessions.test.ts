/** `bunker session`: every command, its output and what it says when it is used wrongly. */
import { Database } from "bun:sqlite"
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"
import { hash } from "../support/sessions.ts"

setDefaultTimeout(60_000)
const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip) console.warn("skipped: bunker session; missing: dist/bunker ('bun run build' makes it)")

const hostile = "\x1b]0;owned\x07\x1b[2J\u202e\r\nnext"
const turn = {
  turn_id: "1",
  expected_revision: 0,
  nodes: [
    { node_id: "root", parent_node_id: null, node: { role: "user", content: `Fix ${hostile}` } },
    { node_id: "left\x1b[31m", parent_node_id: "root", node: { role: "assistant", content: "on it" } },
    { node_id: "right", parent_node_id: "root", node: { x: hostile } }
  ]
}

suite("bunker session", () => {
  const home = new Home()
  afterAll(() => home.dispose())
  const session = (...args: ReadonlyArray<string>) => home.must(["session", ...args])

  test("a signal ends a command that is busy in a session's file", async () => {
    await session("create", "busy")
    const [name = ""] = readdirSync(path.join(home.directory, "sessions")).filter((each) => /^busy.*\.db$/.test(each))
    const writer = new Database(path.join(home.directory, "sessions", name))
    // SQLite waits for this transaction, seconds in which the program's event loop stands still.
    writer.run("BEGIN IMMEDIATE")
    const child = home.start(["session", "gc", "busy"])
    const opened = () =>
      readdirSync(`/proc/${child.pid}/fd`).some((fd) => {
        try {
          return readlinkSync(`/proc/${child.pid}/fd/${fd}`).endsWith(`${name}-wal`)
        } catch {
          return false
        }
      })
    while (!opened()) await Bun.sleep(10)
    await Bun.sleep(300)
    child.kill("SIGTERM")
    await child.exited
    writer.run("ROLLBACK")
    writer.close()
    expect([child.signalCode, await new Response(child.stderr).text()]).toEqual(["SIGTERM", ""])
    expect(await session("gc", "busy")).toContain("busy: 0 deleted")
    await session("rm", "busy")
  })

  test("a session from its making to its removal", async () => {
    expect(await session("ls")).toMatch(/^SESSION +REVISION +MESSAGES +CHANGED +DIRECTORY +ABOUT\n$/)
    expect(await session("ls", "--json")).toBe("[]\n")
    expect(await session("create", "--title", hostile, "--cwd", "/w", "one")).toBe("one\n")
    expect(JSON.parse(await home.must(["session", "commit", "one"], { stdin: JSON.stringify(turn) }))).toEqual({
      head_revision: 1,
      leaf_node_id: "right",
      checkpoint_ref: null
    })
    const drawn = await session("show", "one")
    expect(drawn).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f\u202e]/)
    expect(drawn).toContain("* root  user: Fix \\x1b]0;owned\\x07\\x1b[2J\\u202e\\x0d next\n")
    expect(drawn).toContain("  ├─ left\\x1b[31m  assistant: on it\n* └─ right  ")
    const shown = JSON.parse(await session("show", "--json", "one"))
    expect(shown).toMatchObject({
      session: { session_id: "one", node_count: 3, title: hostile },
      graph: { nodes: turn.nodes }
    })
    expect(JSON.parse(await session("show", "--json", "--active", "one")).graph.nodes).toHaveLength(2)
    expect(await session("ls", "-q")).toBe("one\n")
    expect(JSON.parse(await session("ls", "--json"))).toMatchObject([
      { session_id: "one", user_message_count: 1, cwd: "/w" }
    ])

    const stored = (await home.must(["session", "put", "one"], { stdin: "bytes" })).trim()
    expect(stored).toBe(hash(Buffer.from("bytes")))
    expect(await session("get", "one", stored)).toBe("bytes")
    expect(await session("branch", "one", "root")).toBe("")
    expect(await session("fork", "one", "two")).toBe("two\n")
    expect(JSON.parse(await session("show", "--json", "two")).session).toMatchObject({
      parent_session_id: "one",
      node_count: 1
    })
    expect(await session("tombstone", "one", "right")).toBe("")
    expect(await session("vacuum", "one")).toMatch(/^one: 1 removed, /)
    expect(await session("gc", "one")).toBe("one: 0 deleted, 0 kept, 1 too young to go\n")
    expect(await session("gc", "--json", "--grace", "0", "one", "two")).toBe(
      '{"root_count":0,"retained_blob_count":0,"young_blob_count":0,"deleted_blob_count":1}\n{"root_count":0,"retained_blob_count":0,"young_blob_count":0,"deleted_blob_count":0}\n'
    )

    const file = path.join(home.directory, "one.jsonl")
    await session("export", "one", file)
    expect(await session("export", "one")).toBe(readFileSync(file, "utf8"))
    expect(await session("import", "--as", "three", file)).toBe("three\n")
    expect(await home.must(["session", "import", "--as", "four"], { stdin: readFileSync(file) })).toBe("four\n")
    expect(await session("rm", "one", "two", "three", "four")).toBe("one\ntwo\nthree\nfour\n")
    const again = await home.bunker(["session", "rm", "one"])
    expect(again).toMatchObject({ code: 0, stdout: "", stderr: expect.stringContaining("nothing to remove") })
    expect(readdirSync(path.join(home.directory, "sessions"))).toEqual([])
    expect(readdirSync(path.join(home.directory, "cache/tmp"))).toEqual([])
  })

  test("a session that can not be read is listed, with a word on stderr", async () => {
    await session("create", "good")
    writeFileSync(path.join(home.directory, "sessions/bad-0123456789abcdef.db"), "nothing")
    const { code, stdout, stderr } = await home.bunker(["session", "ls"])
    expect({ code, lines: stdout.trim().split("\n").length }).toEqual({ code: 0, lines: 3 })
    expect(stdout).toMatch(/bad-0123456789abcdef +\? +\? .*\(can not be read\)/)
    expect(stderr).toMatch(/^bunker: session "bad-0123456789abcdef" is damaged: [^\n]+\n$/)
  })

  const page = path.join(home.directory, "page.html")
  writeFileSync(page, "<html>")
  const wrong: ReadonlyArray<readonly [ReadonlyArray<string>, string, string?]> = [
    [["show", "none"], "bunker session ls"],
    [["show"], "id"],
    [["show", ""], "empty"],
    [["show", "a\tb"], "control character"],
    [["show", "--leaf", "x", "good"], "no node"],
    [["create", "good"], "exists"],
    [["commit", "good"], "JSON", "{"],
    [["commit", "good"], "JSON object", "[]"],
    [["commit", "good"], "turn_id", "{}"],
    [["commit", "good"], "foo", '{"turn_id":"t","expected_revision":0,"foo":1}'],
    [["commit", "good"], "revision 0, not 3", '{"turn_id":"t","expected_revision":3}'],
    [["commit", "good", "/nowhere"], "ENOENT"],
    [["put", "good", "/"], "EISDIR"],
    [["put", "--kind", "X", "good", page], "--kind"],
    [["get", "good", "abc"], "64 digits"],
    [["get", "good", "0".repeat(64)], "no blob"],
    [["branch", "good", "x"], "no node"],
    [["tombstone", "good", "x"], "no node"],
    [["fork", "none"], "no session"],
    [["fork", "good", "good"], "exists"],
    [["gc", "none"], "no session"],
    [["vacuum", "none"], "no session"],
    [["export", "none"], "no session"],
    [["export", "good", "/nowhere/x"], "/nowhere/x"],
    [["import", page], "not an export"],
    [["import"], "not an export", "x"],
    [["bogus"], "bogus"],
    [["ls", "--limit", "x"], "limit"]
  ]
  for (const [args, word, stdin] of wrong)
    test(`bunker session ${args.join(" ").replace(page, "PAGE")}${stdin === undefined ? "" : ` < ${stdin}`}: one line and 125`, async () => {
      const { code, stdout, stderr } = await home.bunker(["session", ...args], { stdin: stdin ?? "" })
      expect({ code, stdout }).toEqual({ code: 125, stdout: "" })
      expect(stderr).toMatch(/^bunker: [^\n]+\n$/)
      expect(stderr).toContain(word)
    })
})
