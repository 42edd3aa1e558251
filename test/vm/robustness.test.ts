/**
 * Kills, floods, full disks and many sandboxes. Short by default; longer by the environment, to be run now and then:
 * BUNKER_TEST_CYCLES (1000) create and remove, BUNKER_TEST_BOOTS (2) boot and remove, BUNKER_TEST_MANY (3) at once,
 * BUNKER_TEST_FLOOD_MB (2) of output. The lab does less of what takes long, and nothing that is the same for every engine.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Effect, Exit, ManagedRuntime, Scope } from "effect"
import { bootsMax } from "../../src/actors/sandboxes/keeperClient.ts"
import { layer, VmSupervisor } from "../../src/sdk/effect.ts"
import { diskUsage } from "../../src/store/files/files.ts"
import { tryFileLock } from "../../src/store/files/lock.ts"
import { engine, Home } from "../support/bunker.ts"
import { loadBusybox } from "../support/busyboxImage.ts"
import { mountMissing } from "../support/mount.ts"
import { mustSkip } from "../support/requirements.ts"
import { inLab, vmCases } from "../support/vmCases.ts"

const skipped = mustSkip("robustness")
const noLoop = inLab
  ? "the lab has neither loop devices nor e2fsck"
  : mountMissing?.includes("EROFS") === true
    ? undefined
    : mountMissing
if (noLoop !== undefined) console.warn(`skipped: a full disk; ${noLoop}`)

const amount = (name: string, usual: number): number => Number(process.env[`BUNKER_TEST_${name}`] ?? usual)
const timeoutMs = 3_600_000
const image = "test/busybox:1"
const config = { image, memory_mb: 128 }

const descriptorsOf = (pid: number | "self"): number => readdirSync(`/proc/${pid}/fd`).length

/** Memory that is a process's own and no file's. */
const anonymousMb = (pid: string): number =>
  Math.round(Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1024)

const entries = (home: Home) => ({
  sandboxes: readdirSync(path.join(home.directory, "sandboxes")),
  run: readdirSync(path.join(home.directory, "run")),
  temporary: readdirSync(path.join(home.directory, "cache/tmp"))
})
const nothing = { sandboxes: [], run: [], temporary: [] }

