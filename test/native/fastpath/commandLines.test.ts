/** Which command lines the entry program answers itself, and what it asks a keeper for; everything else goes to the whole program. */
import { afterAll, describe, expect, test } from "bun:test"
import { existsSync, rmSync } from "node:fs"
import path from "node:path"
import { agree, EntryProgram, exit, handedOver, refuse } from "../../support/entryProgram.ts"

const entry = new EntryProgram()
afterAll(() => entry.dispose())

const asked: Array<Record<string, unknown>> = []
entry.keeper("box", ({ request, socket }) => {
  asked.push(request as Record<string, unknown>)
  const { op } = request as { readonly op: string }
  socket.write(op === "exec" ? Buffer.concat([agree, exit(0)]) : agree)
})
entry.keeper("shy", ({ socket }) => void socket.write(refuse))
entry.keeper("gone", ({ socket }) => void socket.end())
/** How `bunker-main` is asked why a command is lost that may have begun. */
const lost = ["__lost", "gone", "the connection to its keeper broke"]

/** What the keeper of `box` is asked by a command line. */
const requestOf = async (
  words: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {}
): Promise<Record<string, unknown>> => {
  asked.length = 0
  const said = await entry.run(words, env)
  expect({ words, ...said }).toMatchObject({ words, code: 0, stderr: "" })
  expect(asked).toHaveLength(1)
  return { ...asked[0], said: said.stdout }
}

const plain = { protocol: 1, op: "exec", name: "box", env: [], argv: ["ls"], stdin: false, said: "" }

