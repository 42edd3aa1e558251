/** Sandboxes that are kept, through the one class: embedded in this process and of a server; what can be asked for, and every end. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import {
  AlreadyExists,
  AlreadyRunning,
  ImageNotCached,
  ImageNotFound,
  InvalidSpec,
  Sandbox,
  SandboxNotFound,
  type SandboxOptions,
  WrongState
} from "../../src/sdk/index.ts"
import { engine, Home } from "../support/bunker.ts"
import { loadBusybox } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { startServer, type TestServer } from "../support/server.ts"

describe.skipIf(mustSkip("machines of programs")).each(["embedded", "of a server"])(
  "A persistent sandbox %s",
  (door) => {
    const timeoutMs = 120_000
    const directory = mkdtempSync(path.join(tmpdir(), "bk-"))
    const home = new Home(directory)
    let options: SandboxOptions = { home: directory, image: "test/busybox:1", engine: engine as "qemu" }
    let server: TestServer | undefined

    beforeAll(async () => {
      await loadBusybox(home)
      if (door === "embedded") return
      server = await startServer(directory, "unix")
      options = { image: options.image, engine: engine as "qemu", server: server.options }
    }, timeoutMs)
    afterAll(async () => {
      await server?.stop()
      expect(readdirSync(path.join(directory, "sandboxes"))).toEqual([])
      rmSync(directory, { recursive: true, force: true })
    }, timeoutMs)

    const shell = async (box: Sandbox, script: string, more = {}) => (await box.exec(["sh", "-c", script], more)).stdout

    test(
      "is what was asked for, outlives its maker, and is stopped, started, restarted, drained, killed and removed",
      async () => {
        const made = await Sandbox.create({
          ...options,
          name: "dev",
          persistent: true,
          pull: "never",
          hostname: "workshop",
          diskMb: 96,
          entrypoint: ["sh"],
          command: ["-c", "echo from its main command; exec sleep 1000"],
          ports: [{ guestPort: 80 }],
          rlimits: [{ resource: "nofile", soft: 64, hard: 128 }],
          restart: { policy: "on-failure", attemptsMax: 2 },
          labels: { team: "a" }
        })
        expect(await shell(made, "hostname; ulimit -n; ulimit -Hn")).toBe("workshop\n64\n128\n")
        expect(await shell(made, "ulimit -n; ulimit -Hn", { rlimits: [{ resource: "nofile", soft: 32 }] })).toBe(
          "32\n32\n"
        )
        expect(Number(await shell(made, "df -m / | tail -n 1 | grep -o '[0-9]*' | head -n 1"))).toBeLessThan(128)
        await made.exec(["busybox", "httpd", "-p", "80", "-h", "/etc"])
        const info = await made.info()
        expect(info).toMatchObject({
          ephemeral: false,
          config: { diskMb: 96, labels: { team: "a" }, restart: { policy: "on-failure", attemptsMax: 2 } }
        })
        const port = info.ports![0]!
        expect(port).toMatchObject({ hostIp: "127.0.0.1", guestPort: 80 })
        expect(await (await fetch(`http://127.0.0.1:${port.hostPort}/os-release`)).text()).toContain(
          "Busybox test image"
        )
        await made.files.write("/root/note", "kept")
        await made.dispose()

        await using box = await Sandbox.get("dev", options)
        expect(await shell(box, "cat note")).toBe("kept")
        await expect(box.start()).rejects.toBeInstanceOf(AlreadyRunning)
        await expect(box.remove()).rejects.toBeInstanceOf(WrongState)
        await box.restart()
        expect(await shell(box, "cat note; ps | grep -c '[h]ttpd'")).toBe("kept0\n")
        expect(await box.kill()).toMatchObject({ exitSignal: "SIGKILL", reason: "signal" })
        expect(await box.wait()).toMatchObject({ exitSignal: "SIGKILL", reason: "signal" })
        await expect(box.kill()).rejects.toBeInstanceOf(WrongState)
        await box.start()
        const last = await box.spawn(["sh", "-c", "read line; echo $line"], { openStdin: true })
        const drained = box.drain()
        while ((await box.info()).status === "running") await Bun.sleep(20)
        await expect(box.exec(["true"])).rejects.toMatchObject({ _tag: expect.stringMatching(/WrongState|ExecFailed/) })
        await last.write("one more\n")
        expect(await drained).toMatchObject({ reason: "drain_requested" })
        await box.start()
        expect(await box.stop()).toMatchObject({ reason: "shutdown_requested" })
        await box.remove()
        await expect(Sandbox.get("dev", options)).rejects.toBeInstanceOf(SandboxNotFound)
      },
      timeoutMs
    )

    test(
      "is defined without being booted, replaced and removed by name",
      async () => {
        const defined = { ...options, name: "later", persistent: true, start: false }
        await using first = await Sandbox.create({ ...defined, memoryMb: 128 })
        expect(await first.info()).toMatchObject({ status: "created", ephemeral: false, config: { memoryMb: 128 } })
        await expect(Sandbox.create(defined)).rejects.toBeInstanceOf(AlreadyExists)
        await using second = await Sandbox.create({ ...defined, replace: true })
        expect((await second.info()).config.memoryMb).toBe(512)
        const row = path.join(directory, "sandboxes", "left-behind")
        mkdirSync(row)
        expect(await Sandbox.sweep({ ...options, dryRun: true })).toMatchObject({ errors: 0 })
        expect(existsSync(row)).toBe(true)
        await Sandbox.sweep(options)
        expect(await Sandbox.sweep(options)).toMatchObject({ removed: 0, errors: 0 })
        expect(existsSync(row)).toBe(false)
        await Sandbox.remove("later", options)
        expect(await Sandbox.list(options)).toEqual([])
        await expect(Sandbox.create({ ...options, start: false })).rejects.toBeInstanceOf(InvalidSpec)
        const unknown = Sandbox.create({ ...options, image: "test/unknown:1", pull: "never" })
        const error = await unknown.catch((cause: unknown) => cause)
        expect(error instanceof ImageNotFound || error instanceof ImageNotCached).toBe(true)
        await expect(
          Sandbox.create({ ...defined, start: true, entrypoint: ["sh"], mounts: [{ source: "/none", target: "/x" }] })
        ).rejects.toBeInstanceOf(Error)
        expect(await Sandbox.list(options)).toEqual([])
      },
      timeoutMs
    )

    test(
      "ends when its time is up, and when nobody uses it",
      async () => {
        for (const [limit, reason] of [
          [{ maxDurationMs: 1 }, "max_duration_exceeded"],
          [{ idleTimeoutMs: 100 }, "idle_timeout"]
        ] as const) {
          await using box = await Sandbox.create({ ...options, ...limit, persistent: true })
          expect(await box.wait()).toMatchObject({ reason })
          expect((await box.info()).status).toBe("stopped")
          await box.remove()
        }
        // One that is not kept is gone.
        await using box = await Sandbox.create({ ...options, idleTimeoutMs: 100 })
        const ended = await box.wait().catch((error: unknown) => error)
        expect(ended instanceof SandboxNotFound || (ended as { reason: string }).reason === "idle_timeout").toBe(true)
        while ((await Sandbox.list(options)).length > 0) await Bun.sleep(50)
      },
      timeoutMs
    )

    test(
      "ends with its main command, also with the image's own; one that is not kept is not started again",
      async () => {
        await using box = await Sandbox.create({
          ...options,
          command: ["sh", "-c", "read line; exit 5"],
          openStdin: true,
          endsWithCommand: true
        })
        await expect(box.restart()).rejects.toBeInstanceOf(WrongState)
        const main = await box.attach()
        const ended = box.wait()
        await main.write("now\n")
        expect(await ended).toMatchObject({ exitCode: 5, reason: "failed" })
        await using own = await Sandbox.create({
          ...options,
          persistent: true,
          entrypoint: "image",
          endsWithCommand: true
        })
        expect(await own.wait()).toMatchObject({ exitCode: 0, reason: "completed" })
        const said: Array<string> = []
        for await (const { text } of own.logs()) said.push(text ?? "")
        expect(said.join("")).toContain("greetings from the guest")
        await own.remove()
      },
      timeoutMs
    )

    test("gives up a wait when it is told to", async () => {
      await using box = await Sandbox.create({ ...options, memoryMb: 128 })
      const stop = new AbortController()
      const waiting = box.wait({ signal: stop.signal })
      stop.abort(new RangeError("enough"))
      await expect(waiting).rejects.toThrow("enough")
      expect(await shell(box, "echo still here")).toBe("still here\n")
    }, 120_000)
  }
)
