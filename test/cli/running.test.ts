/** What the program does with a sandbox that runs, without a shell in it: its files, and saying that it is used. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { formatMode } from "../../src/cli/commands/files/files.ts"
import type { Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"

test("modes are written as ls(1) writes them", () => {
  const written = [
    [{ type: "directory", mode: 0o1777 }, "drwxrwxrwt"],
    [{ type: "file", mode: 0o4755 }, "-rwsr-xr-x"],
    [{ type: "file", mode: 0o6644 }, "-rwSr-Sr--"],
    [{ type: "symlink", mode: 0o777 }, "lrwxrwxrwx"],
    [{ type: "socket", mode: 0o1000 }, "s--------T"]
  ] as const
  for (const [file, text] of written) expect(formatMode(file)).toBe(text)
})

describe.skipIf(mustSkip("commands on a sandbox that runs"))("of a sandbox that runs", () => {
  const timeoutMs = 120_000
  let home: Home

  beforeAll(async () => {
    home = await busyboxHome()
    await home.must(["create", "--name", "box", "--memory", "128m", "test/busybox:1"])
    await home.must(["start", "box"])
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const refused = async (args: ReadonlyArray<string>, ...words: ReadonlyArray<string>) => {
    const { code, stderr, stdout } = await home.bunker(["files", ...args])
    expect({ args, code, stdout, lines: stderr.trim().split("\n").length }).toEqual({
      args,
      code: 125,
      stdout: "",
      lines: 1
    })
    for (const word of words) expect(stderr).toContain(word)
  }

  test(
    "files are listed, looked at, made and removed",
    async () => {
      const files = (...args: ReadonlyArray<string>) => home.must(["files", ...args])
      expect(await files("mkdir", "-p", "-m", "1770", "box", "/tmp/a/b", "/tmp/a/c")).toBe("")
      await home.must([
        "exec",
        "box",
        "sh",
        "-c",
        "cd /tmp/a; printf x > file; ln -s file 'li\x1bnk'; touch -d @0 file"
      ])
      expect(await files("ls", "-q", "box", "tmp/a")).toBe("b\nc\nfile\nli\\x1bnk\n")
      const [head = "", b = "", , file = "", link = ""] = (await files("ls", "box", "/tmp/a")).split("\n")
      expect(head.split(/\s+/)).toEqual(["MODE", "OWNER", "SIZE", "MODIFIED", "NAME"])
      expect(b).toMatch(/^drwxrwx--T {2}0:0 {4}\S+ \w+ +\S+Z {2}b$/)
      expect(file).toMatch(/^-rw-r--r-- {2}0:0 {4}1 B +1970-01-01T00:00:00Z {2}file$/)
      expect(link).toMatch(/^l.* {2}li\\x1bnk -> file$/)
      expect(JSON.parse(await files("ls", "--json", "box", "/tmp/a"))[2]).toMatchObject({
        name: "file",
        type: "file",
        size: 1,
        mtime_ms: 0
      })
      expect(await files("ls", "-q", "box")).toContain("bin\n")
      const stat = JSON.parse(await files("stat", "-L", "--json", "box", "/tmp/a/file", "/bin/sh"))
      expect(stat).toMatchObject([{ size: 1 }, { type: "file", mode: 0o755 }])
      expect(await files("stat", "box", "/bin/sh")).toContain("/bin/sh -> busybox")
      await refused(["mkdir", "box", "/tmp/a/b"], "/tmp/a/b")
      await refused(["mkdir", "-m", "9", "box", "/tmp/x"], "--mode")
      await refused(["rm", "box", "/tmp/a"], "/tmp/a", "not empty")
      await refused(["rm", "box", "/tmp/none"], "/tmp/none")
      await refused(["ls", "box", `/${"x".repeat(5000)}`], "path")
      await refused(["ls", "-u", "user", "box", "/tmp/a/b"], "/tmp/a/b")
      await refused(["ls", "nobody", "/"], "nobody")
      expect(await files("rm", "-f", "box", "/tmp/none", "/tmp/a/file")).toBe("")
      expect(await files("rm", "-rf", "box", "/tmp/a")).toBe("")
      await refused(["stat", "box", "/tmp/a"], "/tmp/a")
      // One that is not there keeps none of the others back.
      const some = await home.bunker(["files", "stat", "box", "/none", "/bin/busybox"])
      expect(some).toMatchObject({ code: 125, stdout: expect.stringContaining("/bin/busybox") })
    },
    timeoutMs
  )

  test(
    "is touched: the time after which it idles begins anew",
    async () => {
      const idleMs = 2000
      await home.must(["create", "--name", "idle", "--memory", "128m", "--idle-timeout", "2s", "test/busybox:1"])
      await home.must(["start", "idle"])
      const since = Date.now()
      while (Date.now() - since < idleMs + 1000) {
        expect(await home.bunker(["touch", "idle", "box"])).toEqual({ code: 0, stdout: "", stderr: "" })
        await Bun.sleep(200)
      }
      expect(await home.must(["wait", "idle"])).toBe("idle_timeout\n")
      const late = await home.bunker(["touch", "idle", "box", "nobody"])
      expect(late.code).toBe(125)
      expect(late.stderr.trim().split("\n")).toEqual([
        expect.stringContaining('"idle": it is stopped'),
        expect.stringContaining("nobody")
      ])
    },
    timeoutMs
  )
})
