/** Runs in the foreground meet pipes, signals and people who look at logs. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { readdirSync, rmSync, writeFileSync } from "node:fs"
import path from "node:path"
import { type Home, program } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"

const skipped = mustSkip("runs in the foreground")
const suite = describe.skipIf(skipped)
const timeoutMs = 120_000
const it = (name: string, body: () => Promise<void>) => test(name, body, timeoutMs)
const image = "test/busybox:1"

suite("a run in the foreground", () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const nothingLeft = async () => {
    expect(await home.must(["ps", "-a", "-q"])).toBe("")
    expect(readdirSync(path.join(home.directory, "sandboxes"))).toEqual([])
    expect(readdirSync(path.join(home.directory, "run"))).toEqual([])
  }
  const firstWords = async (stream: ReadableStream<Uint8Array>) => {
    const reader = stream.getReader()
    const words = new TextDecoder().decode((await reader.read()).value)
    reader.releaseLock()
    return words
  }

  it("ends when its reader has gone, without a word", async () => {
    const script = `"${program}" run -q ${image} sh -c 'while :; do echo yes; done' | head -1`
    const child = Bun.spawn(["sh", "-c", script], { env: home.environment(), stdout: "pipe", stderr: "pipe" })
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    expect({ stdout, stderr }).toEqual({ stdout: "yes\n", stderr: "" })
    await nothingLeft()
  })

  it("passes SIGTERM to the command, whose code is its own", async () => {
    const child = home.start([
      "run",
      "-q",
      image,
      "sh",
      "-c",
      "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"
    ])
    await firstWords(child.stdout)
    child.kill("SIGTERM")
    expect(await child.exited).toBe(5)
    await nothingLeft()
  })

  it("ends at any signal from its first moment on and leaves nothing, unless the signal is ignored", async () => {
    const made = () => readdirSync(path.join(home.directory, "sandboxes")).length > 0
    for (const [signal, code] of [
      ["SIGHUP", 129],
      ["SIGQUIT", 131],
      ["SIGALRM", 142],
      ["SIGUSR1", 138]
    ] as const) {
      const child = home.start(["run", "-q", image, "sleep", "1000"])
      while (!made()) await Bun.sleep(2)
      child.kill(signal)
      expect([signal, await child.exited]).toEqual([signal, code])
      await nothingLeft()
    }
    const script = `trap '' HUP; exec "${program}" run -q ${image} sh -c 'echo up; sleep 0.5; exit 4'`
    const deaf = Bun.spawn(["sh", "-c", script], { env: home.environment(), stdout: "pipe", stderr: "pipe" })
    while (!made()) await Bun.sleep(2)
    deaf.kill("SIGHUP")
    expect(await firstWords(deaf.stdout)).toBe("up\n")
    deaf.kill("SIGHUP")
    expect(await deaf.exited).toBe(4)
  })

  it("ends at the second SIGTERM, whatever the command does", async () => {
    const child = home.start([
      "run",
      "-q",
      image,
      "sh",
      "-c",
      "trap 'echo no' TERM; echo up; while :; do sleep 0.1; done"
    ])
    await firstWords(child.stdout)
    child.kill("SIGTERM")
    expect(await firstWords(child.stdout)).toBe("no\n")
    child.kill("SIGTERM")
    expect(await child.exited).toBe(143)
    await nothingLeft()
  })

  it("an interrupt while it boots leaves nothing", async () => {
    const child = home.start(["run", "-q", image, "sleep", "100"])
    while (readdirSync(path.join(home.directory, "run")).length === 0) await Bun.sleep(10)
    child.kill("SIGINT")
    expect(await child.exited).toBe(130)
    await nothingLeft()
  })

  it("takes a closed stdin for an empty one", async () => {
    const script = `"${program}" run -q -i ${image} cat <&-`
    const child = Bun.spawn(["sh", "-c", script], { env: home.environment(), stdout: "pipe", stderr: "pipe" })
    expect(await new Response(child.stdout).text()).toBe("")
    expect(await child.exited).toBe(0)
  })

  it("says that the output can not be written, and ends", async () => {
    const script = `"${program}" run -q ${image} sh -c 'while :; do echo yes; done' > /dev/full`
    const child = Bun.spawn(["sh", "-c", script], { env: home.environment(), stderr: "pipe" })
    expect(await new Response(child.stderr).text()).toBe(
      "bunker: the output can not be written: no space left on its disk\n"
    )
    expect(await child.exited).toBe(125)
    await nothingLeft()
  })

  it("logs -f shows what was said and what comes, and ends with the sandbox", async () => {
    const script = "echo one; sleep 2; echo two >&2; exit 4"
    await home.must(["run", "-d", "--name", "talks", image, "sh", "-c", script])
    const { code, stdout, stderr } = await home.bunker(["logs", "-f", "talks"])
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "one\n", stderr: "two\n" })
    expect(await home.must(["wait", "talks"])).toBe("4\n")
    const last = (await home.must(["logs", "--json", "-n", "1", "talks"])).trim().split("\n")
    expect(last.map((line) => JSON.parse(line))).toMatchObject([
      { stream: "stderr", data: "two\n" },
      { stream: "exit", data: "4" }
    ])
    expect(await home.must(["logs", "--tail", "0", "talks"])).toBe("")
    await home.must(["rm", "talks"])
    await nothingLeft()
  })

  it("an exec into a sandbox that is stopped meanwhile says so", async () => {
    await home.must(["run", "-d", "--name", "stops", image, "sleep", "1000"])
    const child = home.start(["exec", "stops", "sh", "-c", "trap '' TERM; echo on; sleep 987"])
    await firstWords(child.stdout)
    await home.must(["stop", "-t", "2", "stops"])
    expect(await child.exited).not.toBe(0)
    const words = await new Response(child.stderr).text()
    expect(words.trim().split("\n")).toHaveLength(1)
    const running = await home.bunker(["rm", "stops", "none"])
    expect(running).toMatchObject({
      code: 125,
      stdout: "stops\n",
      stderr: `bunker: no sandbox "none"; see 'bunker ps -a'\n`
    })
    await nothingLeft()
  })

  it("one that did not boot keeps its console until it was read", async () => {
    const fake = path.join(home.directory, "qemu")
    // The console is the file in `-chardev file,id=…,path=FILE` with the log's name.
    const script = [
      "#!/bin/sh",
      "for word; do case $word in *console.log*) f=$(echo $word | sed 's/.*path=//; s/,.*//')",
      "echo 'guest: no such disk' > $f;; esac; done",
      "exit 1"
    ]
    writeFileSync(fake, script.join("\n"), { mode: 0o755 })
    const failed = await home.bunker(["run", "-q", "--engine", "qemu", image, "true"], { env: { BUNKER_QEMU: fake } })
    expect(failed.code).toBe(125)
    const [, name] = /'bunker logs --console (\S+)'/.exec(failed.stderr) ?? []
    await home.must(["sweep"])
    expect(await home.must(["ps", "-a"])).toContain("boot_failed")
    // A part of it, or another log, is not what is kept for.
    expect(await home.must(["logs", name!])).toBe("")
    expect(await home.must(["logs", "--console", "-n", "0", name!])).toBe("")
    expect(await home.must(["logs", "--console", name!])).toBe("guest: no such disk\n")
    await nothingLeft()
    rmSync(fake)
  })

  it("says once which engine 'auto' chose, and why", async () => {
    const env = { BUNKER_ENGINE: "auto" }
    const small = ["-q", "--memory", "128m"]
    for (const name of ["one", "two"]) await home.must(["create", ...small, "--name", name, image], { env })
    const { stderr, code } = await home.bunker(["start", "one", "two"], { env })
    expect(code).toBe(0)
    const said = stderr.split("\n").filter((line) => line.startsWith("bunker: using "))
    expect(said).toHaveLength(1)
    expect(said[0]).toMatch(
      /KVM \(krun\): a guest booted in \d+ ms|software emulation \(qemu\), since .* here: .+; 'bunker doctor'/
    )
    await home.must(["rm", "-f", "one", "two"])
    expect(await home.bunker(["run", ...small, image, "true"], { env })).toMatchObject({ code: 0, stderr: "" })
    const again = await home.bunker(["run", ...small.slice(1), image, "true"], { env })
    expect(again.stderr).toMatch(
      /^(bunker: using software emulation \(qemu\), since KVM boots no guest here; .*says why\n)?$/
    )
    await nothingLeft()
  })
})
