/** Rules of networks on the command line: what is wrong with them is said before anything else happens. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync } from "node:fs"
import { Home, program } from "../support/bunker.ts"

describe.skipIf(!existsSync(program))("network flags", () => {
  let home: Home
  beforeAll(() => void (home = new Home()))
  afterAll(() => home.dispose(), 60_000)

  const absent = "nowhere.invalid/image:1"
  test.each<[ReadonlyArray<string>, string, string]>([
    [["--allow-net=a..b"], "--allow-net", "a..b"],
    [["--allow-net=ok.example,http://x"], "--allow-net", "http://x"],
    [["--allow-net=*"], "--allow-net", "*"],
    [["--allow-net=x:70000"], "--allow-net", "x:70000"],
    [["--allow-net=10.0.0.1/8"], "--allow-net", "10.0.0.0/8"],
    [["--allow-net", "--deny-net", "*.*.com"], "--deny-net", "*.*.com"],
    [["--allow-host-port", "0"], "--allow-host-port", "0"],
    [["--add-host", "db.local"], "--add-host", "db.local"],
    [["--add-host", "db.local:10.0.0"], "--add-host", "10.0.0"],
    [["--network", "bridge"], "--network", "bridge"],
    [["--network", "none", "--allow-net"], "--network", "none"]
  ])("run %j is refused, naming %s and %s", async (flags, flag, words) => {
    const { code, stdout, stderr } = await home.bunker(["run", ...flags, absent])
    expect({ code, stdout, lines: stderr.trim().split("\n").length }).toEqual({ code: 125, stdout: "", lines: 1 })
    expect(stderr).toStartWith(`bunker: ${flag}: `)
    expect(stderr).toContain(words)
  })

  test("--allow-net takes no value from the next word", async () => {
    const { stderr } = await home.bunker(["create", "--allow-net", "--pull", "never", absent])
    expect(stderr).toContain(absent)
  })
})
