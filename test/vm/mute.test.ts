/** VMs that live and say nothing, made by stopping their process: found while they run and when they are taken over. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import type { Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const image = "test/busybox:1"
const timeoutMs = 240_000
/** Long enough for a machine that does other things, too. */
const env = { BUNKER_AGENT_TIMEOUT: "4s" }

describe.skipIf(mustSkip("mute VMs"))("a VM that lives and does not answer", () => {
  let home: Home
  const { it, itOnHost } = vmCases(timeoutMs)
  const infoOf = async (name: string) => JSON.parse(await home.must(["inspect", name], { env }))[0]
  const make = async (name: string, ...flags: ReadonlyArray<string>) => {
    await home.must(["create", "--name", name, "--memory", "96m", ...flags, image], { env })
    await home.must(["start", name], { env })
    return (await infoOf(name)).pid as number
  }
  const until = async (name: string, what: (info: Record<string, unknown>) => boolean) => {
    let info = await infoOf(name)
    for (const end = Date.now() + 120_000; !what(info) && Date.now() < end; info = await infoOf(name))
      await Bun.sleep(100)
    return info
  }
  /** Whoever was its parent may take a moment to notice. */
  const gone = async (pid: number) => {
    for (let tries = 0; tries < 100 && existsSync(`/proc/${pid}`); tries += 1) await Bun.sleep(50)
    expect(existsSync(`/proc/${pid}`)).toBe(false)
  }
  const keeperOf = (name: string): number | undefined =>
    readdirSync("/proc")
      .filter((pid) => /^\d+$/.test(pid))
      .map(Number)
      .find((pid) => {
        try {
          const environment = readFileSync(`/proc/${pid}/environ`, "utf8")
          const command = readFileSync(`/proc/${pid}/cmdline`, "utf8")
          return environment.includes(`BUNKER_HOME=${home.directory}\0`) && command.includes(`__keeper\0${name}\0`)
        } catch {
          return false
        }
      })

  beforeAll(async () => {
    home = await busyboxHome()
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  it("is ended by its keeper and crashes, and starts again when its policy says so", async () => {
    const pid = await make("mute", "--restart", "on-failure:1")
    process.kill(pid, "SIGSTOP")
    const again = await until("mute", (info) => info["status"] === "running" && info["pid"] !== pid)
    expect(again).toMatchObject({ status: "running", restart_count: 1 })
    await gone(pid)
    expect(await home.must(["exec", "mute", "echo", "here"])).toBe("here\n")
    process.kill(again.pid, "SIGSTOP")
    expect(await until("mute", (info) => info["status"] === "crashed")).toMatchObject({
      status: "crashed",
      termination_reason: "agent_unresponsive",
      termination_detail: "its agent did not answer for 4s",
      exit_signal: "SIGKILL"
    })
  })

  itOnHost("is ended by whoever finds it without a keeper", async () => {
    const pid = await make("lost")
    const keeper = keeperOf("lost")!
    // The agent is process 1 of the guest: no signal stops it, a cgroup does.
    const group = "/sys/fs/cgroup/f"
    const freeze = `mkdir ${group} && echo 1 > ${group}/cgroup.procs && echo 1 > ${group}/cgroup.freeze`
    const frozen = home.start(["exec", "lost", "sh", "-c", `${freeze} && sleep 0.2 && echo frozen > /dev/console`], {
      env
    })
    while (!(await home.must(["logs", "--console", "lost"], { env })).includes("frozen")) await Bun.sleep(100)
    process.kill(keeper, "SIGKILL")
    // Its last threads may hold its lock for another moment.
    while (keeperOf("lost") === keeper) await Bun.sleep(20)
    await frozen.exited
    await home.must(["ps"], { env })
    expect(await until("lost", (info) => info["status"] === "crashed")).toMatchObject({
      status: "crashed",
      termination_reason: "agent_unresponsive",
      termination_detail: "its agent did not answer for 4s"
    })
    await gone(pid)
  })

  it("is given a time that makes sense", async () => {
    for (const time of ["soon", "10ms", "2d", "-1s"]) {
      const { code, stderr } = await home.bunker(["ps"], { env: { BUNKER_AGENT_TIMEOUT: time } })
      expect({ code, stderr }).toEqual({
        code: 125,
        stderr: `bunker: BUNKER_AGENT_TIMEOUT: "${time}" is no time between 1s and 1d; write 30s or 5m\n`
      })
    }
  })
})
