/** One suite for both engines: on the host under qemu, in the KVM lab under krun (`bun run test:lab`). */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import path from "node:path"
import { engine, type Home, type Options, program, type Result } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { inLab, vmCases } from "../support/vmCases.ts"

const skipped = mustSkip("the behaviour of sandboxes")
const suite = describe.skipIf(skipped)

/** Emulated machines are slow, and the lab is an emulation in an emulation. */
const timeoutMs = 240_000
const { it, itOnHost } = vmCases(timeoutMs)

const image = "test/busybox:1"
const sha256 = (bytes: Uint8Array | string): string => new Bun.CryptoHasher("sha256").update(bytes).digest("hex")

suite(`sandboxes (${engine})`, () => {
  let home: Home

  beforeAll(async () => {
    home = await busyboxHome()
    await home.serve()
    await create("m")
    await start("m")
  }, timeoutMs)

  afterAll(() => home.dispose(), timeoutMs)

  const sh = (script: string, flags: ReadonlyArray<string> = [], options: Options = {}): Promise<Result> =>
    home.bunker(["exec", ...flags, "m", "sh", "-c", script], options)
  const ask = async (method: string, where: string, body?: unknown) => {
    const answer = await home.http(method, `/v1/sandboxes${where}`, body)
    expect({ where, ok: answer.status < 300, body: answer.body }).toMatchObject({ where, ok: true })
  }
  const create = (name: string, config: object = {}) => ask("POST", "", { name, config: { image, ...config } })
  const start = (name: string) => ask("POST", `/${name}/start`)
  const remove = (name: string) => ask("DELETE", `/${name}`)
  const infoOf = async (name: string) => (await home.http("GET", `/v1/sandboxes/${name}`)).body
  const awaitEnd = async (name: string) => {
    for (let tries = 0; tries < 600 && (await infoOf(name)).status === "running"; tries += 1) await Bun.sleep(50)
    return infoOf(name)
  }
  const names = async () =>
    ((await home.http("GET", "/v1/sandboxes")).body as ReadonlyArray<{ readonly name: string }>).map(({ name }) => name)

  describe("run", () => {
    it("runs the image's command, ends with its code and leaves nothing behind", async () => {
      const { code, stdout } = await home.bunker(["run", image])
      expect({ code, stdout }).toEqual({ code: 0, stdout: "greetings from the guest\n" })
      expect(await names()).toEqual(["m"])
      expect(readdirSync(path.join(home.directory, "sandboxes"))).toEqual(["m"])
      expect(readdirSync(path.join(home.directory, "run"))).toHaveLength(1)
    })

    it("boots without what takes time where that is quicker, and only for a run that is soon over", async () => {
      // libkrun puts its words in quotes.
      const skips = async (...command: ReadonlyArray<string>) => {
        const said = await home.must([...command, "sh", "-c", "cat /proc/cmdline /proc/filesystems; sleep 0.05"])
        return { timer: said.includes("nolapic_timer"), btrfs: !/\sbtrfs$/m.test(said) }
      }
      const hasDeadlineTimer = engine === "krun" && readFileSync("/proc/cpuinfo", "utf8").includes("GenuineIntel")
      expect(await skips("run", image)).toEqual({ timer: !hasDeadlineTimer, btrfs: true })
      expect(await skips("exec", "m")).toEqual({ timer: false, btrfs: false })
      if (!inLab) expect(await skips("run", "--cpus", "2", image)).toEqual({ timer: false, btrfs: true })
    })

    it("passes the guest's code, keeps stdout and stderr apart, pipes stdin", async () => {
      const options = { stdin: "through the guest" }
      const { code, stdout, stderr } = await home.bunker(
        ["run", "-q", "-i", image, "sh", "-c", "cat; echo err >&2; exit 7"],
        options
      )
      expect({ code, stdout, stderr }).toEqual({ code: 7, stdout: "through the guest", stderr: "err\n" })
    })

    it("a detached run prints its name, logs its output and ends with its command", async () => {
      const name = (
        await home.must(["run", "-d", "--name", "d", image, "sh", "-c", "echo to the log; echo aside >&2; exit 3"])
      ).trim()
      expect(name).toBe("d")
      await home.bunker(["wait", "d"])
      expect(await infoOf("d")).toMatchObject({ status: "stopped", exit_code: 3, termination_reason: "failed" })
      const { stdout, stderr } = await home.bunker(["logs", "d"])
      expect({ stdout, stderr }).toEqual({ stdout: "to the log\n", stderr: "aside\n" })
      await remove("d")
    })

    it("a missing command ends with 127 and leaves nothing", async () => {
      const { code, stderr } = await home.bunker(["run", "-q", image, "no-such-command"])
      expect(code).toBe(127)
      expect(stderr).toContain("no-such-command")
      expect(stderr.trim().split("\n")).toHaveLength(1)
      expect(await names()).toEqual(["m"])
    })
  })

  describe("exec", () => {
    it("answers the command's exit code", async () => {
      for (const expected of [0, 1, 255]) expect((await sh(`exit ${expected}`)).code).toBe(expected)
    })

    it("answers 128 and the signal of a killed command", async () => expect((await sh("kill -9 $$")).code).toBe(137))

    it("answers 126 for a file that is not executable and 127 for none", async () => {
      expect((await home.bunker(["exec", "m", "/bin/not-executable"])).code).toBe(126)
      expect((await home.bunker(["exec", "m", "/bin/nothing"])).code).toBe(127)
    })

    it("keeps the order of each output and takes the command's own flags", async () => {
      const { stdout, stderr } = await sh("for i in 1 2 3; do echo o$i; echo e$i >&2; done")
      expect({ stdout, stderr }).toEqual({ stdout: "o1\no2\no3\n", stderr: "e1\ne2\ne3\n" })
      expect((await home.bunker(["exec", "m", "ls", "-la", "/etc/os-release"])).stdout).toContain("/etc/os-release")
    })

    it("carries 5 MB of stdin to the guest and back unchanged", async () => {
      const bytes = crypto.getRandomValues(new Uint8Array(64 * 1024))
      const input = Buffer.concat(
        Array.from({ length: 80 }, (_, index) => Buffer.concat([Buffer.from([index]), bytes]))
      )
      if (!inLab) {
        const inGuest = await home.bunker(["exec", "-i", "m", "sha256sum"], { stdin: input })
        expect(inGuest.stdout.split(" ")[0]).toBe(sha256(input))
      }
      const child = home.start(["exec", "-i", "m", "cat"], { stdin: input })
      const back = await new Response(child.stdout).bytes()
      expect({ bytes: back.length, sha256: sha256(back) }).toEqual({ bytes: input.length, sha256: sha256(input) })
    })

    it("passes environment values with quotes, newlines, = and unicode, over the image's", async () => {
      const odd = `a"b'c\nd=e ünï $HOME`
      const { stdout } = await sh(
        'printf "%s|%s|%s" "$ODD" "$FROM_IMAGE" "$MINE"',
        ["-e", `ODD=${odd}`, "-e", "MINE"],
        { env: { MINE: "yours" } }
      )
      expect(stdout).toBe(`${odd}|yes|yours`)
    })

    it("honours working directory and user, and says which is wrong", async () => {
      expect((await sh("pwd")).stdout).toBe("/root\n")
      expect((await sh("pwd", ["-w", "/tmp"])).stdout).toBe("/tmp\n")
      expect((await sh("id", ["-u", "user"])).stdout).toMatch(
        /^uid=1000\(user\) gid=1000\(user\) groups=.*1001\(extra\)/
      )
      expect((await sh("id -u; id -g", ["-u", "12:34"])).stdout).toBe("12\n34\n")
      const directory = await sh("true", ["-w", "/nowhere"])
      expect(directory).toMatchObject({ code: 125, stderr: expect.stringContaining("/nowhere") })
      const user = await sh("true", ["-u", "nobody-here"])
      expect(user).toMatchObject({ code: 125, stderr: expect.stringContaining("nobody-here") })
    })

    it("answers twelve at once with the right codes", async () => {
      const codes = await Promise.all(Array.from({ length: 12 }, (_, index) => sh(`exit ${index + 40}`)))
      expect(codes.map((each) => each.code)).toEqual(Array.from({ length: 12 }, (_, index) => index + 40))
    })

    it("gives a terminal of the right size, and Ctrl-C reaches the command", async () => {
      let seen = ""
      const child = Bun.spawn(
        [
          program,
          "exec",
          "-it",
          "m",
          "sh",
          "-c",
          "stty size; trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 1; done"
        ],
        {
          env: home.environment(),
          terminal: {
            cols: 91,
            rows: 33,
            data: (_terminal: unknown, data: Uint8Array) => void (seen += new TextDecoder().decode(data))
          }
        } as never
      ) as Bun.Subprocess & { readonly terminal: { write: (text: string) => void; close: () => void } }
      while (!seen.includes("ready") && child.exitCode === null) await Bun.sleep(50)
      expect(seen).toContain("33 91")
      child.terminal.write("\x03")
      const code = await child.exited
      child.terminal.close()
      expect({ code, caught: seen.includes("caught") }).toEqual({ code: 9, caught: true })
    })

    it("a client that is killed takes its command along", async () => {
      const child = home.start(["exec", "m", "sh", "-c", "echo on; exec sleep 987"])
      await child.stdout.getReader().read()
      child.kill("SIGKILL")
      await child.exited
      for (let tries = 0; tries < 50; tries += 1) {
        if (!(await sh("ps")).stdout.includes("sleep 987")) return
      }
      throw new Error("the command is still there")
    })

    it("reaps orphans", async () => {
      await sh("(sleep 0.1 &) ; exit 0")
      await sh("sleep 0.5")
      expect((await sh("ps -o stat,comm")).stdout).not.toContain("Z")
    })
  })

  describe("stats", () => {
    it("measures guest and host", async () => {
      const [sample] = JSON.parse(await home.must(["stats", "--json", "m"]))
      expect(sample).toMatchObject({ name: "m", cpus: 1, network_received: 0 })
      const { guest_memory_used, guest_memory_total, host_memory, guest_disk_total, host_disk } = sample
      expect(guest_memory_total).toBeGreaterThan(400 * 1024 * 1024)
      expect(guest_memory_used).toBeLessThan(guest_memory_total)
      for (const bytes of [host_memory, guest_disk_total, host_disk]) expect(bytes).toBeGreaterThan(1024 * 1024)
      for (const ms of [sample.guest_cpu_ms, sample.host_cpu_ms, sample.uptime_ms]) expect(ms).toBeGreaterThan(0)
    })
  })

  describe("isolation", () => {
    it("has no way out to a network", async () => {
      expect((await sh("ip route")).stdout).toBe("")
      expect((await sh("ip -o link")).stdout).toContain("lo: <LOOPBACK,UP")
      expect((await sh("nc -w 2 10.0.2.2 80 </dev/null")).code).not.toBe(0)
    })

    it("shows the guest nothing of the host's files", async () => {
      expect((await sh("grep -E 'virtiofs|9p' /proc/mounts")).stdout).toBe("")
    })

    it("gives the guest its own host name, clock and a writable root", async () => {
      expect((await sh("hostname")).stdout).toBe("m\n")
      const seconds = Number((await sh("date +%s")).stdout)
      expect(Math.abs(seconds - Date.now() / 1000)).toBeLessThan(60)
      expect((await sh("echo x > /new-file && cat /new-file")).stdout).toBe("x\n")
    })

    it("gives the guest names for itself, shared memory and terminals as programs expect them", async () => {
      expect((await sh("cat /etc/hosts")).stdout).toBe(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\tm\n"
      )
      const options = async (where: string) => {
        const [, , type, list = ""] = (await sh(`grep ' ${where} ' /proc/mounts`)).stdout.split(" ")
        return [type, ...list.split(",")]
      }
      expect(await options("/dev/pts")).toEqual(
        expect.arrayContaining(["devpts", "gid=5", "mode=620", "ptmxmode=666", "nosuid", "noexec"])
      )
      expect(await options("/dev/shm")).toEqual(expect.arrayContaining(["tmpfs", "rw", "nosuid", "nodev"]))
      expect((await sh("stat -c %a /dev/shm; touch /dev/shm/x", ["-u", "1000"])).stdout).toBe("1777\n")
    })
  })

  describe("life", () => {
    it("keeps what was written without sync over a graceful stop", async () => {
      await sh("echo kept > /root/file")
      await ask("POST", "/m/stop")
      expect(await infoOf("m")).toMatchObject({
        status: "stopped",
        termination_reason: "shutdown_requested"
      })
      const refused = await sh("true")
      expect(refused).toMatchObject({ code: 125, stderr: expect.stringContaining("bunker start m") })
      await start("m")
      expect((await sh("cat /root/file")).stdout).toBe("kept\n")
    })

    it("of two starts at once one wins, and the other says so while the first still boots", async () => {
      await create("twice")
      expect((await infoOf("twice")).boot).toBeNull()
      const starts = [home.start(["start", "twice"]), home.start(["start", "twice"])]
      const ended = starts.map(async (child) => {
        const [code, stderr] = await Promise.all([child.exited, new Response(child.stderr).text()])
        return { code, stderr, status: (await infoOf("twice")).status }
      })
      const loser = await Promise.race(ended)
      expect(loser.code).toBe(125)
      expect(loser.stderr).toMatch(/is (being started|running) already/)
      // With KVM it may be up before the other has said its word.
      if (!inLab) expect(loser).toMatchObject({ status: "starting", stderr: expect.stringContaining("being started") })
      expect(await home.http("POST", "/v1/sandboxes/twice/start")).toMatchObject({
        status: 409,
        body: { code: "AlreadyRunning" }
      })
      expect((await Promise.all(ended)).map(({ code }) => code).toSorted()).toEqual([0, 125])
      const { status, boot } = await infoOf("twice")
      expect(status).toBe("running")
      // How long which phase took.
      expect(Object.keys(boot)).toEqual(["prepare_ms", "spawn_ms", "hello_ms", "mount_ms"])
      for (const ms of Object.values(boot)) expect(ms).toBeWithin(0, 300_000)
      expect(boot.hello_ms).toBeGreaterThan(0)
      const refused = await home.http("DELETE", "/v1/sandboxes/twice")
      expect(refused).toMatchObject({
        status: 409,
        body: { error: expect.stringContaining("POST /v1/sandboxes/twice/stop") }
      })
      expect((await home.http("DELETE", "/v1/sandboxes/twice?force=true")).status).toBe(204)
    })

    const pidOf = async () => (await infoOf("m")).pid as number

    it("shows crashed after its process was killed, and starts again", async () => {
      process.kill(await pidOf(), "SIGKILL")
      expect((await awaitEnd("m")).status).toBe("crashed")
      await start("m")
      expect((await sh("cat /root/file")).stdout).toBe("kept\n")
    })

    it("is adopted again when its keeper was killed", async () => {
      const before = await pidOf()
      const keepers = readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && isKeeperOf(pid, home.directory))
      expect(keepers).toHaveLength(1)
      process.kill(Number(keepers[0]), "SIGKILL")
      while (existsSync(`/proc/${keepers[0]}`)) await Bun.sleep(10)
      expect((await sh("cat /root/file")).stdout).toBe("kept\n")
      expect(await pidOf()).toBe(before)
    })

    it("a kernel panic is a crash, and the console is kept", async () => {
      await create("panics", { memory_mb: 128 })
      await start("panics")
      // Root in the guest overwrites the code of PID 1, and a kernel without PID 1 panics.
      const overwrite = "dd if=/dev/zero of=/proc/1/mem bs=4096 seek=1024 count=9 conv=notrunc"
      const child = home.start(["exec", "panics", "sh", "-c", overwrite])
      expect((await awaitEnd("panics")).status).toBe("crashed")
      // The last words may be lost: the machine resets at once.
      expect(await home.must(["logs", "--console", "panics"])).toMatch(/init\[1\]: segfault|Kernel panic/)
      expect(await child.exited).not.toBe(0)
      expect(await new Response(child.stderr).text()).toMatch(
        /"panics" crashed: .*console said last: .*\w; 'bunker logs --console panics' .*'bunker start panics'/
      )
      await remove("panics")
    })

    it("an interrupted run in the foreground takes its VM along", async () => {
      const child = home.start(["run", "--name", "interrupted", image, "sh", "-c", "trap '' INT; echo on; sleep 987"])
      await child.stdout.getReader().read()
      const info = await infoOf("interrupted")
      child.kill("SIGKILL")
      await child.exited
      for (let tries = 0; tries < 100 && existsSync(`/proc/${info.pid}`); tries += 1) await Bun.sleep(50)
      expect(existsSync(`/proc/${info.pid}`)).toBe(false)
      expect((await infoOf("interrupted")).status).toBe("crashed")
      await remove("interrupted")
    })
  })

  describe("wrong input", () => {
    const refused = async (args: ReadonlyArray<string>, ...words: ReadonlyArray<string>) => {
      const { code, stdout, stderr } = await home.bunker(args)
      expect({ args, code, stdout }).toEqual({ args, code: 125, stdout: "" })
      expect(stderr.trim().split("\n")).toHaveLength(1)
      for (const word of words) expect(stderr).toContain(word)
    }

    itOnHost("answers with one line that names what is wrong", async () => {
      await refused(["create", "--name", "a/b", image], "a/b", "A-Z a-z 0-9")
      await refused(["create", "--name", "..", image], "..")
      await refused(["create", "--name", "", image], "empty")
      await refused(["create", "--name", "x".repeat(129), image], "128")
      await refused(["create", "--name", "m", image], "exists")
      await refused(["create", "Not//an:image"], "Not//an:image")
      await refused(["create", "--memory", "lots", image], "--memory")
      await refused(["create", "--memory", "1m", image], "--memory", "64")
      await refused(["create", "--memory", "64m", "--cpus", "16", image], "memory", "88 MiB")
      await refused(["create", "--cpus", "17", image], "cpus", "at most 16")
      await refused(["create", "--engine", "vmware", image], "--engine", "krun")
      await refused(["run", "--pull", "never", "not/here"], "not/here", "bunker pull")
      await refused(["run", "--no-such-flag", image], "no-such-flag", "--help")
      await refused(["exec", "nobody", "true"], "nobody", "bunker ps")
      await refused(["load", "/nonexistent.tar"], "/nonexistent.tar")
      expect(await home.must(["ps", "-a", "-q"])).toBe("m\n")
    })

    itOnHost("takes a name of 128 bytes", async () => {
      const name = "n".repeat(128)
      expect(await home.must(["create", "--name", name, image])).toBe(`${name}\n`)
      await home.must(["rm", name])
    })
  })
})

const isKeeperOf = (pid: string, directory: string): boolean => {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, "utf8")
    return (
      command.includes("__keeper") &&
      readFileSync(`/proc/${pid}/environ`, "utf8").includes(`BUNKER_HOME=${directory}\0`)
    )
  } catch {
    return false
  }
}
