/** What `bunker logs` shows of a log, and what it refuses. The log is written here, in the format of store/files/logs.ts. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdirSync, writeFileSync } from "node:fs"
import path from "node:path"
import { type Home, program } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { have, run } from "../support/mount.ts"
import { mustSkip } from "../support/requirements.ts"

setDefaultTimeout(60_000)

const image = "test/busybox:1"
const noon = Date.parse("2024-03-04T12:00:00.000Z")
const at = (seconds: number) => new Date(noon + seconds * 1000).toISOString()

interface Said {
  readonly t: number
  readonly s: string
  readonly e?: number
  readonly d?: string
  readonly b?: string
}

const noMount = process.getuid?.() === 0 && have("mount") ? undefined : "a mount needs root"
if (noMount !== undefined) console.warn(`skipped: logs of a guest on a full disk; ${noMount}`)

describe.skipIf(mustSkip("logs on the command line"))("bunker logs", () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
    await home.must(["create", "--name", "box", image])
    const second = (count: number) => noon + count * 1000
    write("main.jsonl.1", [
      { t: second(0), s: "start", d: "sh" },
      { t: second(0), s: "stdout", d: "one\ntwo\nthr" },
      { t: second(10), s: "stderr", d: "error\n" }
    ])
    write("main.jsonl", [
      { t: second(20), s: "stdout", d: "ee\nfour\n" },
      { t: second(30), s: "dropped", d: "4096" },
      { t: second(30), s: "stdout", b: Buffer.from([0xff, 0x00, 0x0a]).toString("base64") },
      { t: second(40), s: "stdout", d: "no end" },
      { t: second(50), s: "exit", d: "3" }
    ])
    write("exec.jsonl", [
      { t: second(5), s: "stdout", e: 1, d: "a\n" },
      { t: second(6), s: "stdout", e: 2, d: "b\n" }
    ])
  }, 60_000)
  afterAll(() => home.dispose(), 60_000)

  const write = (name: string, lines: ReadonlyArray<Said>) => {
    const directory = path.join(home.directory, "sandboxes/box/logs")
    mkdirSync(directory, { recursive: true })
    // A process that was killed while it wrote leaves a part of a line.
    writeFileSync(path.join(directory, name), `${lines.map((line) => `${JSON.stringify(line)}\n`).join("")}{"t":17`)
  }
  test("each run and each boot begins a line of its own, also with --tail and times", async () => {
    await home.must(["create", "--name", "twice", image])
    const directory = path.join(home.directory, "sandboxes/twice/logs")
    mkdirSync(directory, { recursive: true })
    const into = (name: string, lines: ReadonlyArray<Said>) =>
      writeFileSync(path.join(directory, name), lines.map((line) => `${JSON.stringify(line)}\n`).join(""))
    into("main.jsonl", [
      { t: noon, s: "start", d: "sh" },
      { t: noon, s: "stdout", d: "first" },
      { t: noon, s: "stderr", d: "whole\n" },
      { t: noon, s: "exit", d: "0" },
      { t: noon + 1, s: "start", d: "sh" },
      { t: noon + 1, s: "stdout", d: "second" }
    ])
    into("console.jsonl", [
      { t: noon, s: "start", d: "boot" },
      { t: noon, s: "console", d: "halted" },
      { t: noon + 1, s: "start", d: "boot" },
      { t: noon + 1, s: "console", d: "up" }
    ])
    const shown = (...flags: ReadonlyArray<string>) => home.bunker(["logs", ...flags, "twice"])
    expect(await shown()).toEqual({ code: 0, stdout: "first\nsecond", stderr: "whole\n" })
    expect((await shown("--tail", "1")).stdout).toBe("second")
    expect((await shown("-t")).stdout).toBe(`${at(0)} first\n2024-03-04T12:00:00.001Z second`)
    expect((await shown("--console")).stdout).toBe("halted\nup")
    expect((await shown("--console", "--tail", "1")).stdout).toBe("up")
  })

  const logs = async (...flags: ReadonlyArray<string>) => {
    const { code, stdout, stderr } = await home.bunker(["logs", ...flags, "box"], { env: { TZ: "UTC" } })
    expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" })
    return { stdout, stderr }
  }
  const binary = Buffer.from([0xff, 0x00, 0x0a]).toString()
  const missing = "bunker: 4096 bytes are missing here: the disk was full or too slow\n"

  test("shows everything, stdout and stderr apart, over rotated files", async () => {
    expect(await logs()).toEqual({ stdout: `one\ntwo\nthree\nfour\n${binary}no end`, stderr: `error\n${missing}` })
    expect(await logs("--tail", "all")).toEqual(await logs())
    expect(await logs("-f")).toEqual(await logs())
    expect((await logs("--exec", "all")).stdout).toBe("a\nb\n")
    expect((await logs("--exec", "2")).stdout).toBe("b\n")
    expect((await logs("--exec", "3")).stdout).toBe("")
  })

  test("--tail counts lines, wherever their pieces are", async () => {
    const tail = async (count: number) => (await logs("-n", String(count))).stdout
    expect(await tail(0)).toBe("")
    expect(await tail(1)).toBe("no end")
    expect(await tail(2)).toBe(`${binary}no end`)
    expect(await tail(3)).toBe(`four\n${binary}no end`)
    // The line on stderr was begun after the third one on stdout.
    expect(await logs("-n", "4")).toEqual({ stdout: `four\n${binary}no end`, stderr: `error\n${missing}` })
    expect(await logs("-n", "5")).toEqual({ stdout: `three\nfour\n${binary}no end`, stderr: `error\n${missing}` })
    expect(await tail(7)).toBe((await logs()).stdout)
    expect(await tail(1_000_000)).toBe((await logs()).stdout)
    const json = (await logs("--json", "-n", "1")).stdout.trim().split("\n")
    expect(json.map((line) => JSON.parse(line).stream)).toEqual(["stdout", "exit"])
  })

  test("-t puts the time in front of each line, once", async () => {
    expect(await logs("-t")).toEqual({
      stdout: [
        ...["one", "two", "three"].map((line) => `${at(0)} ${line}\n`),
        `${at(20)} four\n`,
        `${at(30)} ${binary}`,
        `${at(40)} no end`
      ].join(""),
      stderr: `${at(10)} error\n${missing}`
    })
  })

  test("--since and --until take dates, unix seconds and durations", async () => {
    const four = "ee\nfour\n"
    expect((await logs("--since", at(20), "--until", at(30))).stdout).toBe(four)
    expect((await logs("--since", "2024-03-04 12:00:20", "--until", "2024-03-04T13:00:30+01:00")).stdout).toBe(four)
    expect((await logs("--since", `${noon / 1000 + 20}`, "--until", `${noon / 1000 + 29}.5`)).stdout).toBe(four)
    expect((await logs("--since", at(40))).stdout).toBe("no end")
    expect((await logs("--until", at(0))).stdout).toBe("")
    expect((await logs("--since", "2024-03-04")).stdout).toBe((await logs()).stdout)
    expect((await logs("--since", "2024-03-05", "--until", "2024-03-04")).stdout).toBe("")
    const hours = Math.ceil((Date.now() - noon) / 3_600_000)
    expect((await logs("--since", "1s500ms")).stdout).toBe("")
    expect((await logs("--since", `${hours}h1m`, "--until", "500ms")).stdout).toBe((await logs()).stdout)
    expect((await logs("--since", "2024-03-04", "--tail", "2", "--until", at(30))).stdout).toBe("four\n")
  })

  test("refuses what it does not understand, with one line", async () => {
    for (const [flags, ...words] of [
      [["--since", "yesterday"], "--since", "1h30m"],
      [["--since", "5"], "--since"],
      [["--since", "-5m"], "--since"],
      [["--since", ""], "--since"],
      [["--since", "2024-02-31"], "--since", "2024-02-31"],
      [["--until", "2024-01-31T25:00:00Z"], "--until"],
      [["--until", "1e99"], "--until"],
      [["--tail", "-1"], "--tail", "0 to 1000000"],
      [["--tail", "1000001"], "--tail"],
      [["--tail", "1.5"], "--tail"],
      [["--tail", ""], "--tail"],
      [["-n", "ten"], "--tail", "all"],
      [["--exec", "one"], "--exec"],
      [["--exec", "1", "--console"], "--console"]
    ] as ReadonlyArray<readonly [ReadonlyArray<string>, ...ReadonlyArray<string>]>) {
      const { code, stdout, stderr } = await home.bunker(["logs", ...flags, "box"])
      expect({ flags, code, stdout, lines: stderr.trim().split("\n").length }).toEqual({
        flags,
        code: 125,
        stdout: "",
        lines: 1
      })
      for (const word of words) expect(stderr).toContain(word)
    }
    expect(await home.bunker(["logs", "-f", "nobody"])).toMatchObject({
      code: 125,
      stderr: expect.stringContaining("nobody")
    })
  })

  test("ends without a word when nobody reads", async () => {
    const { stdout, stderr } = Bun.spawnSync(["sh", "-c", `"$0" logs box | head -n 1`, program], {
      env: home.environment()
    })
    expect({ stdout: stdout.toString(), stderr: stderr.toString() }).toMatchObject({ stdout: "one\n" })
  })

  test.skipIf(noMount !== undefined)(
    "a full disk under the log holds up no guest, and what is missing is said",
    async () => {
      const body =
        "yes 0123456789abcde | head -c 2000000; touch /said; while [ ! -e /go ]; do sleep 0.1; done; echo after"
      await home.must(["create", "--name", "full", image, "sh", "-c", body])
      const disk = path.join(home.directory, "sandboxes/full/logs")
      mkdirSync(disk, { recursive: true })
      run("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk)
      try {
        await home.must(["start", "full"])
        await home.must(["exec", "full", "sh", "-c", "while [ ! -e /said ]; do sleep 0.1; done"])
        run("mount", "-o", "remount,size=8m", disk)
        await home.must(["exec", "full", "touch", "/go"])
        const said = () => home.bunker(["logs", "full"])
        while (!(await said()).stdout.endsWith("after\n")) await Bun.sleep(50)
        const { stdout, stderr } = await said()
        const missing = [...stderr.matchAll(/^bunker: (\d+) bytes are missing here: the disk was full or too slow$/gm)]
        expect(missing.length).toBeGreaterThan(0)
        expect(missing.reduce((sum, [, bytes]) => sum + Number(bytes), stdout.length)).toBe(2_000_006)
      } finally {
        run("umount", "-l", disk)
      }
      await home.must(["rm", "-f", "full"])
    },
    120_000
  )
})