describe.skipIf(skipped)(`robustness (${engine})`, () => {
  let home: Home
  const { it, itOnHost } = vmCases(timeoutMs)
  const ok = async (method: string, where: string, body?: unknown) => {
    const answer = await home.http(method, where, body)
    if (answer.status >= 300) throw new Error(`${method} ${where}: ${JSON.stringify(answer.body)}`)
    return answer.body
  }
  const make = async (name: string) => {
    await ok("POST", "/v1/sandboxes", { name, config })
    await ok("POST", `/v1/sandboxes/${name}/start`)
  }
  const sh = (name: string, script: string) => home.execOverHttp(name, { argv: ["sh", "-c", script] })
  const drop = (name: string) => ok("DELETE", `/v1/sandboxes/${name}?force=true`)
  beforeAll(async () => {
    home = new Home()
    await loadBusybox(home)
    await home.serve()
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  itOnHost("creating and removing in sequence leaks nothing, over HTTP and in process", async () => {
    const cycles = amount("CYCLES", 1000)
    const cycle = async (index: number) => {
      const { name } = await ok("POST", "/v1/sandboxes", { config, ephemeral: index % 2 === 0 })
      await ok("DELETE", `/v1/sandboxes/${name}`)
    }
    for (let index = 0; index < 10; index += 1) await cycle(index)
    const before = descriptorsOf(home.serverPid)
    for (let index = 0; index < cycles; index += 1) await cycle(index)
    expect(descriptorsOf(home.serverPid)).toBeLessThanOrEqual(before + 1)

    const runtime = ManagedRuntime.make(layer({ home: home.directory }))
    const own = (ephemeral: boolean) =>
      VmSupervisor.use((vms) =>
        Effect.gen(function* () {
          const { name } = yield* vms.Create({
            ephemeral,
            config: {
              image,
              env: [],
              cpus: 1,
              memoryMb: 128,
              diskMb: 4096,
              engine: "qemu",
              endsWithCommand: false,
              labels: {}
            }
          })
          yield* vms.Remove({ name, force: false })
        })
      )
    for (let index = 0; index < 10; index += 1) await runtime.runPromise(own(true))
    const mine = descriptorsOf("self")
    for (let index = 0; index < cycles; index += 1) await runtime.runPromise(own(index % 2 === 0))
    expect(descriptorsOf("self")).toBeLessThanOrEqual(mine + 1)
    await runtime.dispose()

    expect(await ok("GET", "/v1/sandboxes")).toEqual([])
    expect(entries(home)).toEqual(nothing)
    expect(home.processes()).toEqual([])
  })

  it("booting and removing in sequence leaks nothing", async () => {
    await make("warm")
    await drop("warm")
    const before = descriptorsOf(home.serverPid)
    for (let index = 0; index < amount("BOOTS", inLab ? 1 : 2); index += 1) {
      await make(`cycle${index}`)
      expect((await sh(`cycle${index}`, "echo up")).stdout).toBe("up\n")
      await drop(`cycle${index}`)
    }
    expect(descriptorsOf(home.serverPid)).toBeLessThanOrEqual(before + 2)
    for (let tries = 0; tries < 100 && home.processes().length > 0; tries += 1) await Bun.sleep(50)
    expect(home.processes()).toEqual([])
    expect(entries(home)).toEqual(nothing)
  })

  itOnHost("boots of several shells at once take turns", async () => {
    const names = ["turn0", "turn1", "turn2"]
    const locks = path.join(home.directory, "cache/locks")
    // All places but one are taken.
    const places = Array.from({ length: bootsMax - 1 }, (_, slot) => path.join(locks, `boot-${slot}.lock`))
    const holding = await Effect.runPromise(Scope.make())
    for (const place of places) {
      expect(await Effect.runPromise(Scope.provide(tryFileLock(place), holding))).toBe(true)
    }
    const shells = names.map((name) =>
      home.must(["run", "-d", "--memory", "128m", "--name", name, image, "sleep", "600"])
    )
    let most = 0
    let up = false
    while (!up) {
      const all = (await ok("GET", "/v1/sandboxes")) as ReadonlyArray<{ readonly status: string }>
      most = Math.max(most, all.filter(({ status }) => status === "starting").length)
      up = all.filter(({ status }) => status === "running").length === names.length
    }
    await Promise.all(shells)
    await Effect.runPromise(Scope.close(holding, Exit.void))
    expect(most).toBe(1)
    await home.must(["rm", "-f", ...names])
  })

  it("many live at once, started together", async () => {
    const names = Array.from({ length: amount("MANY", 3) }, (_, index) => `many${index}`)
    for (const name of names) await ok("POST", "/v1/sandboxes", { name, config })
    const begun = performance.now()
    await Promise.all(names.map((name) => ok("POST", `/v1/sandboxes/${name}/start`)))
    const seconds = ((performance.now() - begun) / 1000).toFixed(1)
    const said = await Promise.all(names.map((name) => sh(name, "hostname")))
    expect(said.map(({ stdout }) => stdout.trim())).toEqual(names)
    if (names.length > 3) {
      const all = (await ok("GET", "/v1/sandboxes")) as ReadonlyArray<{ readonly pid: number }>
      const keepers = readdirSync("/proc").filter((pid) => names.some((name) => isKeeperOf(pid, name)))
      const sum = (pids: ReadonlyArray<string>, of: (pid: string) => number) =>
        pids.reduce((all, pid) => all + of(pid), 0)
      const vms = all.map(({ pid }) => String(pid))
      const fds = [...vms, ...keepers].map((pid) => descriptorsOf(Number(pid)))
      console.log(
        `${names.length} up in ${seconds} s; anonymous memory of VMs ${sum(vms, anonymousMb)} MiB, of ${keepers.length} ` +
          `keepers ${sum(keepers, anonymousMb)} MiB, of the server ${anonymousMb(String(home.serverPid))} MiB; descriptors ` +
          `of the server ${descriptorsOf(home.serverPid)}, of any other at most ${Math.max(...fds)}`
      )
    }
    await home.must(["rm", "-f", ...names])
    expect(entries(home)).toEqual(nothing)
  })

  it("a flood of output stays bounded on disk and in memory, on the console and from commands", async () => {
    await make("loud")
    const bytes = amount("FLOOD_MB", inLab ? 1 : 2) * 1_000_000
    const flood = (count: number) => `yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c ${count}`
    // An emulated console takes less than a megabyte a second.
    const onConsole = bytes / 20
    const others = async (over: () => boolean) => {
      let answered = 0
      for (; answered === 0 || !over(); answered += 1) {
        expect((await sh("loud", `echo ${answered}`)).stdout).toBe(`${answered}\n`)
        await Bun.sleep(bytes > 5e8 ? 1000 : 100)
      }
      return answered
    }
    const begun = performance.now()
    let said: string | undefined
    const console_ = sh("loud", `${flood(onConsole)} > /dev/console; echo done`).then(({ stdout }) => {
      said = stdout
    })
    const beside = [await others(() => said !== undefined)]
    await console_
    expect(said).toBe("done\n")
    const child = home.start(["exec", "loud", "sh", "-c", `${flood(bytes)}; exit 5`])
    let got = 0
    let code: number | undefined
    const reading = (async () => {
      for await (const chunk of child.stdout) got += chunk.length
      code = await child.exited
    })()
    beside.push(await others(() => code !== undefined))
    await reading
    expect({ got, code }).toEqual({ got: bytes, code: 5 })
    const seconds = Math.round((performance.now() - begun) / 1000)
    const logs = path.join(home.directory, "sandboxes/loud/logs")
    expect(diskUsage(logs)).toBeLessThan(2 * 45 * 1024 * 1024)
    const [keeper] = readdirSync("/proc").filter((pid) => isKeeperOf(pid, "loud"))
    const peak = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${keeper}/status`, "utf8"))![1]) / 1024
    if (bytes > 5e8) {
      const amounts = `keeper's peak: ${Math.round(peak)} MiB; logs: ${diskUsage(logs) >> 20} MiB`
      console.log(`${amounts}; ${seconds} s; other commands beside it: ${beside.join(", ")}`)
    }
    expect(peak).toBeLessThan(400)
    // One that never ends, unread, and one into the console: a stop waits for neither.
    const endless = home.start(["exec", "loud", "sh", "-c", "yes > /dev/console & yes"])
    await endless.stdout.getReader().read()
    expect(await ok("POST", "/v1/sandboxes/loud/stop")).toMatchObject({ reason: "shutdown_requested" })
    endless.kill("SIGKILL")
    await endless.exited
    await drop("loud")
  })

  it("what the guest kills in itself is only its own", async () => {
    await make("hurt")
    // Process 1 has no handler for these, so its kernel never delivers them; all else in the guest goes.
    await sh("hurt", "kill -9 1; kill -9 -1")
    expect((await sh("hurt", "echo here")).stdout).toBe("here\n")
    await drop("hurt")
  })

  it("a server that is killed leaves its sandboxes alive, and the next one reaches them", async () => {
    await make("lives")
    const { pid } = await ok("GET", "/v1/sandboxes/lives")
    await home.killServer()
    expect(existsSync(`/proc/${pid}`)).toBe(true)
    await home.serve()
    expect((await sh("lives", "echo alive")).stdout).toBe("alive\n")
    expect((await ok("GET", "/v1/sandboxes/lives")).pid).toBe(pid)
    const metrics = await fetch("http://bunker/metrics", { unix: path.join(home.directory, "bunker.sock") })
    const text = await metrics.text()
    for (const line of [
      /^bunker_sandboxes\{status="running"\} 1$/m,
      /^bunker_images 1$/m,
      /^bunker_leases\{kind="maintenance"\} \d+$/m,
      /^bunker_leases\{kind="content"\} 0$/m,
      /^bunker_sandbox_cpu_seconds_total\{name="lives"\} \d+(\.\d+)?$/m,
      /^bunker_sandbox_memory_bytes\{name="lives"\} \d{8,}$/m,
      /^bunker_sandbox_disk_bytes\{name="lives"\} \d+$/m,
      /^bunker_sandbox_commands\{name="lives"\} 0$/m,
      /^bunker_sandbox_network_receive_bytes_total\{name="lives"\} 0$/m,
      /^bunker_sandbox_network_transmit_bytes_total\{name="lives"\} 0$/m,
      /^process_open_fds \d+$/m,
      /^bunker_http_requests_total\{method="GET",status="200"\} \d+$/m
    ]) {
      expect(text).toMatch(line)
    }
    await drop("lives")
  })

  it("a client killed at any moment of run or create leaves nothing that a sweep does not clear", async () => {
    for (const afterMs of [40, 150, 400, 900]) {
      const run = home.start(["run", "-q", image, "sleep", "100"])
      const create = home.start(["create", "--name", `cut${afterMs}`, image])
      await Bun.sleep(afterMs)
      run.kill("SIGKILL")
      create.kill("SIGKILL")
      await Promise.all([run.exited, create.exited])
    }
    const deadline = Date.now() + 60_000
    const left = async () => {
      await home.must(["sweep"])
      const names = (await home.must(["ps", "-a", "-q"])).split("\n").filter((name) => name.startsWith("box-"))
      return [...names, ...home.processes()]
    }
    while ((await left()).length > 0 && Date.now() < deadline) await Bun.sleep(500)
    expect(await left()).toEqual([])
    const whole = (await home.must(["ps", "-a", "-q"])).split("\n").filter((name) => name !== "")
    if (whole.length > 0) await home.must(["rm", ...whole])
    expect(entries(home).sandboxes).toEqual([])
  })

  test.skipIf(noLoop !== undefined)(
    "a host disk that is full under a sandbox spoils nothing that was written before",
    async () => {
      const disk = mkdtempSync(path.join(tmpdir(), "bkf-"))
      const file = path.join(disk, "disk")
      const mounted = path.join(disk, "m")
      mkdirSync(mounted)
      const must = (...command: ReadonlyArray<string>) => {
        const { exitCode, stderr } = Bun.spawnSync([...command])
        if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`)
      }
      must("truncate", "-s", "200M", file)
      must("mke2fs", "-q", "-F", file)
      must("mount", "-o", "loop", file, mounted)
      const full = new Home(path.join(mounted, "h"))
      try {
        await loadBusybox(full)
        await full.must(["create", "--name", "full", "--memory", "128m", image])
        await full.must(["start", "full"])
        await full.must(["exec", "full", "sh", "-c", "echo precious > /root/kept; sync"])
        const filler = "dd if=/dev/zero of=/root/filler bs=1M count=400 conv=fsync"
        const { code, stderr } = await full.bunker(["exec", "full", "sh", "-c", `timeout 60 ${filler}`])
        expect(code).not.toBe(0)
        expect(stderr).toMatch(/error|No space|Terminated|Read-only/i)
        await full.bunker(["stop", "-t", "5", "full"])
        // Room again, as the owner of the disk would make it.
        rmSync(path.join(mounted, "h/cache/tmp"), { recursive: true, force: true })
        const upper = path.join(mounted, "h/sandboxes/full/upper.ext4")
        Bun.spawnSync(["e2fsck", "-p", "-f", upper])
        expect(Bun.spawnSync(["e2fsck", "-n", "-f", upper]).exitCode).toBe(0)
        const kept = Bun.spawnSync(["debugfs", "-R", "cat /upper/root/kept", upper]).stdout.toString()
        expect(kept).toBe("precious\n")
      } finally {
        await full.dispose()
        Bun.spawnSync(["umount", "-l", mounted])
        rmSync(disk, { recursive: true, force: true })
      }
    },
    timeoutMs
  )
})

const isKeeperOf = (pid: string, name: string): boolean => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`__keeper\0${name}\0`)
  } catch {
    return false
  }
}
