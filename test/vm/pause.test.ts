/** What a paused sandbox refuses, keeps and survives. Real VMs of either engine, a real keeper that is killed. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { engine, type Home, program } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { keepersOf, killKeepers, lives, processState } from "../support/keepers.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const skipped = mustSkip("pause")
const timeoutMs = 240_000
const { it, itOnHost } = vmCases(timeoutMs)
const image = "test/busybox:1"

describe.skipIf(skipped)(`a paused sandbox (${engine})`, () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
    await home.serve()
    await home.must(["create", "--name", "p", "--engine", engine, "-p", "0:80", image])
    await home.must(["start", "p"])
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const call = (method: string, rest: string, body?: unknown) => home.http(method, `/v1/sandboxes${rest}`, body)
  const done = async (rest: string) => expect(await call("POST", rest)).toEqual({ status: 204, body: undefined })
  const inspect = async (name: string) => (await call("GET", `/${name}`)).body
  const until = async (what: string, fits: () => Promise<boolean>) => {
    for (const end = Date.now() + 90_000; Date.now() < end; await Bun.sleep(100)) if (await fits()) return
    throw new Error(`never: ${what}`)
  }
  const refused = async (method: string, rest: string, body?: unknown) => {
    const answer = await call(method, rest, body)
    expect({ rest, status: answer.status, code: answer.body?.code }).toEqual({ rest, status: 409, code: "WrongState" })
    return String(answer.body.error)
  }
  const run = (argv: ReadonlyArray<string>) => home.execOverHttp("p", { argv })

  it("stands still, says so, and refuses what needs its guest", async () => {
    expect(await home.must(["pause", "p"])).toBe("p\n")
    const { status, pid } = await inspect("p")
    expect({ status, state: processState(pid) }).toEqual({ status: "paused", state: "T" })
    expect(await home.must(["ps"])).toContain("paused")
    const definition = fs.readFileSync(path.join(home.directory, "sandboxes/p/config.toml"), "utf8")
    expect(definition).toContain('state = "running"')
    const { code, stderr } = await home.bunker(["exec", "p", "true"])
    expect({ code, stderr }).toEqual({
      code: 125,
      stderr: `bunker: can not reach "p": it is paused; let it run on with 'bunker unpause p'\n`
    })
    for (const [method, rest, body] of [
      ["POST", "/p/exec", { request: { argv: ["true"] } }],
      ["GET", "/p/files?path=/etc/passwd"],
      ["POST", "/p/start"],
      ["POST", "/p/drain"]
    ] as const)
      expect(await refused(method, rest, body)).toContain("POST /v1/sandboxes/p/unpause")
    expect(await refused("POST", "/p/pause")).toContain("already")
    expect(await refused("DELETE", "/p")).toContain("POST /v1/sandboxes/p/stop")
    expect((await call("GET", "/p/logs")).status).toBe(200)
    const [numbers] = (await call("GET", "/p/stats")).body
    expect(numbers).toMatchObject({ name: "p" })
    expect(numbers.guest_memory_total).toBeGreaterThan(0)
    await done("/p/unpause")
    expect((await inspect("p")).status).toBe("running")
    expect(await refused("POST", "/p/unpause")).toContain("not paused")
  })

  it("goes on where it was, with the host's time; what was sent meanwhile waits for it", async () => {
    const typing = Bun.spawn([program, "exec", "-i", "p", "sh", "-c", "echo ready; read x; echo got $x"], {
      env: home.environment(),
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit"
    })
    const output = typing.stdout.getReader()
    expect(new TextDecoder().decode((await output.read()).value)).toBe("ready\n")
    await done("/p/pause")
    typing.stdin.write("word\n")
    typing.stdin.flush()
    // Longer than a clock that only stood still could hide.
    await Bun.sleep(3000)
    await done("/p/unpause")
    const before = Date.now()
    const now = Number((await run(["date", "+%s"])).stdout) * 1000
    // Whole seconds, somewhere between the question and its answer.
    expect(now).toBeGreaterThan(before - 1500)
    expect(now).toBeLessThan(Date.now() + 500)
    expect(new TextDecoder().decode((await output.read()).value)).toBe("got word\n")
    typing.stdin.end()
    expect(await typing.exited).toBe(0)
  })

  it("stays paused when its keeper is killed, and answers again when it is unpaused", async () => {
    const { pid } = await inspect("p")
    expect((await run(["sh", "-c", "echo kept > /kept; sleep 1000 > /dev/null 2>&1 &"])).code).toBe(0)
    await done("/p/pause")
    const [before] = keepersOf(home, "p")
    killKeepers(home, "p")
    await until("a new keeper", async () => {
      await call("GET", "")
      const [now] = keepersOf(home, "p")
      return now !== undefined && now !== before
    })
    expect(await inspect("p")).toMatchObject({ status: "paused", pid })
    expect(processState(pid)).toBe("T")
    await refused("POST", "/p/exec", { request: { argv: ["true"] } })
    await done("/p/unpause")
    expect(await inspect("p")).toMatchObject({ status: "running", pid })
    expect((await run(["cat", "/kept"])).stdout).toBe("kept\n")
    expect((await run(["ps"])).stdout).toContain("sleep 1000")
  })

  itOnHost("is found paused, not mute, when somebody else stopped its process", async () => {
    const { pid } = await inspect("p")
    killKeepers(home, "p")
    process.kill(pid, "SIGSTOP")
    await until("paused", async () => {
      await call("GET", "")
      return (await inspect("p")).status === "paused"
    })
    await done("/p/unpause")
    expect((await run(["cat", "/kept"])).stdout).toBe("kept\n")
  })

  it("ends in order when it is stopped: what was not written out is there after the next start", async () => {
    const { pid } = await inspect("p")
    const waiting = call("POST", "/p/wait")
    expect((await run(["sh", "-c", "echo late > /late"])).code).toBe(0)
    await done("/p/pause")
    const { status, body } = await call("POST", "/p/stop", { timeout_ms: 60_000 })
    expect({ status, reason: body.reason }).toEqual({ status: 200, reason: "shutdown_requested" })
    expect((await waiting).body.reason).toBe("shutdown_requested")
    expect(lives(pid)).toBe(false)
    expect((await call("POST", "/p/start")).status).toBe(200)
    expect((await run(["cat", "/late"])).stdout).toBe("late\n")
  })

  it("is killed and removed like a running one", async () => {
    const { pid } = await inspect("p")
    await done("/p/pause")
    expect((await call("POST", "/p/kill")).body).toMatchObject({ reason: "signal", exit_signal: "SIGKILL" })
    expect(lives(pid)).toBe(false)
    expect((await call("POST", "/p/start")).status).toBe(200)
    await done("/p/pause")
    expect(await home.must(["rm", "-f", "p"])).toBe("p\n")
    expect((await call("GET", "/p")).status).toBe(404)
  })

  it("lives no longer than it may", async () => {
    await home.must([
      "run",
      "-d",
      "--rm",
      "--name",
      "short",
      "--engine",
      engine,
      "--max-duration",
      "5s",
      image,
      "sleep",
      "1000"
    ])
    const { pid } = await inspect("short")
    await call("POST", "/short/pause")
    await until("its end", async () => (await call("GET", "/short")).status === 404)
    expect(lives(pid)).toBe(false)
  })
})
