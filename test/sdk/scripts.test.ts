/** How programs end that forget their sandboxes, crash or are killed: by themselves, and no VM is left, which the next reader knows. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Sandbox } from "../../src/sdk/index.ts"
import { identify, isAlive } from "../../src/store/processes/processes.ts"
import { engine, type Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"

const timeoutMs = 120_000

describe.skipIf(mustSkip("scripts"))("a script with a sandbox", () => {
  let home: Home
  const directory = mkdtempSync(path.join(tmpdir(), "bk-"))
  beforeAll(async () => {
    home = await busyboxHome()
  }, timeoutMs)
  afterAll(async () => {
    await home.dispose()
    rmSync(directory, { recursive: true, force: true })
  }, timeoutMs)

  const start = (name: string, body: string) => {
    const file = path.join(directory, `${name}.ts`)
    const options = { home: home.directory, image: "test/busybox:1", engine, memoryMb: 128, ports: [{ guestPort: 80 }] }
    const index = path.join(import.meta.dir, "../../src/sdk/index.ts")
    writeFileSync(
      file,
      `import { Sandbox } from ${JSON.stringify(index)}\nconst box = await Sandbox.create(${JSON.stringify(options)})\n${body}\nconsole.log("last")\n`
    )
    return Bun.spawn([process.execPath, file], { stdout: "pipe", stderr: "pipe" })
  }
  const firstLine = async (child: ReturnType<typeof start>): Promise<string> => {
    let said = ""
    for await (const bytes of child.stdout) {
      said += new TextDecoder().decode(bytes)
      if (said.includes("\n")) break
    }
    return said
  }

  test(
    "ends by itself, whatever it left running, and leaves nothing",
    async () => {
      const child = start(
        "forgets",
        `await box.exec(["true"]); await box.spawn(["sleep", "1000"])
         for await (const _ of box.execStream(["echo", "one"])) break`
      )
      expect(await new Response(child.stdout).text()).toBe("last\n")
      expect({ code: await child.exited, said: await new Response(child.stderr).text() }).toEqual({ code: 0, said: "" })
      expect(readdirSync(path.join(home.directory, "sandboxes"))).toEqual([])
      expect(home.processes()).toEqual([])
    },
    timeoutMs
  )

  test(
    "takes the engine of its environment, and says which variable names none",
    async () => {
      const index = path.join(import.meta.dir, "../../src/sdk/index.ts")
      const file = path.join(directory, "engine.ts")
      writeFileSync(
        file,
        `import { Sandbox } from ${JSON.stringify(index)}
         const made = { home: ${JSON.stringify(home.directory)}, image: "test/busybox:1", persistent: true, start: false }
         const said = await Sandbox.create(made).then(
           async (box) => { const { config } = await box.info(); await box.remove(); return config.engine },
           (error) => error.field
         )
         console.log(said)`
      )
      for (const [given, said] of [
        ["qemu", "qemu"],
        ["vmware", "BUNKER_ENGINE"],
        ["", "auto"]
      ] as const) {
        const child = Bun.spawn([process.execPath, file], { env: { ...process.env, BUNKER_ENGINE: given } })
        expect(await new Response(child.stdout).text()).toBe(`${said}\n`)
      }
      await home.serve()
      const { body } = await home.http("POST", "/v1/sandboxes", {
        name: "over-http",
        config: { image: "test/busybox:1" }
      })
      expect(body.config.engine).toBe(engine)
      await home.must(["rm", "over-http"])
    },
    timeoutMs
  )

  test(
    "that stops its sandbox, or throws, ends, too",
    async () => {
      const stops = start("stops", "await box.stop()")
      const throws = start("throws", 'throw new Error("broken")')
      expect(await stops.exited).toBe(0)
      expect(await throws.exited).toBe(1)
      expect(await Sandbox.list({ home: home.directory })).toEqual([])
      expect(home.processes()).toEqual([])
    },
    timeoutMs
  )

  test(
    "that is killed leaves no VM, and nobody is told that it runs",
    async () => {
      const child = start("killed", 'console.log("up"); setInterval(() => {}, 1000); await new Promise(() => {})')
      expect(await firstLine(child)).toBe("up\n")
      expect((await Sandbox.list({ home: home.directory })).map(({ status }) => status)).toEqual(["running"])
      child.kill("SIGKILL")
      await child.exited
      const listed = await Sandbox.list({ home: home.directory })
      expect(listed.filter(({ status }) => status === "running")).toEqual([])
      await Sandbox.sweep({ home: home.directory })
      expect(home.processes()).toEqual([])
    },
    timeoutMs
  )

  test(
    "whose sandbox's process is killed says at once that it has ended",
    async () => {
      await home.must(["create", "-q", "--name", "kept", "--memory", "128", "test/busybox:1"])
      await home.must(["start", "kept"])
      for (let turn = 0; turn < 3; turn += 1) {
        const { pid } = await Sandbox.get("kept", { home: home.directory }).then((box) => box.info())
        const identity = identify(pid!)!
        process.kill(pid!, "SIGKILL")
        // The kernel ends it some moments after the signal; from then on no list may say otherwise.
        while (isAlive(identity)) await Bun.sleep(1)
        const [info] = await Sandbox.list({ home: home.directory })
        expect(info!.status).not.toBe("running")
        while ((await Sandbox.list({ home: home.directory }))[0]!.terminationReason === null) await Bun.sleep(20)
        if (turn < 2) await home.must(["start", "kept"])
      }
      await home.must(["rm", "kept"])
    },
    timeoutMs
  )
})
