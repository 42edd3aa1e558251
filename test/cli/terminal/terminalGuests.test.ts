/** Guests and clients that put a terminal to the test: full-screen programs, pastes, and every way in which either side may go. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import path from "node:path"
import { type Home, program } from "../../support/bunker.ts"
import { busyboxHome } from "../../support/busyboxImage.ts"
import { mustSkip } from "../../support/requirements.ts"
import { atTerminal, type Screen, screenMissing } from "../../support/screen.ts"

const skipped = mustSkip("guests at a terminal", screenMissing)
const timeoutMs = 120_000
const image = "test/busybox:1"

describe.skipIf(skipped)("at a terminal", () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
    await home.must(["create", "--name", "machine", image])
    await home.must(["start", "machine"])
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const it = atTerminal(() => home, timeoutMs)

  /** The client that runs in a terminal with these arguments. */
  const clientOf = (words: string) => {
    const pids = Bun.spawnSync(["pgrep", "-f", `^${program} ${words}`])
      .stdout.toString()
      .trim()
      .split("\n")
    const ours = pids.filter((pid) => readFileSync(`/proc/${pid}/environ`, "latin1").includes(home.directory))
    expect(ours).toHaveLength(1)
    return Number(ours[0])
  }
  const sha256 = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest("hex")
  const inShell = async (screen: Screen) => {
    screen.line(`'${program}' exec -it machine sh; echo "code=$?"`)
    await screen.sees("~ #")
  }
  /** Opens an editor, which takes the whole screen. */
  const inEditor = async (screen: Screen, file: string) => {
    screen.line(`vi ${file}`)
    // Its last line names the file, or a key that it does not know: a terminal that answered the shell too late.
    await screen.sees(/^~$[\s\S]*(- |not implemented)/m)
    expect(screen.ask("#{alternate_on}")).toBe("1")
  }

  it("a paste of 10 KB arrives whole, in brackets and as lines", async (screen) => {
    const file = path.join(home.directory, "paste")
    await inShell(screen)
    const bracketed = Array.from({ length: 1024 }, (_, index) => `${index}`.padStart(9, ".")).join("\t") + "\n"
    writeFileSync(file, bracketed)
    const whole = `\x1b[200~${bracketed}\x1b[201~`
    screen.line(`stty raw -echo; printf '\\033[?2004h'; echo read""y; head -c ${whole.length} | sha256sum; stty sane`)
    await screen.sees(/^ready/m)
    screen.paste(file)
    await screen.sees(sha256(whole))
    const lines = Array.from({ length: 160 }, (_, index) => `${index} ${"é".repeat(30)}\n`).join("")
    writeFileSync(file, lines)
    screen.line("clear; printf '\\033[?2004l'; echo ag''ain; cat > /lines; sha256sum < /lines")
    await screen.sees(/^again/m)
    screen.paste(file)
    await screen.sees(/^159 é/m)
    screen.keys("C-d")
    await screen.sees(sha256(lines))
    screen.line("exit 4")
    await screen.sees("code=4")
    await screen.isWhole()
  })

  it("an editor takes the screen, follows its size and gives it back", async (screen) => {
    await inShell(screen)
    await inEditor(screen, "/note")
    screen.resize(60, 20)
    screen.keys("i")
    screen.line("first")
    screen.keys("-l", "second")
    // What follows Escape at once is a part of its sequence for vi, here as anywhere.
    await screen.sees(/^second/m)
    screen.keys("Escape")
    await screen.sees(/^- \/note/m)
    screen.line(":wq")
    await screen.sees(/~ #\s*$/)
    expect(screen.ask("#{alternate_on}")).toBe("0")
    screen.line("clear; cat /note; stty size; exit")
    await screen.sees(/^first\nsecond\n20 60$/m)
    await screen.sees("code=0")
    await screen.isWhole()
  })

  it("a client that is stopped gives the terminal back, and takes it again when it goes on", async (screen) => {
    await inShell(screen)
    process.kill(clientOf("exec -it machine sh"), "SIGTSTP")
    await screen.sees(/Stopped/)
    await screen.isWhole()
    screen.line("clear; fg; echo fg=$?")
    await screen.sees("exec -it machine sh")
    await screen.press("Enter", /~ #\s*$/)
    // Not echoed twice, and Ctrl-C is the guest's.
    screen.line("sleep 1000")
    await screen.press("C-c", /\^C\s*~ #\s*$/)
    screen.line("exit 5")
    await screen.sees("fg=5")
    await screen.isWhole()
  })

  test(
    "what the guest writes arrives byte by byte, also after the client was stopped",
    async () => {
      const bytes = "abc\ndef\r\nend"
      const arrived = async (args: ReadonlyArray<string>, stopped: boolean) => {
        let seen = ""
        const terminal = new Bun.Terminal({
          cols: 80,
          rows: 24,
          data: (_, data) => void (seen += Buffer.from(data).toString("latin1"))
        })
        const script = `stty raw; printf ready; while ! [ -e /tmp/go ]; do sleep 0.1; done; printf '${bytes.replaceAll("\n", "\\n").replaceAll("\r", "\\r")}'`
        const wait = stopped ? script : script.replace(/while.*done; /, "")
        const child = Bun.spawn([program, ...args, "sh", "-c", wait], { env: home.environment(), terminal })
        if (stopped) {
          while (!seen.includes("ready")) await Bun.sleep(20)
          child.kill("SIGTSTP")
          const state = () => readFileSync(`/proc/${child.pid}/stat`, "utf8").replace(/^.*\) /s, "")[0]
          while (state() !== "T") await Bun.sleep(20)
          child.kill("SIGCONT")
          await home.must(["exec", "machine", "touch", "/tmp/go"])
        }
        const code = await child.exited
        while (!seen.endsWith("end")) await Bun.sleep(5)
        terminal.close()
        return [code, seen]
      }
      const right = [0, `ready${bytes}`]
      expect(await arrived(["exec", "-it", "machine"], false)).toEqual(right)
      expect(await arrived(["exec", "-it", "machine"], true)).toEqual(right)
      expect(await arrived(["run", "-q", "-it", "--rm", image], false)).toEqual(right)
    },
    timeoutMs
  )

  it("one SIGTERM, SIGHUP or SIGINT from outside ends the client, and the terminal is whole", async (screen) => {
    for (const [signal, code] of [
      ["SIGTERM", 143],
      ["SIGINT", 130],
      ["SIGHUP", 129]
    ] as const) {
      screen.line("clear")
      await inShell(screen)
      await inEditor(screen, "/other")
      process.kill(clientOf("exec -it machine sh"), signal)
      await screen.sees(`code=${code}`)
      await screen.isWhole()
    }
    // Nothing of it is left in the guest.
    while ((await home.must(["exec", "machine", "ps"])).includes("vi /other"));
  })

  it("run -it ends with its VM, and the terminal is whole", async (screen) => {
    screen.line(`'${program}' run -q -it --rm --name killed ${image} sh; echo "code=$?"`)
    await screen.sees("~ #")
    await inEditor(screen, "/note")
    process.kill(JSON.parse(await home.must(["inspect", "killed"]))[0].pid, "SIGKILL")
    await screen.sees("code=125")
    await screen.isWhole()
  })

  it("run -it ends with SIGTERM and leaves nothing", async (screen) => {
    screen.line(`'${program}' run -q -it --rm --name ended ${image} sh; echo "code=$?"`)
    await screen.sees("~ #")
    process.kill(clientOf("run -q -it"), "SIGTERM")
    await screen.sees("code=143")
    await screen.isWhole()
    expect((await home.must(["ps", "-a", "-q"])).split("\n")).not.toContain("ended")
  })

  it("a client that is killed takes its VM along, and 'stty sane' makes its terminal whole", async (screen) => {
    screen.line(`'${program}' run -q -it --rm --name orphan ${image} sh; echo "code=$?"`)
    await screen.sees("~ #")
    const { pid } = JSON.parse(await home.must(["inspect", "orphan"]))[0]
    process.kill(clientOf("run -q -it"), "SIGKILL")
    await screen.sees("code=137")
    while (existsSync(`/proc/${pid}`)) await Bun.sleep(20)
    // Raw, the shell wants Ctrl-J for Enter; the first ends what the terminal may have typed (the place of its cursor), at any time.
    for (let tries = 0; tries < 60 && !/^sane$/m.test(screen.text()); tries += 1) {
      screen.keys("C-j")
      screen.keys("-l", "stty sane; echo sa''ne")
      screen.keys("C-j")
      await Bun.sleep(500)
    }
    await screen.isWhole()
    await home.must(["sweep"])
    expect((await home.must(["ps", "-a", "-q"])).split("\n")).not.toContain("orphan")
  })
})
