/** How sandboxes live on and come back when what looks after them is killed. Real VMs, real kills; few boots. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { engine, type Home, program } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import * as keepers from "../support/keepers.ts"
import { lives } from "../support/keepers.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const skipped = mustSkip("the life of sandboxes")

const timeoutMs = 240_000
/** In the lab a question takes half a second of the processor that the answer is waiting for. */
const pollMs = process.env["BUNKER_LAB"] === undefined ? 100 : 800
const { it, itOnHost } = vmCases(timeoutMs)
const image = "test/busybox:1"

interface Info {
  readonly id: number
  readonly pid: number
  readonly status: string
  readonly exit_code: number | null
  readonly termination_reason: string | null
  readonly restart_count: number
  readonly restart_at: number | null
}

describe.skipIf(skipped)(`the life of sandboxes (${engine})`, () => {
  let home: Home

  beforeAll(async () => {
    home = await busyboxHome()
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const inspect = async (name: string): Promise<Info> => JSON.parse(await home.must(["inspect", name]))[0]
  const until = async (name: string, fits: (info: Info) => boolean, ask = inspect): Promise<Info> => {
    for (const end = Date.now() + 90_000; Date.now() < end; await Bun.sleep(ask === inspect ? pollMs : 100)) {
      const info = await ask(name)
      if (fits(info)) return info
    }
    throw new Error(`still ${JSON.stringify(await ask(name))}`)
  }
  const keepersOf = (name: string) => keepers.keepersOf(home, name)
  const killKeepers = (name: string) => keepers.killKeepers(home, name)
  const state = (name: string) =>
    /^state = "(.*)"$/m.exec(fs.readFileSync(path.join(home.directory, "sandboxes", name, "config.toml"), "utf8"))?.[1]

  it("a server that is killed leaves a detached VM alone; the next one reaches and drains it", async () => {
    const socket = path.join(home.directory, "s.sock")
    const call = async (method: string, route: string, body?: unknown) => {
      const response = await fetch(`http://localhost/v1/sandboxes${route}`, {
        unix: socket,
        method,
        ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } })
      } as RequestInit)
      return { status: response.status, text: await response.text() }
    }
    const ask = async (name: string): Promise<Info> => JSON.parse((await call("GET", `/${name}`)).text)
    const serve = async () => {
      const child = home.start(["serve", "--listen", `unix:${socket}`])
      await child.stderr.getReader().read()
      return child
    }
    const first = await serve()
    expect((await call("POST", "", { name: "kept", config: { image, engine } })).status).toBe(201)
    expect((await call("POST", "/kept/start")).status).toBe(200)
    const { pid } = await ask("kept")
    first.kill("SIGKILL")
    await first.exited
    const second = await serve()
    expect((await ask("kept")).pid).toBe(pid)
    expect((await home.must(["exec", "kept", "echo", "here"])).trim()).toBe("here")
    // While it serves, its keeper is killed: it adopts the VM, and later calls find the new keeper.
    const [before] = keepersOf("kept")
    expect((await call("POST", "/kept/touch")).status).toBe(204)
    killKeepers("kept")
    for (let turn = 0; turn < 300 && (keepersOf("kept").length === 0 || keepersOf("kept")[0] === before); turn += 1)
      await Bun.sleep(100)
    expect((await call("POST", "/kept/touch")).status).toBe(204)
    expect((await ask("kept")).pid).toBe(pid)
    // It ends when it is told to, once everything else was looked at.
    const last = Bun.spawn([program, "exec", "-i", "kept", "sh", "-c", "echo on; read word; echo $word"], {
      env: home.environment(),
      stdio: ["pipe", "pipe", "inherit"]
    })
    const output = last.stdout.getReader()
    await output.read()
    const drain = home.start(["stop", "--drain", "kept"])
    await until("kept", (info) => info.status === "draining", ask)
    const refused = await home.bunker(["exec", "kept", "true"])
    expect(refused).toMatchObject({ code: 125, stderr: expect.stringContaining("takes no new commands") })
    last.stdin.write("done\n")
    last.stdin.end()
    expect(new TextDecoder().decode((await output.read()).value)).toBe("done\n")
    expect(await last.exited).toBe(0)
    expect(await drain.exited).toBe(0)
    expect((await ask("kept")).termination_reason).toBe("drain_requested")
    expect(lives(pid)).toBe(false)
    expect(state("kept")).toBe("stopped")
    second.kill("SIGTERM")
    await second.exited
  })

  itOnHost("a crash is recorded and the policy applies, with the keeper there and without", async () => {
    await home.must(["create", "--name", "again", "--restart", "on-failure:3", image])
    await home.must(["start", "again"])
    // What a guest makes the VM's process print is bounded while it runs.
    const run = path.join(home.directory, "run", String((await inspect("again")).id))
    const printed = ["runner.log", "keeper.log", "net.log"].map((name) => path.join(run, name))
    for (const file of printed) fs.appendFileSync(file, "x".repeat(3 * 1024 * 1024))
    await until("again", () => printed.every((file) => fs.statSync(file).size < 1024 * 1024))
    const first = await inspect("again")
    process.kill(first.pid, "SIGKILL")
    const second = await until("again", (info) => info.status === "running" && info.pid !== first.pid)
    expect(second.restart_count).toBe(1)
    // Nobody is left to see this one die; the next command finds out.
    killKeepers("again")
    process.kill(second.pid, "SIGKILL")
    const third = await until("again", (info) => info.status === "running" && info.pid !== second.pid)
    expect(third.restart_count).toBe(2)
    expect(keepersOf("again")).toHaveLength(1)
    expect((await home.must(["exec", "again", "echo", "up"])).trim()).toBe("up")
    expect(await home.must(["ps"])).toMatch(/running, restart 2/)
  })

  it("a stop or a drain that lost its keeper half-way is finished by the next, for the same reason", async () => {
    await home.must(["create", "--name", "halfway", "--restart", "on-failure:3", image])
    for (const [flags, reason] of [
      [[], "shutdown_requested"],
      [["--drain"], "drain_requested"]
    ] as const) {
      await home.must(["start", "halfway"])
      const { pid } = await inspect("halfway")
      const [keeper] = keepersOf("halfway")
      // The VM stands still, so that the guest hears nothing; what its keeper was about to do is in the record.
      process.kill(pid, "SIGSTOP")
      const stop = home.start(["stop", "-t", "60", ...flags, "halfway"])
      await until("halfway", (info) => info.status === "draining")
      process.kill(keeper!, "SIGKILL")
      process.kill(pid, "SIGCONT")
      await stop.exited
      // Whoever looks sees to it that somebody goes on.
      await home.must(["ps"])
      const ended = await until("halfway", (info) => info.status === "stopped")
      expect(ended).toMatchObject({ termination_reason: reason, exit_signal: null, restart_at: null })
      expect(lives(pid)).toBe(false)
      expect(state("halfway")).toBe("stopped")
    }
  })

  itOnHost("a command that fails is run again until its policy gives up", async () => {
    await home.must([
      "run",
      "-d",
      "--name",
      "fails",
      "--restart",
      "on-failure:1",
      image,
      "sh",
      "-c",
      "echo run; exit 3"
    ])
    const ended = await until(
      "fails",
      (info) => info.restart_count === 1 && info.status === "stopped" && info.restart_at === null
    )
    expect(ended).toMatchObject({ exit_code: 3, termination_reason: "failed" })
    expect(await home.must(["logs", "fails"])).toBe("run\nrun\n")
    expect(await home.must(["ps", "-a"])).toContain("gave up after 1 restart")
    for (let turn = 0; turn < 50 && keepersOf("fails").length > 0; turn += 1) await Bun.sleep(100)
    expect(keepersOf("fails")).toEqual([])
    await home.must(["rm", "fails"])
  })

  itOnHost("limits end sandboxes, and the records say why", async () => {
    const started = Date.now()
    const run = await home.bunker(["run", "-q", "--max-duration", "1s", image, "sleep", "1000"])
    expect(run.code).toBe(124)
    expect(run.stderr).toContain("may live for 1s")
    expect(Date.now() - started).toBeLessThan(60_000)
    // Long enough for a process to start.
    const idleSeconds = process.env["BUNKER_LAB"] === undefined ? 2 : 6
    await home.must(["create", "--name", "idle", "--idle-timeout", `${idleSeconds}s`, image])
    await home.must(["start", "idle"])
    // A command that runs is never idle.
    await home.must(["exec", "idle", "sleep", String(idleSeconds + 2)])
    expect((await inspect("idle")).status).toBe("running")
    await until("idle", (info) => info.status === "stopped")
    expect((await inspect("idle")).termination_reason).toBe("idle_timeout")
    await home.must(["rm", "idle"])
  })

  itOnHost(
    "a start uses what was edited; without the database the machine that runs goes on, and is reached",
    async () => {
      const definition = path.join(home.directory, "sandboxes/kept/config.toml")
      const edited = fs
        .readFileSync(definition, "utf8")
        .replace("disk_gb = 4", 'disk_gb = 6 # grown\nenv = ["BY_HAND=yes"]\npermissions = ["net"]')
        .replace("memory_mb = 512", "memory_mb = 300")
      fs.writeFileSync(definition, edited)
      const { code, stderr } = await home.bunker(["start", "kept"])
      expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("kept: permissions has no effect") })
      const script = "echo $BY_HAND; grep MemTotal /proc/meminfo; df -k / | tail -n 1"
      const [byHand, memory, disk] = (await home.must(["exec", "kept", "sh", "-c", script])).split("\n")
      expect(byHand).toBe("yes")
      // libkrun puts its kernel into memory of its own, which the guest counts, too.
      expect(Number(/\d+/.exec(memory!)![0])).toBeLessThan(350 * 1024)
      expect(Number(disk!.split(/ +/)[1])).toBeGreaterThan(5 * 1024 * 1024)
      expect(fs.readFileSync(definition, "utf8")).toContain("disk_gb = 6 # grown")
      const before = await inspect("kept")
      for (const name of fs.readdirSync(home.directory).filter((each) => each.startsWith("bunker.db")))
        fs.rmSync(path.join(home.directory, name))
      expect(await inspect("kept")).toMatchObject({ id: before.id, pid: before.pid, status: "running" })
      expect((await home.must(["exec", "kept", "echo", "here"])).trim()).toBe("here")
      const again = await home.bunker(["start", "kept"])
      expect(again).toMatchObject({ code: 125, stderr: expect.stringContaining("running already") })
      await home.must(["kill", "kept"])
      // The keeper's own records are those of the lost database: what is here is put right by whoever looks.
      expect((await until("kept", (info) => info.status !== "running")).restart_at).toBeNull()
      expect(lives(before.pid)).toBe(false)
      expect(state("kept")).toBe("stopped")
    }
  )
})
