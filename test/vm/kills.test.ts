/**
 * Commands that are killed at any moment, two at a time over the same two names: whatever they left half-way, every sandbox can be
 * removed, and a sweep leaves nothing. BUNKER_TEST_PAIRS (8) pairs of commands. And keepers that are stopped.
 */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import { readdirSync } from "node:fs"
import path from "node:path"
import { engine, Home } from "../support/bunker.ts"
import { loadBusybox } from "../support/busyboxImage.ts"
import { keepersOf, lives } from "../support/keepers.ts"
import { generator, seedOf } from "../support/random.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const timeoutMs = 3_600_000
const pairs = Number(process.env["BUNKER_TEST_PAIRS"] ?? 8)
const image = ["--memory", "128m", "test/busybox:1"]

/** Commands about a sandbox, and the longest that they take, in milliseconds. */
const commands = (name: string): ReadonlyArray<readonly [command: ReadonlyArray<string>, mostMs: number]> => [
  [["run", "-q", ...image, "true"], 2500],
  [["run", "-d", "-q", "--name", name, ...image, "sleep", "100"], 2500],
  [["run", "-d", "-q", "--rm", ...image, "sleep", "1"], 2500],
  [["create", "-q", "--name", name, ...image], 400],
  [["start", name], 2000],
  [["stop", "-t", "1", name], 800],
  [["kill", name], 300],
  [["rm", "-f", name], 800],
  [["exec", name, "true"], 300]
]

describe.skipIf(mustSkip("kills"))(`commands that are killed (${engine})`, () => {
  let home: Home
  const { itOnHost } = vmCases(timeoutMs)

  beforeAll(async () => {
    home = new Home()
    await loadBusybox(home)
  }, timeoutMs)

  afterAll(() => home.dispose(), timeoutMs)

  itOnHost("leave nothing that can not be removed", async () => {
    const random = generator(seedOf("killed commands"))
    const one = async () => {
      const choices = commands(["aa", "bb"][random(2)]!)
      const [command, mostMs] = choices[random(choices.length)]!
      const child = home.start(command)
      const timer = setTimeout(() => child.kill("SIGKILL"), random(mostMs))
      await child.exited
      clearTimeout(timer)
    }
    for (let pair = 0; pair < pairs; pair += 1) await Promise.all([one(), one()])

    const named = async () => (await home.must(["ps", "-a", "-q"])).split("\n").filter((name) => name !== "")
    const left = async () => [
      ...(await named()),
      ...home.processes(),
      // With what is in them: a directory that no sweep takes is told by what keeps it.
      ...["sandboxes", "cache/tmp"].flatMap((part) =>
        readdirSync(path.join(home.directory, part), { recursive: true, encoding: "utf8" })
      )
    ]
    const deadline = Date.now() + 90_000
    do {
      await home.must(["sweep"])
      const names = await named()
      // One that goes by itself just now is no mistake.
      if (names.length > 0) await home.bunker(["rm", "-f", ...names])
    } while ((await left()).length > 0 && Date.now() < deadline)
    expect(await left()).toEqual([])
  })

  itOnHost("a keeper that stands still is named by whoever needs it, and holds nobody up", async () => {
    await home.must(["run", "-d", "-q", "--name", "still", ...image, "sleep", "1000"])
    const [keeper] = keepersOf(home, "still")
    process.kill(keeper!, "SIGSTOP")
    // The entry program and the whole one.
    for (const command of [
      ["exec", "still", "true"],
      ["exec", "-e", "A=1", "--timeout", "1m", "still", "true"],
      ["stop", "still"]
    ]) {
      const { code, stderr } = await home.bunker(command)
      expect({ command, code, stderr }).toMatchObject({
        code: 125,
        stderr: expect.stringContaining(`'kill -CONT ${keeper}'`)
      })
    }
    expect(await home.must(["kill", "still"])).toBe("still\n")
    expect(await home.must(["ps", "-a"])).toContain("SIGKILL")
    process.kill(keeper!, "SIGCONT")
    while (lives(keeper!)) await Bun.sleep(50)
    // What it recorded when it went on changed nothing.
    expect(await home.must(["ps", "-a"])).toContain("SIGKILL")
    await home.must(["rm", "still"])
  })
})
