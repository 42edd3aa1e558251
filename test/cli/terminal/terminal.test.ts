/** A person at a real terminal (tmux): shells in sandboxes, attaching, leaving, and a terminal that is whole afterwards. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { readdirSync, readFileSync, readlinkSync } from "node:fs"
import path from "node:path"
import { type Home, program } from "../../support/bunker.ts"
import { busyboxHome } from "../../support/busyboxImage.ts"
import { mustSkip } from "../../support/requirements.ts"
import { atTerminal, Screen, screenMissing } from "../../support/screen.ts"

const skipped = mustSkip("sandboxes at a terminal", screenMissing)
const timeoutMs = 120_000
const image = "test/busybox:1"

/** Reads until it was said. */
const says = async (stream: ReadableStream<Uint8Array>, what: string): Promise<void> => {
  const decoder = new TextDecoder()
  let said = ""
  for await (const piece of stream) {
    said += decoder.decode(piece, { stream: true })
    if (said.includes(what)) return
  }
  throw new Error(`it ended without "${what}":\n${said}`)
}

/** True while somebody talks to the keeper of the newest run (proc(5), /proc/net/unix; 03: connected). */
const isAsked = (home: Home): boolean => {
  const run = path.join(home.directory, "run")
  const newest = Math.max(...readdirSync(run).map(Number))
  const socket = path.join(run, String(newest), "keeper.sock")
  const lines = readFileSync("/proc/net/unix", "utf8").split("\n")
  return lines.some((line) => line.includes(" 03 ") && line.endsWith(` ${socket}`))
}

