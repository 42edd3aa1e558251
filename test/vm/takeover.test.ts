/**
 * Main commands that outlive the process that looks after their sandbox, for both engines: on the host under qemu, in the KVM lab
 * under krun. Real VMs, real SIGKILLs. BUNKER_TEST_TAKEOVERS (4, in the lab 2): how often the keeper of the counting command is killed.
 */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { engine, type Home, program } from "../support/bunker.ts"
import { busyboxHome, loadBusybox } from "../support/busyboxImage.ts"
import * as keepers from "../support/keepers.ts"
import { mustSkip } from "../support/requirements.ts"
import { inLab, vmCases } from "../support/vmCases.ts"

const skipped = mustSkip("commands that outlive their keeper")
const timeoutMs = 600_000
const { it, itOnHost } = vmCases(timeoutMs)
const image = "test/busybox:1"
const takeovers = Number(process.env["BUNKER_TEST_TAKEOVERS"] ?? (inLab ? 1 : 4))
/** Lines of numbers: 5 MB, and in the lab 1.1, which is still more than waits in the guest. */
const floodLines = inLab ? 180_000 : 800_000

interface Info {
  readonly pid: number
  readonly status: string
  readonly exit_code: number | null
  readonly termination_reason: string | null
  readonly restart_count: number
  readonly restart_at: number | null
}

