/** How sandboxes do not start, crash and are stopped: by the image's signal, then TERM and KILL for the rest of the guest, then SIGKILL for the VM. Real VMs. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import { rmSync, writeFileSync } from "node:fs"
import path from "node:path"
import { engine, Home } from "../support/bunker.ts"
import { busyboxLayer, busyboxPath } from "../support/busyboxImage.ts"
import { archiveOf, imageOf, layoutFiles } from "../support/image.ts"
import { killKeepers, lives } from "../support/keepers.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const timeoutMs = 240_000

/** Each of them says which signal it got; the second would live on. */
const script = `
busybox setsid sh -c 'trap "echo rest TERM >> /root/log; exit" TERM; while :; do sleep 0.1; done' &
busybox setsid sh -c 'trap "echo deaf TERM >> /root/log" TERM; while :; do sleep 0.1; done' &
trap 'echo main 37 >> /root/log; exit' 37
trap 'echo main TERM >> /root/log; exit' TERM
echo up
while :; do sleep 0.1; done
`

describe.skipIf(mustSkip("ends"))(`how sandboxes end (${engine})`, () => {
  let home: Home
  const { it, itOnHost } = vmCases(timeoutMs)
  const inspect = async (name = "box") => JSON.parse(await home.must(["inspect", name]))[0]
  /** Answers once its command has set its traps. */
  const start = async (count: number) => {
    await home.must(["start", "box"])
    const said = "up\n".repeat(count)
    for (let turn = 0; turn < 600 && (await home.must(["logs", "box"])) !== said; turn += 1) await Bun.sleep(50)
    expect(await home.must(["logs", "box"])).toBe(said)
  }

  beforeAll(async () => {
    home = new Home()
    const config = { Env: ["PATH=/bin"], Cmd: ["sh", "-c", script], WorkingDir: "/root", StopSignal: "SIGRTMIN+3" }
    const image = imageOf([busyboxLayer(busyboxPath()!)], { config })
    const archive = path.join(home.directory, "image.tar")
    writeFileSync(archive, archiveOf(layoutFiles([{ name: "test/traps:1", top: image.manifest, blobs: image.blobs }])))
    await home.must(["load", "-q", archive])
    rmSync(archive)
    await home.must(["create", "-q", "--name", "box", "--memory", "128m", "test/traps:1"])
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  itOnHost(
    "a working directory that the image names and lacks is made, one that a person names must be there",
    async () => {
      for (const [name, config] of [
        ["test/dir:1", { Cmd: ["pwd"], WorkingDir: "srv/new", User: "1:1" }],
        ["test/empty:1", { Entrypoint: [""], Cmd: ["pwd"] }]
      ] as const) {
        const image = imageOf([busyboxLayer(busyboxPath()!)], { config: { Env: ["PATH=/bin"], ...config } })
        const archive = path.join(home.directory, "image.tar")
        writeFileSync(archive, archiveOf(layoutFiles([{ name, top: image.manifest, blobs: image.blobs }])))
        await home.must(["load", "-q", archive])
      }
      expect(await home.must(["run", "--rm", "test/dir:1", "sh", "-c", "pwd; busybox stat -c '%u %a' /srv/new"])).toBe(
        "/srv/new\n0 755\n"
      )
      const asked = await home.bunker(["run", "--rm", "-w", "/not/there", "test/dir:1"])
      expect([asked.code, asked.stderr]).toEqual([expect.any(Number), expect.stringContaining("/not/there")])
      expect(asked.code).not.toBe(0)
      const empty = await home.bunker(["run", "--rm", "test/empty:1"])
      expect([empty.code, empty.stderr]).toEqual([
        125,
        expect.stringContaining('the first word of what "test/empty:1" runs')
      ])
      expect(await home.must(["run", "--rm", "--entrypoint", "busybox", "test/empty:1", "pwd"])).toBe("/\n")
    }
  )

  itOnHost(
    "the image's signal goes to the command, TERM and then KILL to the rest, and that is an end in order",
    async () => {
      await start(1)
      await home.must(["stop", "box"])
      expect(await inspect()).toMatchObject({
        status: "stopped",
        termination_reason: "shutdown_requested",
        termination_detail: null,
        exit_signal: null
      })
      expect(await home.must(["logs", "--console", "box"])).not.toContain("can not be killed")
      await start(2)
      const log = (await home.must(["exec", "box", "cat", "/root/log"])).trim().split("\n")
      expect(log[0]).toBe("main 37")
      expect(log.slice(1).toSorted()).toEqual(["deaf TERM", "rest TERM"])
    }
  )

  describe("by the guest's own wish", () => {
    beforeAll(() =>
      home.must(["create", "-q", "--name", "wish", "--memory", "128m", "test/traps:1", "sleep", "987654"])
    )

    for (const [words, reason, detail] of [
      ["poweroff -f", "shutdown_requested", "its guest powered off"],
      ["halt -f", "shutdown_requested", "its guest halted"],
      ["reboot -f", "completed", "its guest rebooted"],
      ["poweroff", "shutdown_requested", "its guest powered off"],
      ["halt", "shutdown_requested", "its guest halted"],
      ["reboot", "completed", "its guest rebooted"]
    ] as const) {
      it(`${words} is an end in order`, async () => {
        await home.must(["start", "wish"])
        const { code, stderr } = await home.bunker(["exec", "wish", "busybox", ...words.split(" ")])
        // The command may end before the machine does.
        if (code !== 0) expect([code, stderr]).toEqual([137, `bunker: the command in "wish" was ended: ${detail}\n`])
        await home.must(["wait", "wish"])
        const end = { status: "stopped", termination_reason: reason, termination_detail: detail, exit_code: 0 }
        expect(await inspect("wish")).toMatchObject(end)
      })
    }

    it("a run in the foreground ends with 0, and a later boot's words are not taken for it", async () => {
      for (const words of ["poweroff -f", "poweroff; sleep 987", "reboot -f"]) {
        const { code, stderr } = await home.bunker(["run", "--rm", "test/traps:1", "sh", "-c", `busybox ${words}`])
        expect([words, code, stderr]).toEqual([words, 0, expect.not.stringContaining("crashed")])
      }
      const oom = "echo 2 > /proc/sys/vm/panic_on_oom; busybox tail /dev/zero"
      const panicked = await home.bunker(["run", "--rm", "test/traps:1", "sh", "-c", oom])
      expect([panicked.code, panicked.stderr]).toEqual([125, expect.stringContaining("crashed")])
      // The same machine crashes: what it said when it was powered off is no reason.
      await home.must(["start", "wish"])
      process.kill((await inspect("wish")).pid, "SIGKILL")
      await home.bunker(["wait", "wish"])
      expect(await inspect("wish")).toMatchObject({ status: "crashed", termination_reason: "internal_error" })
    })
  })

  it("a run whose VM dies says why and what its console said, and keeps that until it is read", async () => {
    const child = home.start(["run", "--rm", "--name", "dies", "test/traps:1", "sh", "-c", "echo on; sleep 987"])
    await child.stdout.getReader().read()
    process.kill((await inspect("dies")).pid, "SIGKILL")
    const stderr = await new Response(child.stderr).text()
    expect(await child.exited).toBe(125)
    expect(stderr).toMatch(
      /"dies" crashed: the VM's process was ended by SIGKILL; .*'bunker logs .*dies' shows .*for an hour/
    )
    expect(await inspect("dies")).toMatchObject({ status: "crashed", ephemeral: true, exit_signal: "SIGKILL" })
    expect(await home.must(["logs", "dies"])).toBe("on\n")
    await home.must(["logs", "--console", "dies"])
    expect((await home.bunker(["inspect", "dies"])).code).toBe(125)
  })

  itOnHost("a detached one that dies with its keeper is kept as well, until its name is wanted", async () => {
    await home.must(["run", "-d", "--rm", "--name", "wanted", "test/traps:1", "sleep", "987"])
    const { id, pid } = await inspect("wanted")
    killKeepers(home, "wanted")
    process.kill(pid, "SIGKILL")
    while (lives(pid)) await Bun.sleep(10)
    expect(await inspect("wanted")).toMatchObject({ status: "crashed", termination_reason: "internal_error" })
    await home.must(["sweep"])
    expect(await home.must(["ps", "-a"])).toMatch(/wanted .*crashed \(internal_error\)/)
    await home.must(["create", "-q", "--name", "wanted", "test/traps:1"])
    const after = await inspect("wanted")
    expect(after).toMatchObject({ status: "created", ephemeral: false })
    expect(after.id).not.toBe(id)
  })

  it("a disk that is broken keeps a sandbox from starting, and that is said with what may mend it", async () => {
    await home.must(["create", "-q", "--name", "broken", "--memory", "128m", "test/traps:1"])
    const disk = path.join(home.directory, "sandboxes/broken/upper.ext4")
    writeFileSync(disk, Buffer.alloc(1024 * 1024, 0x55))
    const { code, stderr } = await home.bunker(["start", "broken"])
    expect(code).toBe(125)
    expect(stderr).toMatch(/"broken" did not boot: its disk is broken \(.*mount the upper .*Invalid argument\)/)
    expect(stderr).toContain(`'e2fsck -f ${disk}' may mend it`)
    expect(await inspect("broken")).toMatchObject({ status: "crashed", termination_reason: "boot_failed" })
    expect(await home.must(["logs", "--console", "broken"])).toContain("ext4")
  })

  it("a VM that does not end in its time is ended by SIGKILL, and its record says so", async () => {
    if ((await inspect()).status !== "running") await home.must(["start", "box"])
    const { pid } = await inspect()
    process.kill(pid, "SIGSTOP")
    await home.must(["stop", "-t", "1", "box"])
    expect(await inspect()).toMatchObject({
      status: "stopped",
      termination_reason: "shutdown_requested",
      exit_signal: "SIGKILL"
    })
    expect(await home.must(["ps", "-a"])).toContain("stopped (SIGKILL)")
    expect(await home.must(["wait", "box"])).toBe("SIGKILL\n")
  })
})
