/** Real sandboxes through the one class: embedded in this process, and of a real server over TCP and a unix socket. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import {
  AlreadyExists,
  CommandFailed,
  ExecFailed,
  FileFailed,
  FileNotFound,
  InvalidSpec,
  type NetworkEvent,
  OutputTooLarge,
  type Process,
  Sandbox,
  SandboxNotFound,
  type SandboxOptions,
  WrongState
} from "../../src/sdk/index.ts"
import { engine, Home, program } from "../support/bunker.ts"
import { busyboxPath, loadBusybox } from "../support/busyboxImage.ts"
import { startServer, type TestServer } from "../support/server.ts"

const busybox = busyboxPath()
const agent = path.join(import.meta.dir, "../../native/guest/build/agent")
const missing = [
  ...(existsSync(program) && existsSync(agent) ? [] : ["dist/bunker ('bun run build' makes it)"]),
  ...(busybox === undefined ? ["a static busybox"] : []),
  ...(Bun.which("qemu-system-x86_64") === null ? ["qemu-system-x86_64"] : [])
]
if (missing.length > 0) console.warn(`skipped: embedding; missing: ${missing.join(", ")}`)

const doors = ["embedded", "of a server over TCP", "of a server over a unix socket"] as const

describe.skipIf(missing.length > 0).each(doors)("Sandbox %s", (door) => {
  const timeoutMs = 120_000
  const home = mkdtempSync(path.join(tmpdir(), "bk-"))
  const shared = mkdtempSync(path.join(tmpdir(), "bk-shared-"))
  const image = "test/busybox:1"
  let options: SandboxOptions = { home, image, engine: engine as "qemu" }
  let server: TestServer | undefined
  let box: Sandbox

  beforeAll(async () => {
    await loadBusybox(new Home(home))
    writeFileSync(path.join(shared, "file"), "of the host\n")
    if (door !== "embedded") {
      server = await startServer(home, door.endsWith("TCP") ? "tcp" : "unix")
      options = { image, engine: engine as "qemu", server: server.options }
    }
    const mounts = [{ source: shared, target: "/shared", readOnly: true }]
    const tmpfs = [{ target: "/scratch", sizeMb: 4 }]
    box = await Sandbox.create({
      ...options,
      name: "box",
      env: { OWN: "sandbox" },
      labels: { team: "a" },
      idleTimeoutMs: 3_600_000,
      maxDurationMs: 7_200_000,
      mounts,
      tmpfs,
      network: { allow: ["a.example"] },
      command: ["sh", "-c", "echo of main; while read line; do echo main got $line; done; exit 3"],
      openStdin: true
    })
  }, timeoutMs)

  afterAll(async () => {
    await box.dispose()
    await server?.stop()
    expect(readdirSync(path.join(home, "sandboxes"))).toEqual([])
    for (const directory of [home, shared]) rmSync(directory, { recursive: true, force: true })
  }, timeoutMs)

  const where = () => (options.server === undefined ? { home } : { server: options.server })
  const gone = async (command: string) => {
    for (let tries = 0; tries < 50; tries += 1) if (!(await box.exec(["ps"])).stdout.includes(command)) return
    throw new Error(`"${command}" is still there`)
  }
  const words = async (main: Process) => {
    let said = ""
    for await (const { data } of main) said += new TextDecoder().decode(data)
    return said
  }

  test(
    "takes other rules for its network while it runs, and tells what was denied",
    async () => {
      const look = () => box.exec(["busybox", "nslookup", "b.example"])
      expect((await look()).stdout).toContain("REFUSED")
      const events: Array<NetworkEvent> = []
      for await (const event of box.network.events()) events.push(event)
      expect(events[0]).toMatchObject({ kind: "denied", name: "b.example", protocol: "dns", rule: null })
      expect((await box.network.suggest()).allow).toEqual(["b.example"])
      expect(await box.network.update({ allow: ["b.example"] })).toEqual({ allow: ["a.example", "b.example"] })
      expect((await look()).stdout).toContain("198.18.")
      expect((await box.stats()).networkDenied).toBeGreaterThan(0)
      const refused = await box.network.update({ allow: ["a..b"] }).catch((error) => error)
      expect(refused).toBeInstanceOf(InvalidSpec)
    },
    timeoutMs
  )

  test(
    "answers output and exit code",
    async () => {
      const result = await box.exec(["sh", "-c", "echo $OWN $EXTRA; echo err >&2; exit 5"], { env: { EXTRA: "call" } })
      expect(result).toEqual({ exitCode: 5, stdout: "sandbox call\n", stderr: "err\n" })
    },
    timeoutMs
  )

  test(
    "is labelled and limited as asked, and can be touched",
    async () => {
      await box.touch()
      const child = Bun.spawn([program, "inspect", "box"], {
        env: { PATH: "/usr/bin:/bin", HOME: home, BUNKER_HOME: home }
      })
      const [info] = JSON.parse(await new Response(child.stdout).text())
      expect(info.config).toMatchObject({
        labels: { team: "a" },
        idle_timeout_ms: 3_600_000,
        max_duration_ms: 7_200_000
      })
    },
    timeoutMs
  )

  test(
    "stands still while it is paused, and then runs on",
    async () => {
      await box.pause()
      await expect(box.exec(["true"])).rejects.toBeInstanceOf(WrongState)
      await box.unpause()
      expect((await box.exec(["echo", "on"])).stdout).toBe("on\n")
    },
    timeoutMs
  )

  test(
    "shows directories of the host, and memory as one",
    async () => {
      const { stdout, stderr } = await box.exec(["sh", "-c", "cat /shared/file; echo x > /shared/file; df -h /scratch"])
      expect(stdout).toContain("of the host")
      expect(stdout).toContain("4.0M")
      expect(stderr).toContain("Read-only")
    },
    timeoutMs
  )

  test(
    "feeds stdin and reads unicode that arrives in pieces",
    async () => {
      const text = "grüße, мир ".repeat(20_000)
      expect((await box.exec(["cat"], { stdin: text })).stdout).toBe(text)
    },
    timeoutMs
  )

  test(
    "joins the main command: input, output, logs, exit code; a second one sees the same",
    async () => {
      await using main = await box.attach()
      await using watcher = await box.attach()
      const watched = words(watcher)
      await main.write("one\n")
      await main.write(new TextEncoder().encode("two\n"))
      await main.closeInput()
      expect(await words(main)).toBe("main got one\nmain got two\n")
      expect(await main.wait()).toEqual({ exitCode: 3 })
      expect(await watched).toBe("main got one\nmain got two\n")
      const lines: Array<string> = []
      for await (const { stream, text } of box.logs()) lines.push(`${stream}:${text}`)
      const streams = lines.join("")
      expect(streams).toContain("stdout:of main\n")
      expect(streams).toContain("exit:3")
    },
    timeoutMs
  )

  test(
    "runs a command with a terminal that is typed to, resized and signalled",
    async () => {
      const shell = await box.spawn(["sh"], { tty: { cols: 91, rows: 33 }, openStdin: true })
      expect(shell.pid).toBeGreaterThan(1)
      await shell.write("stty size; read x; stty size; exec sleep 1000\n")
      let said = ""
      const steps = [
        ["33 91", () => shell.resize({ cols: 70, rows: 20 }).then(() => shell.write("\n"))],
        ["20 70", () => shell.kill(9)]
      ] as const
      let step = 0
      for await (const { data } of shell) {
        said += new TextDecoder().decode(data)
        const next = steps[step]
        if (next === undefined || !said.includes(next[0])) continue
        step += 1
        await next[1]()
      }
      expect(await shell.wait()).toEqual({ exitCode: 137 })
    },
    timeoutMs
  )

  test(
    "ends a command whose time is up, or that a signal of the program gives up",
    async () => {
      const late = await box.exec(["sleep", "1000"], { timeoutMs: 300 })
      expect(late).toEqual({ exitCode: 124, timedOut: true, stdout: "", stderr: "" })
      const stop = new AbortController()
      const given = box.exec(["sleep", "987"], { signal: stop.signal })
      stop.abort(new RangeError("enough"))
      await expect(given).rejects.toThrow("enough")
      const stream = box.execStream(["sh", "-c", "echo on; exec sleep 987"], { signal: AbortSignal.timeout(1000) })
      expect((await stream.next()).done).toBe(false)
      await expect(stream.next()).rejects.toThrow()
      await expect(box.exec(["true"], { signal: stop.signal })).rejects.toThrow("enough")
      await gone("sleep 987")
    },
    timeoutMs
  )

  test(
    "holds a command back whose output nobody reads, and loses none of it",
    async () => {
      // Sockets and queues on the way take about 24.
      const megabytes = 64
      const script = `dd if=/dev/zero bs=65536 count=${megabytes * 16} 2> /dev/null; echo done > /tmp/flood`
      const flood = await box.spawn(["sh", "-c", script])
      let bytes = 0
      for await (const { data } of flood) {
        if (bytes === 0) {
          // Nothing that could be waited for happens when nothing happens.
          await Bun.sleep(1500)
          await expect(box.files.stat("/tmp/flood")).rejects.toBeInstanceOf(FileNotFound)
        }
        bytes += data.length
      }
      expect(bytes).toBe(megabytes * 1024 * 1024)
      expect((await box.files.stat("/tmp/flood")).size).toBe(5)
    },
    timeoutMs
  )

  test(
    "runs lines of shell, as strings and as templates, and rejects where it is to check",
    async () => {
      expect((await box.exec("echo one; echo two | wc -l")).stdout).toBe("one\n1\n")
      expect((await box.sh("exit 3")).exitCode).toBe(3)
      const odd = "a b' $(id) \n*"
      expect(await box.$`printf %s ${odd}`.text()).toBe(odd)
      expect(await Array.fromAsync(box.$`printf '%s\\n' ${["a b", 1]}`.lines())).toEqual(["a b", "1"])
      expect((await box.$`exit ${4}`.nothrow()).exitCode).toBe(4)
      await expect(box.$`echo why >&2; exit 4`.text()).rejects.toMatchObject({
        _tag: "CommandFailed",
        exitCode: 4,
        output: "why"
      })
      await expect(box.exec(["false"], { check: true })).rejects.toBeInstanceOf(CommandFailed)
      let streamed = ""
      for await (const { data } of box.execStream("echo a | cat")) streamed += new TextDecoder().decode(data)
      expect(streamed).toBe("a\n")
    },
    timeoutMs
  )

  test(
    "is waited for: a port that a process listens on, a line of its main command",
    async () => {
      const nobody = box.waitForPort(4321, { timeoutMs: 1 })
      await expect(nobody).rejects.toMatchObject({ _tag: "NotReady", what: "port 4321" })
      const server = await box.spawn("sleep 1; exec nc -l -p 4321")
      await box.waitForPort(4321, { timeoutMs: 60_000 })
      await server.kill(9)
      expect(await box.waitForLog(/of (main)/)).toContain("of main")
      await expect(box.waitForLog("never said", { timeoutMs: 200 })).rejects.toMatchObject({ _tag: "NotReady" })
      const given = new AbortController()
      given.abort(new RangeError("enough"))
      await expect(box.waitForPort(1, { signal: given.signal })).rejects.toThrow("enough")
      await expect(box.url(80)).rejects.toMatchObject({ _tag: "InvalidSpec", field: "port" })
      expect(await Sandbox.list({ ...where(), labels: { team: "b" } })).toEqual([])
      expect((await Sandbox.list({ ...where(), labels: { team: "a" }, limit: 1 })).length).toBe(1)
      expect(await Sandbox.list({ ...where(), offset: 1 })).toEqual([])
    },
    timeoutMs
  )

  test(
    "collects output within bounds, and ends a command that says more",
    async () => {
      const say = (bytes: number) => ["sh", "-c", `head -c ${bytes} /dev/zero; exec sleep 985`]
      for (const [bytes, outputBytesMax] of [
        [99, 100],
        [100, 100]
      ] as const) {
        const { stdout } = await box.exec(["head", "-c", String(bytes), "/dev/zero"], { outputBytesMax })
        expect(stdout.length).toBe(bytes)
      }
      const error = await box.exec(say(101), { outputBytesMax: 100 }).catch((cause: unknown) => cause as OutputTooLarge)
      expect(error).toBeInstanceOf(OutputTooLarge)
      expect(error).toMatchObject({ bytesMax: 100, suggestion: expect.stringContaining("execStream()") })
      await gone("sleep 985")
      await box.files.write("/tmp/large", new Uint8Array(101))
      expect((await box.files.read("/tmp/large", { bytesMax: 101 })).length).toBe(101)
      await expect(box.files.read("/tmp/large", { bytesMax: 100 })).rejects.toBeInstanceOf(OutputTooLarge)
    },
    timeoutMs
  )

  test(
    "gives a command input from a source at the pace it takes it, and ends it with a source that fails",
    async () => {
      const bytes = crypto.getRandomValues(new Uint8Array(100_000))
      const source = async function* () {
        for (let part = 0; part < 30; part += 1) yield bytes
      }
      const sum = new Bun.CryptoHasher("sha256").update(Buffer.concat(Array.from({ length: 30 }, () => bytes)))
      expect((await box.exec(["sha256sum"], { stdin: source() })).stdout).toContain(sum.digest("hex"))
      const broken = async function* () {
        yield bytes
        throw new RangeError("the source broke")
      }
      await expect(box.exec(["cat"], { stdin: broken() })).rejects.toThrow("the source broke")
    },
    timeoutMs
  )

  test(
    "tells what it is and what it uses, and is reached a second time",
    async () => {
      expect(await box.info()).toMatchObject({ name: "box", status: "running", config: { memoryMb: 512 } })
      expect((await box.stats()).guestMemoryTotal).toBeGreaterThan(100_000_000)
      const samples: Array<number> = []
      for await (const { guestMemoryTotal } of box.watchStats()) if (samples.push(guestMemoryTotal) === 2) break
      expect(samples[1]).toBe(samples[0]!)
      expect((await Sandbox.list(options)).map(({ name }) => String(name))).toEqual(["box"])
      await using again = await Sandbox.get("box", options)
      expect((await again.exec(["echo", "again"])).stdout).toBe("again\n")
    },
    timeoutMs
  )

  test(
    "streams output as it comes, and leaving the loop ends the command",
    async () => {
      for await (const { stream, data } of box.execStream(["sh", "-c", "echo first; exec sleep 986"])) {
        expect({ stream, text: new TextDecoder().decode(data) }).toEqual({ stream: "stdout", text: "first\n" })
        break
      }
      await gone("sleep 986")
    },
    timeoutMs
  )

  test(
    "writes, reads, lists and removes files",
    async () => {
      const { files } = box
      await files.mkdir("/tmp/sdk/deep", { recursive: true })
      await files.write("/tmp/sdk/deep/text", "grüße\n", { mode: 0o600 })
      expect((await box.exec(["cat", "/tmp/sdk/deep/text"])).stdout).toBe("grüße\n")
      const bytes = crypto.getRandomValues(new Uint8Array(60_000))
      const source = async function* () {
        for (let part = 0; part < 10; part += 1) yield bytes
      }
      await files.write("/tmp/sdk/large", source())
      const whole = Buffer.concat(Array.from({ length: 10 }, () => bytes))
      expect(Buffer.from(await files.read("/tmp/sdk/large")).equals(whole)).toBe(true)
      const pieces: Array<Uint8Array> = []
      for await (const piece of files.readStream("/tmp/sdk/large")) pieces.push(piece)
      expect(Buffer.concat(pieces).equals(whole)).toBe(true)
      expect((await files.list("/tmp/sdk")).map(({ name, type, size }) => ({ name, type, size }))).toMatchObject([
        { name: "deep", type: "directory" },
        { name: "large", type: "file", size: 600_000 }
      ])
      expect(await files.stat("/tmp/sdk/deep/text")).toMatchObject({ name: "text", size: 8, mode: 0o600, uid: 0 })
      const broken = async function* () {
        yield bytes
        throw new RangeError("the source broke")
      }
      await expect(files.write("/tmp/sdk/deep/text", broken())).rejects.toBeInstanceOf(RangeError)
      expect(Buffer.from(await files.read("/tmp/sdk/deep/text")).toString()).toBe("grüße\n")
      await expect(files.read("/tmp/sdk/deep/text", { user: "user" })).rejects.toBeInstanceOf(FileFailed)
      await expect(files.remove("/tmp/sdk")).rejects.toMatchObject({ _tag: "FileFailed", reason: "not_empty" })
      await files.remove("/tmp/sdk", { recursive: true })
      await expect(files.stat("/tmp/sdk")).rejects.toBeInstanceOf(FileNotFound)
      await expect(files.read("not/absolute")).rejects.toBeDefined()
    },
    timeoutMs
  )

  test(
    "rejects with the typed error",
    async () => {
      await expect(box.exec(["no-such-command"])).rejects.toBeInstanceOf(ExecFailed)
      await expect(Sandbox.create({ ...options, name: "box" })).rejects.toBeInstanceOf(AlreadyExists)
      const unknown = Sandbox.create({ ...options, image: "127.0.0.1:1/not/here" })
      await expect(unknown).rejects.toMatchObject({ _tag: "RegistryUnavailable" })
      await expect(Sandbox.get("nobody", options)).rejects.toBeInstanceOf(SandboxNotFound)
    },
    timeoutMs
  )
})
