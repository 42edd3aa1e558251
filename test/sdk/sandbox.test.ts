/** Embeds real sandboxes in this process. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { AlreadyExists, ExecFailed, FileFailed, FileNotFound, ImageNotFound, Sandbox } from "../../src/sdk/index.ts"
import { engine, program } from "../support/bunker.ts"
import { busyboxArchive, busyboxPath } from "../support/busyboxImage.ts"

const busybox = busyboxPath()
const agent = path.join(import.meta.dir, "../../guest/build/agent")
const missing = [
  ...(existsSync(program) && existsSync(agent) ? [] : ["dist/bunker ('bun run build' makes it)"]),
  ...(busybox === undefined ? ["a static busybox"] : []),
  ...(Bun.which("qemu-system-x86_64") === null ? ["qemu-system-x86_64"] : [])
]
if (missing.length > 0) console.warn(`skipped: embedding; missing: ${missing.join(", ")}`)

describe.skipIf(missing.length > 0)("Sandbox", () => {
  const timeoutMs = 120_000
  const home = mkdtempSync(path.join(tmpdir(), "bk-"))
  const shared = mkdtempSync(path.join(tmpdir(), "bk-shared-"))
  const image = "test/busybox:1"
  const options = { home, image, engine: engine as "qemu" }
  let box: Sandbox

  beforeAll(async () => {
    const archive = path.join(home, "image.tar")
    writeFileSync(archive, busyboxArchive(busybox!))
    const child = Bun.spawn([program, "load", "-q", archive], {
      env: { PATH: "/usr/bin:/bin", HOME: home, BUNKER_HOME: home }
    })
    expect(await child.exited).toBe(0)
    writeFileSync(path.join(shared, "file"), "of the host\n")
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
      tmpfs
    })
  }, timeoutMs)

  afterAll(async () => {
    await box.dispose()
    expect(readdirSync(path.join(home, "sandboxes"))).toEqual([])
    for (const directory of [home, shared]) rmSync(directory, { recursive: true, force: true })
  }, timeoutMs)

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
      await expect(box.exec(["true"])).rejects.toMatchObject({ _tag: "WrongState", status: "paused" })
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
    "streams output as it comes, and leaving the loop ends the command",
    async () => {
      for await (const { stream, data } of box.execStream(["sh", "-c", "echo first; exec sleep 986"])) {
        expect({ stream, text: new TextDecoder().decode(data) }).toEqual({ stream: "stdout", text: "first\n" })
        break
      }
      for (let tries = 0; tries < 50; tries += 1) {
        if (!(await box.exec(["ps"])).stdout.includes("sleep 986")) return
      }
      throw new Error("the command is still there")
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
      expect(ImageNotFound).toBeDefined()
    },
    timeoutMs
  )
})