describe.skipIf(skipped)("at a terminal", () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const it = atTerminal(() => home, timeoutMs)

  it("run -it gives a shell with colours, size, Ctrl-C, Ctrl-Z and Ctrl-D", async (screen) => {
    screen.line(`'${program}' run -q -it ${image} sh; echo "code=$?"`)
    await screen.sees("~ #")
    screen.line("stty size; printf '\\033[31mred\\033[0m\\n'")
    await screen.sees("30 100")
    await screen.sees(/^red$/m)
    expect(screen.text("-e")).toContain("\x1b[31mred")
    screen.resize(77, 22)
    screen.line("sleep 0.2; stty size")
    await screen.sees("22 77")
    screen.line("sleep 1000; echo after=$?")
    await screen.press("C-c", /\^C\s*~ #\s*$/)
    screen.line("echo still-$((40 + 2))")
    await screen.sees("still-42")
    screen.line("sleep 1000")
    await screen.press("C-z", /Stopped/)
    screen.line("kill -9 %1; sleep 1; jobs; exit 6")
    await screen.sees("code=6")
    await screen.isWhole()
    // What the first shell left on the screen must not pass for the second one's.
    screen.line(`clear; echo again""st; '${program}' run -q -it ${image} sh; echo "second=$?"`)
    await screen.sees(/^against\s*$[\s\S]*^~ #/m)
    screen.keys("C-d")
    await screen.sees(/^second=\d/m)
    await screen.isWhole()
  })

  it("attach joins the main command for several, Ctrl-P Ctrl-Q leaves it, its end ends all", async (screen) => {
    await home.must(["run", "-d", "-it", "--name", "shared", image, "sh"])
    const other = new Screen(home)
    const following = home.start(["logs", "-f", "shared"])
    try {
      for (const each of [screen, other]) each.line(`'${program}' attach shared; echo "code=$?"`)
      await screen.press("Enter", /~ #\s*$/)
      await other.press("Enter", /~ #\s*$/)
      screen.line("echo to-$((1 + 1))-both")
      await screen.sees("to-2-both")
      await other.sees("to-2-both")
      screen.keys("C-p", "C-q")
      await screen.sees("code=0")
      await screen.isWhole()
      other.line("echo goes-$((1 + 1))-on")
      await other.sees("goes-2-on")
      // The log is written beside what is shown.
      await says(following.stdout, "goes-2-on")
      screen.line(`clear; '${program}' attach shared; echo "code=$?"`)
      await screen.press("Enter", /~ #\s*$/)
      other.line("exit 9")
      await other.sees("code=9")
      await screen.sees("code=9")
    } finally {
      following.kill()
      other.close()
    }
    expect(await home.must(["wait", "shared"])).toBe("9\n")
    const refused = await home.bunker(["attach", "shared"])
    expect(refused).toMatchObject({ code: 125, stderr: expect.stringContaining("bunker start shared") })
    await home.must(["rm", "shared"])
  })

  test(
    "the stdout of a process that looks after a sandbox is its log, and not what it opens next",
    async () => {
      await home.must(["run", "-d", "--name", "looked-after", image, "sleep", "1000"])
      const pids = Bun.spawnSync(["pgrep", "-f", "__keeper looked-after$"]).stdout.toString().trim().split("\n")
      const [keeper] = pids.filter((pid) => readFileSync(`/proc/${pid}/environ`, "latin1").includes(home.directory))
      expect(readlinkSync(`/proc/${keeper}/fd/1`)).toMatch(/keeper\.log$/)
      await home.must(["rm", "-f", "looked-after"])
    },
    timeoutMs
  )

  it("shell opens a login shell, and the terminal is whole after the guest or the client was killed", async (screen) => {
    await home.must(["create", "--name", "machine", image])
    await home.must(["start", "machine"])
    screen.line(`'${program}' shell machine; echo "code=$?"`)
    await screen.sees("~ #")
    screen.line("echo $0; tty")
    await screen.sees(/-?(ash|sh)\n/)
    screen.line("printf '\\033[?1049h\\033[?25l\\033[?2004hfull-screen'; sleep 1000")
    await screen.sees(/^full-screen/m)
    expect(screen.ask("#{alternate_on}")).toBe("1")
    process.kill(JSON.parse(await home.must(["inspect", "machine"]))[0].pid, "SIGKILL")
    await screen.sees("code=125")
    await screen.isWhole()

    await home.must(["restart", "machine"])
    screen.line(`clear; '${program}' shell machine; echo "code=$?"`)
    await screen.sees("~ #")
    screen.line("printf '\\033[?1049hagain'; sleep 1000")
    await screen.sees(/^again/m)
    const shells = Bun.spawnSync(["pgrep", "-f", `${program} shell machine`])
      .stdout.toString()
      .trim()
      .split("\n")
    for (const pid of shells) process.kill(Number(pid), "SIGTERM")
    await screen.sees("code=143")
    await screen.isWhole()
    await home.must(["rm", "-f", "machine"])
  })

  test(
    "restart keeps what was written, wait waits for several, a watcher that does not read holds up nobody",
    async () => {
      await home.must(["create", "--name", "kept", image, "sh", "-c", "echo up; sleep 1000"])
      await home.must(["start", "kept"])
      await home.must(["exec", "kept", "sh", "-c", "echo bytes > /root/f"])
      expect(await home.must(["restart", "kept"])).toBe("kept\n")
      expect(await home.must(["exec", "kept", "cat", "/root/f"])).toBe("bytes\n")
      await home.must(["rm", "-f", "kept"])

      const flood = "sleep 1; yes 0123456789abcde | head -c 8000000; exit 3"
      await home.must(["run", "-d", "--name", "loud", image, "sh", "-c", flood])
      const quiet = "while [ ! -e /go ]; do sleep 0.1; done; exit 4"
      await home.must(["run", "-d", "--rm", "--name", "quiet", image, "sh", "-c", quiet])
      const stalled = home.start(["attach", "loud"])
      const waiting = home.must(["wait", "loud", "quiet"])
      // One that goes with its end can not be waited for later. Who only looks whether somebody listens is gone at once.
      for (let seen = 0; seen < 10; seen = isAsked(home) ? seen + 1 : 0) await Bun.sleep(20)
      await home.must(["exec", "quiet", "touch", "/go"])
      expect(await waiting).toBe("3\n4\n")
      stalled.kill("SIGKILL")
      const logged = await home.bunker(["logs", "loud"])
      expect(logged.stdout.length).toBe(8_000_000)
      await home.must(["rm", "loud"])
    },
    timeoutMs
  )
})