describe("the entry program", () => {
  test("asks the keeper of a sandbox for a command", async () => {
    expect(await requestOf(["exec", "box", "ls"])).toEqual(plain)
    expect(await requestOf(["exec", "-i", "box", "ls"])).toEqual({ ...plain, stdin: true })
    expect(await requestOf(["exec", "--interactive", "box", "--", "ls", "-la", "--", "-i"])).toEqual({
      ...plain,
      stdin: true,
      argv: ["ls", "-la", "--", "-i"]
    })
    expect(await requestOf(["exec", "-w", "/tmp", "--user=1:2", "box", "ls"])).toEqual({
      ...plain,
      cwd: "/tmp",
      user: "1:2"
    })
  })

  test("passes words on as they are", async () => {
    const words = [
      "printf",
      "",
      "a b",
      '"quoted" \\ and\nlines\ttabs',
      "ünïcode ⛵",
      "\x01\x1f\x7f",
      "x".repeat(100_000)
    ]
    expect(await requestOf(["exec", "box", ...words])).toEqual({ ...plain, argv: words })
  })

  test("takes the environment from -e, and from its own where only a name is given", async () => {
    const flags = ["-e", "A=1", "--env=B=x=y", "--env", "MINE", "-e", "NOBODYS", "-e", "EMPTY="]
    expect(await requestOf(["exec", ...flags, "box", "ls"], { MINE: "mine = own" })).toEqual({
      ...plain,
      env: ["A=1", "B=x=y", "MINE=mine = own", "EMPTY="]
    })
  })

  test("ends a sandbox and prints its name", async () => {
    const stop = { protocol: 1, op: "stop", name: "box", said: "box\n" }
    expect(await requestOf(["stop", "box"])).toEqual({ ...stop, timeout_ms: 10_000 })
    expect(await requestOf(["stop", "-t", "0", "box"])).toEqual({ ...stop, timeout_ms: 0 })
    expect(await requestOf(["stop", "--time=90", "box"])).toEqual({ ...stop, timeout_ms: 90_000 })
    expect(await requestOf(["kill", "box"])).toEqual({ ...stop, op: "kill" })
  })

  const others: ReadonlyArray<ReadonlyArray<string>> = [
    [],
    ["--help"],
    ["ps", "-a"],
    ["run", "box", "ls"],
    ["exec"],
    ["exec", "box"],
    ["exec", "box", "--"],
    ["exec", "--help"],
    ["exec", "-it", "box", "sh"],
    ["exec", "-t", "box", "sh"],
    ["exec", "--timeout", "3s", "box", "ls"],
    ["exec", "--debug", "box", "ls"],
    ["--debug", "exec", "box", "ls"],
    ["exec", "--", "box", "ls"],
    ["exec", "-e", "=x", "box", "ls"],
    ["exec", "-e", "-x", "box", "ls"],
    ["exec", "-w", "/a", "-w", "/b", "box", "ls"],
    ["exec", "-e"],
    ["exec", "", "ls"],
    ["exec", ".", "ls"],
    ["exec", "..", "ls"],
    ["exec", "a/b", "ls"],
    ["exec", "../sandboxes/box", "ls"],
    ["exec", "-box", "ls"],
    ["exec", "x".repeat(129), "ls"],
    ["exec", "nobody", "ls"],
    ["exec", "shy", "ls", "a\nb", ""],
    ["exec", "-i", "-i", "box", "ls"],
    ["exec", "box", "x".repeat(100_000), "y".repeat(100_000), "z".repeat(100_000)],
    ["stop"],
    ["stop", "box", "shy"],
    ["stop", "--drain", "box"],
    ["stop", "-t", "-1", "box"],
    ["stop", "-t", "1.5", "box"],
    ["stop", "-t", "100000", "box"],
    ["stop", "-t", "box"],
    ["kill", "-f", "box"],
    ["kill", "shy"],
    ["--version", "x"]
  ]
  test("leaves every other command line to the whole program, word for word", async () => {
    asked.length = 0
    for (const words of others) {
      const said = await entry.run(words)
      expect({ given: words, words: handedOver(said)?.words, code: said.code, stderr: said.stderr }).toEqual({
        given: words,
        words,
        code: 125,
        stderr: ""
      })
    }
    expect(asked).toEqual([])
  })

  test("never lets a command begin twice: without an answer it is lost", async () => {
    expect(handedOver(await entry.run(["exec", "gone", "ls"]))?.words).toEqual(lost)
  })

  test("asks the whole program whether a sandbox has ended whose keeper is gone before it answered", async () => {
    for (const words of [
      ["kill", "gone"],
      ["stop", "gone"],
      ["stop", "-t", "3", "gone"]
    ]) {
      expect(handedOver(await entry.run(words))?.words).toEqual(["__ended", "gone", ...words])
    }
  })

  test("lets the whole program compile late where its life is short, unless it was told how", async () => {
    const threshold = async (words: ReadonlyArray<string>, env = {}) =>
      handedOver(await entry.run(words, env))?.lateCompiling
    expect(await threshold(["ps"])).toBe("100000")
    expect(await threshold(["pull", "alpine"])).toBe("")
    expect(await threshold(["serve"])).toBe("")
    expect(await threshold(["ps"], { BUN_JSC_thresholdForJITAfterWarmUp: "7" })).toBe("7")
  })

  test("finds the home by HOME, and none where there is neither", async () => {
    expect(handedOver(await entry.run(["exec", "box", "ls"], { BUNKER_HOME: "", HOME: "/nowhere" }))?.words).toEqual([
      "exec",
      "box",
      "ls"
    ])
    expect(handedOver(await entry.run(["exec", "box", "ls"], { BUNKER_HOME: "" }))?.words).toHaveLength(3)
    const own = new EntryProgram(".bunker")
    own.keeper("mine", ({ socket }) => void socket.write(Buffer.concat([agree, exit(3)])))
    expect(await own.run(["exec", "mine", "ls"], { BUNKER_HOME: "", HOME: own.directory })).toMatchObject({ code: 3 })
    own.dispose()
  })

  test("reaches a keeper whatever the length of the home's path and of the name", async () => {
    const deep = new EntryProgram(`${"long".repeat(40)}/${"deep".repeat(40)}`)
    const name = "n".repeat(128)
    deep.keeper(name, ({ socket }) => void socket.write(Buffer.concat([agree, exit(5)])))
    expect(await deep.run(["exec", name, "ls"])).toMatchObject({ code: 5 })
    deep.dispose()
  })

  test("says its version itself", async () => {
    expect((await entry.run(["--version"])).stdout).toMatch(/^(test|\d+\.\d+\.\d+)\n$/)
  })

  test("says what is missing when it stands alone", async () => {
    const alone = new EntryProgram()
    rmSync(alone.file("bunker-main"))
    expect(existsSync(alone.file("bunker"))).toBe(true)
    const { code, stderr } = await alone.run(["ps"])
    expect(code).toBe(125)
    expect(stderr).toBe(
      `bunker: ${path.join(alone.directory, "bin/bunker-main")} can not be started: No such file or directory; it belongs beside this program: build or install both again\n`
    )
    alone.dispose()
  })
})