describe.skipIf(skipped)(`a main command (${engine})`, () => {
  let home: Home

  beforeAll(async () => {
    home = await busyboxHome()
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const run = (name: string, script: string, ...flags: ReadonlyArray<string>) =>
    home.must(["run", "-d", "--memory", "128m", "--name", name, ...flags, image, "sh", "-c", script])
  const inspect = async (name: string): Promise<Info> => JSON.parse(await home.must(["inspect", name]))[0]
  const until = async <A>(what: string, look: () => A | undefined | Promise<A | undefined>): Promise<A> => {
    for (const end = Date.now() + 240_000; Date.now() < end; await Bun.sleep(50)) {
      const found = await look()
      if (found !== undefined) return found
    }
    throw new Error(`in vain: ${what}`)
  }
  const ended = (name: string) =>
    until(`the end of ${name}`, async () => {
      const info = await inspect(name)
      return info.status === "stopped" && info.restart_at === null ? info : undefined
    })
  const logOf = (name: string): string => {
    const file = path.join(home.directory, "sandboxes", name, "logs", "main.jsonl")
    return fs.existsSync(file) ? fs.readFileSync(file, "utf8") : ""
  }
  /** Waits for words in the log as the keeper writes it, which starts no keeper. */
  const logged = (name: string, words: string) =>
    until(`${words} in the log of ${name}`, () => (logOf(name).includes(words) ? true : undefined))
  /** The console needs no keeper; where there is one, what it says is moved. */
  const consoleSays = (name: string, words: string) => {
    const files = ["console.log", "console.jsonl"].map((file) =>
      path.join(home.directory, "sandboxes", name, "logs", file)
    )
    return until(`${words} on the console of ${name}`, () =>
      files.some((file) => fs.existsSync(file) && fs.readFileSync(file, "latin1").includes(words)) ? true : undefined
    )
  }
  const keepersOf = (name: string) => keepers.keepersOf(home, name)
  const killKeeper = async (name: string) => {
    // One that came too late to adopt it may be about to end.
    const keeper = await until("one keeper", () => (keepersOf(name).length === 1 ? keepersOf(name)[0] : undefined))
    process.kill(keeper, "SIGKILL")
    await until("the end of a keeper", () => (fs.existsSync(`/proc/${keeper}`) ? undefined : true))
  }
  const lastNumber = (text: string): number => Number(text.trimEnd().split("\n").at(-1))
  /** Waits until the log has come so far, which starts no keeper. */
  const counted = (name: string, number: number) =>
    until(`${number} in the log of ${name}`, () => {
      const line = logOf(name)
        .split("\n")
        .findLast((each) => each.includes('"stdout"') && each.endsWith("}"))
      return line !== undefined && lastNumber(JSON.parse(line).d) >= number ? true : undefined
    })

  it("counts on while keepers are killed: the log has each number once, exec, attach, logs and stop work", async () => {
    const count = "i=0; trap 'echo stopping; exit 9' TERM; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    await run("counts", count)
    const { pid } = await inspect("counts")
    await counted("counts", 5)
    for (let turn = 0; turn < takeovers; turn += 1) {
      await killKeeper("counts")
      const before = lastNumber(await home.must(["logs", "counts"]))
      if (turn % 4 === 0) {
        await counted("counts", before + 10)
      } else if (turn % 4 === 1) {
        await killKeeper("counts")
        expect(await home.must(["exec", "counts", "echo", "here"])).toBe("here\n")
      } else if (turn % 4 === 2) {
        await killKeeper("counts")
        await home.must(["ps"])
        await until("a keeper", () => (keepersOf("counts").length === 1 ? true : undefined))
        await counted("counts", before + 10)
      } else {
        await killKeeper("counts")
        const attached = home.start(["attach", "counts"])
        const reader = attached.stdout.getReader()
        let seen = ""
        while (seen.split("\n").length < 6) seen += new TextDecoder().decode((await reader.read()).value)
        attached.kill("SIGKILL")
        await attached.exited
        const numbers = seen.split("\n").slice(0, -1).map(Number)
        expect(numbers).toEqual(numbers.map((_, index) => numbers[0]! + index))
        expect(numbers[0]!).toBeGreaterThanOrEqual(before)
      }
    }
    expect((await inspect("counts")).pid).toBe(pid)
    await killKeeper("counts")
    await home.must(["stop", "-t", "30", "counts"])
    expect(await ended("counts")).toMatchObject({ termination_reason: "shutdown_requested" })
    const lines = (await home.must(["logs", "counts"])).trimEnd().split("\n")
    expect(lines.pop()).toBe("stopping")
    expect(lines).toEqual(lines.map((_, index) => String(index + 1)))
    expect(lines.length).toBeGreaterThan(20)
  })

  itOnHost("that ends while nobody looks after it is recorded with its code, and its policy applies", async () => {
    // Once it is over, the console says so.
    const script = "echo begin; sleep 2; echo last; (sleep 0.3; echo OVER >/dev/console) & exit 7"
    await run("ends", script, "--restart", "on-failure:1")
    await logged("ends", "begin")
    await killKeeper("ends")
    await consoleSays("ends", "OVER")
    await home.must(["ps"])
    const info = await until("one restart and its end", async () => {
      const found = await inspect("ends")
      return found.restart_count === 1 && found.status === "stopped" && found.restart_at === null ? found : undefined
    })
    expect(info).toMatchObject({ exit_code: 7, termination_reason: "failed" })
    expect(await home.must(["logs", "ends"])).toBe("begin\nlast\nbegin\nlast\n")
  })

  it("that says megabytes while nobody looks after it loses nothing when somebody comes in time", async () => {
    await run("floods", `echo begin; sleep 2; echo OVER >/dev/console; seq 1 ${floodLines}; exit 5`)
    await logged("floods", "begin")
    await killKeeper("floods")
    await consoleSays("floods", "OVER")
    await home.must(["ps"])
    expect(await ended("floods")).toMatchObject({ exit_code: 5, termination_reason: "failed" })
    const [first, ...numbers] = (await home.must(["logs", "floods"])).trimEnd().split("\n")
    expect(first).toBe("begin")
    expect(numbers.length).toBe(floodLines)
    expect(numbers.findIndex((line, index) => line !== String(index + 1))).toBe(-1)
  })

  it("with an open stdin is typed to through the next keeper, and ends when it says so", async () => {
    const script = 'echo begin; while read line; do echo got $line; [ "$line" != end ] || exit 4; done'
    await run("typed", script, "-i")
    await logged("typed", "begin")
    await killKeeper("typed")
    const { code, stdout } = await home.bunker(["attach", "typed"], { stdin: "hello\nend\n" })
    expect({ code, stdout }).toEqual({ code: 4, stdout: "got hello\ngot end\n" })
    expect(await ended("typed")).toMatchObject({ exit_code: 4 })
    expect(await home.must(["logs", "typed"])).toBe("begin\ngot hello\ngot end\n")
  })

  itOnHost("with a terminal has its size set through the next keeper, and is told", async () => {
    const script = "stty size; trap 'stty size' WINCH; echo begin; while :; do sleep 0.1; done"
    await run("sized", script, "-t")
    await logged("sized", "begin")
    await home.serve()
    for (const [cols, rows] of [
      [101, 41],
      [99, 33]
    ] as const) {
      await killKeeper("sized")
      const { status } = await home.http("POST", "/v1/sandboxes/sized/execs/0/resize", { size: { cols, rows } })
      expect(status).toBe(204)
      await logged("sized", `${rows} ${cols}`)
    }
    expect(await home.must(["logs", "sized"])).toBe("24 80\r\nbegin\r\n41 101\r\n33 99\r\n")
    await home.killServer()
    // As the entry program does where a keeper was gone before it answered: live, it is done; done, the records tell.
    for (const _ of [1, 2]) {
      const asked = Bun.spawn([`${program}-main`, "__ended", "sized", "kill", "sized"], { env: home.environment() })
      expect(await new Response(asked.stdout).text()).toBe("sized\n")
      expect(await asked.exited).toBe(0)
    }
  })

  itOnHost("is stopped with its VM when the home directory is removed under its keeper", async () => {
    await run("homeless", "trap 'echo BYE >/dev/console; exit' TERM; echo begin; while :; do sleep 0.1; done")
    await logged("homeless", "begin")
    const { pid } = await inspect("homeless")
    const waiting = home.start(["attach", "homeless"])
    const moved = `${home.directory}-moved`
    fs.renameSync(home.directory, moved)
    // Another home in its place, with a sandbox of the same name, is nobody's business.
    const other = path.join(home.directory, "sandboxes/homeless")
    fs.mkdirSync(other, { recursive: true })
    fs.writeFileSync(path.join(other, "kept"), "")
    try {
      await until("the end of the VM", () => (fs.existsSync(`/proc/${pid}`) ? undefined : true))
      await waiting.exited
      const said = fs.readFileSync(path.join(moved, "sandboxes/homeless/logs/console.jsonl"), "latin1")
      expect(said).toContain("BYE")
      expect(fs.readdirSync(other)).toEqual(["kept"])
      const logs = fs.readdirSync(path.join(moved, "run")).map((id) => path.join(moved, "run", id, "keeper.log"))
      const words = logs.filter((file) => fs.existsSync(file)).map((file) => fs.readFileSync(file, "utf8"))
      expect(words.join("")).toContain("was removed or replaced while it ran")
      await until("the end of its keeper", () => (keepersOf("homeless").length === 0 ? true : undefined))
    } finally {
      fs.rmSync(home.directory, { recursive: true, force: true })
      fs.renameSync(moved, home.directory)
    }
  })

  itOnHost("is taken over where the database was lost, and stopped in order", async () => {
    await run("refound", "i=0; trap 'echo stopping; exit' TERM; while :; do i=$((i+1)); echo $i; sleep 0.1; done")
    await counted("refound", 3)
    for (const file of fs.readdirSync(home.directory).filter((each) => each.startsWith("bunker.db")))
      fs.rmSync(path.join(home.directory, file))
    await home.must(["ps"])
    await killKeeper("refound")
    const before = lastNumber(await home.must(["logs", "refound"]))
    await counted("refound", before + 5)
    // What the image says is known, though the image is not.
    expect(await home.must(["exec", "refound", "sh", "-c", "echo $PATH"])).toContain("/bin")
    await home.must(["stop", "-t", "30", "refound"])
    expect(await ended("refound")).toMatchObject({ termination_reason: "shutdown_requested" })
    const lines = (await home.must(["logs", "refound"])).trimEnd().split("\n")
    expect(lines.pop()).toBe("stopping")
    expect(lines).toEqual(lines.map((_, index) => String(index + 1)))
  })

  itOnHost(
    "that is killed or stopped is not started again, whatever became of its database and its keeper",
    async () => {
      const script = "echo begin; trap 'exit 3' TERM; while :; do sleep 0.1; done"
      const loseDatabase = () => {
        for (const file of fs.readdirSync(home.directory).filter((each) => each.startsWith("bunker.db")))
          fs.rmSync(path.join(home.directory, file))
      }
      const always = ["--restart", "always"]
      // An earlier test lost the image, too.
      await loadBusybox(home)
      await run("killed", script, ...always)
      await run("stopped", script, ...always)
      await run("removed", script, ...always)
      await run("unkept", script, ...always)
      await killKeeper("unkept")
      expect(await home.must(["kill", "unkept"])).toBe("unkept\n")
      expect(await inspect("unkept")).toMatchObject({
        status: "stopped",
        termination_reason: "signal",
        restart_at: null
      })
      loseDatabase()
      await home.must(["ps"])
      await home.must(["kill", "killed"])
      expect(await inspect("killed")).toMatchObject({
        status: "stopped",
        termination_reason: "signal",
        restart_at: null
      })
      await home.must(["stop", "-t", "30", "stopped"])
      const stopped = { status: "stopped", termination_reason: "shutdown_requested", restart_at: null }
      expect(await inspect("stopped")).toMatchObject(stopped)
      await home.must(["rm", "-f", "removed"])
      expect(await home.must(["ps", "-a", "-q"])).not.toContain("removed")
      expect(fs.existsSync(path.join(home.directory, "sandboxes/removed"))).toBe(false)
    }
  )
})
