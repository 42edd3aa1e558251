/** What people and programs get wrong, at both doors: one line that says what, why and what next, and nothing left behind. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import net from "node:net"
import { tmpdir } from "node:os"
import path from "node:path"
import type { Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"

const image = "test/busybox:1"
const long = "y".repeat(5000)
const word = "w".repeat(110_000)
const timeoutMs = 120_000

describe.skipIf(mustSkip("wrong input"))("wrong input", () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
    await home.serve()
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const one = (stderr: string): string => {
    expect(stderr).toStartWith("bunker: ")
    expect(stderr).toEndWith("\n")
    // One line, of a length that can be read, without what a terminal obeys.
    expect(stderr.slice(0, -1)).not.toMatch(/[\x00-\x1f\x7f-\x9f]/)
    expect(stderr.length).toBeLessThan(2000)
    expect(stderr).not.toMatch(/internal error|\bat .*:\d+:\d+/)
    return stderr
  }
  const nothingLeft = async () => {
    expect((await home.http("GET", "/v1/sandboxes")).body).toEqual([])
    expect(readdirSync(path.join(home.directory, "sandboxes"))).toEqual([])
    expect(readdirSync(path.join(home.directory, "run"))).toEqual([])
    expect(readdirSync(path.join(home.directory, "cache/tmp"))).toEqual([])
  }

  test(
    "on the command line",
    async () => {
      const binary = path.join(home.directory, "binary")
      writeFileSync(binary, Buffer.from(Array.from({ length: 4096 }, (_, index) => (index * 89 + 61) % 256)))
      const lines = path.join(home.directory, "lines")
      writeFileSync(lines, Array.from({ length: 5000 }, (_, index) => `V${index}=x\n`).join(""))
      const cases: ReadonlyArray<readonly [args: ReadonlyArray<string>, ...words: ReadonlyArray<string>]> = [
        [["create", long], "it has more than"],
        [["pull", long], "it has more than"],
        [["image", "inspect", long], "it has more than"],
        [["run", long], "it has more than"],
        [["create", "--memory", "-1", image], "--memory", "512m"],
        [["create", "--memory", "9".repeat(30), image], "--memory", "integer"],
        [["create", "--memory", "６４", image], "--memory"],
        [["create", "--cpus", "17", image], "at most 16"],
        [["create", "--disk", "99999999g", image], "--disk", "16777216"],
        [["create", "--name", "\x1b[31mred", image], "\\u001b"],
        [["create", "--name", "a\nb", image], "not a name"],
        [["create", "-w", "work", image], "workdir", "absolute"],
        [["create", "-e", "=x", image], "no name"],
        [["create", "--env-file", binary, image], "bunker: -"],
        [["create", "--env-file", "/nonexistent", image], "ENOENT"],
        [["create", "-v", "/tmp:/../x", image], "absolute path without"],
        [["create", "-v", `${home.directory}:/x`, image], "Bunker's own"],
        [["create", "--tmpfs", "/x:size=-1", image], "size=64m"],
        [["create", "-p", "70000:80", image], "70000"],
        [["create", "--model", "nothere", image], "nothere", "bunker model"],
        [["stop", "a\tb"], "not a name"],
        [["stop", "-t", "9999999", "x"], "--time", "2147483"],
        [["stop", "--time=-1", "x"], "--time", "from 0"],
        [["stop", "--drain", "-t", "9999999", "x"], "--time"],
        [["restart", "-t", "99999999", "x"], "--time"],
        [["exec", "--timeout", "9999999d", "x", "true"], "--timeout", "longer than a year"],
        [["exec", "--timeout", "0", "x", "true"], "--timeout"],
        [["run", "--timeout", "9999999d", image], "--timeout", "longer than a year"],
        [["exec", "x", ...Array.from({ length: 5000 }, String)], "command:", "4096"],
        [["exec", "--env-file", lines, "x", "true"], "--env", "4096"],
        [["create", "--env-file", lines, image], "--env", "4096"],
        [["exec", "-w", "tmp", "x", "true"], "--workdir", "absolute"],
        [["exec", "x", ""], "command:", "no name"],
        [["create", "--hostname", "h".repeat(65), image], "--hostname", "1 to 64"],
        [["create", "--hostname", "a\nb", image], "--hostname"],
        [["create", "--user", "u".repeat(300), image], "--user", "256 bytes"],
        [["create", "-w", `/${long}`, image], "--workdir", "4095 bytes"],
        [["create", image, word, word], "command:", "192 KiB"],
        [["create", "-e", `A=${word}`, image, word], "command:", "192 KiB"],
        [["create", ...Array.from({ length: 5 }, (_, at) => ["-l", `${at}=${word}`]).flat(), image], "512 KiB"],
        [["exec", "-e", `A=${word}`, "x", word], "command:", "192 KiB"],
        [["ps", "--filter", long], "--filter", "label=KEY"],
        [["cp", long, "x:/y"], "bunker: can not copy yyyy"],
        [["import", "--change", `BOGUS ${long}`, "/etc/passwd", "x"], "--change", "WORKDIR are known"],
        [["create", "-l", "constructor=x", image], "--label", "constructor"],
        [["create", "--rlimit", "nofile=2:1", image], "--rlimit", "above the hard one"],
        [["create", "-p", "cafe:80:80", image], "cafe"],
        [["create", "-p", "[cafe]:80:80", image], "cafe"],
        [["create", "-p", "0.0.0.0:81:1", "-p", "81:2", image], "-p", "published twice"],
        [["load", binary], "not a tar archive"],
        [["import", "/nonexistent", "x"], "no such file"],
        [["save", "-o", "/nonexistent/x", image], "its directory does not exist"],
        [["cp", "/nonexistent", "x:/y"], "no such file"]
      ]
      for (const [args, ...words] of cases) {
        const { code, stdout, stderr } = await home.bunker(args)
        expect({ args, code, stdout }).toEqual({ args, code: 125, stdout: "" })
        for (const word of words) expect(one(stderr)).toContain(word)
      }
      await nothingLeft()
    },
    timeoutMs
  )

  test(
    "is told before an image is pulled",
    async () => {
      const holder = net.createServer().listen({ host: "127.0.0.1", port: 0 })
      await new Promise((resolve) => holder.once("listening", resolve))
      const { port } = holder.address() as net.AddressInfo
      await home.must(["create", "-q", "--name", "dup", image])
      // Nobody listens there: whoever asks it fails with its name.
      const absent = "127.0.0.1:1/none:1"
      const cases: ReadonlyArray<readonly [flags: ReadonlyArray<string>, word: string]> = [
        [["--name", "a/b"], "not a name"],
        [["--name", "dup"], "exists"],
        [["-v", "/nonexistent:/x"], "/nonexistent"],
        [["-p", `${port}:80`], "can not be published"],
        [["--model", "nothere"], "nothere"],
        [["--restart", "always", "--rm", "-d"], "--rm"]
      ]
      for (const [flags, word] of cases) {
        for (const pull of word === "exists" ? [[], ["--pull", "always"]] : [[]]) {
          for (const command of ["create", "run"]) {
            if (command === "create" && flags.includes("--rm")) continue
            const args = [command, ...pull, ...flags, absent, ...(command === "run" ? ["true"] : [])]
            const { code, stdout, stderr } = await home.bunker(args)
            expect({ args, code, stdout, stderr: one(stderr) }).toEqual({
              args,
              code: 125,
              stdout: "",
              stderr: expect.stringContaining(word)
            })
            expect(stderr).not.toContain("127.0.0.1:1")
          }
        }
      }
      const pulled = await home.bunker(["create", "-q", absent])
      expect(one(pulled.stderr)).toContain("127.0.0.1:1")
      holder.close()
      await home.must(["rm", "dup"])
      await nothingLeft()
    },
    timeoutMs
  )

  test(
    "over HTTP",
    async () => {
      const create = (config: unknown, more = {}) => ["POST", "/v1/sandboxes", { config, ...more }] as const
      const exec = (request: unknown) => ["POST", "/v1/sandboxes/x/exec", { request }] as const
      const port = (host_ip: string) => ({ image, ports: [{ host_ip, host_port: 0, guest_port: 80 }] })
      const limit = { resource: "nofile", soft: 2, hard: 1 }
      const cases: ReadonlyArray<
        readonly [
          request: readonly [method: string, where: string, body?: unknown],
          status: number,
          code: string,
          word: string
        ]
      > = [
        [create({}), 400, "InvalidInput", "config.image"],
        [create({ image: long }), 400, "InvalidReference", "more than"],
        [create({ image, memory_mb: 1e99 }), 400, "InvalidInput", "memory_mb"],
        [create({ image, memory_mb: 64, cpus: 16 }), 400, "InvalidSpec", "88 MiB"],
        [create({ image, workdir: "work" }), 400, "InvalidSpec", "workdir"],
        [create({ image, env: ["nonsense"] }), 400, "InvalidSpec", "env"],
        [create({ image, models: [{ name: "nothere", target: "/m" }] }), 404, "ModelNotFound", "nothere"],
        [create({ image, tmpfs: [{ target: "/../x" }] }), 400, "InvalidInput", "absolute path without"],
        [
          create({ image, mounts: [{ source: "/nonexistent", target: "/x", read_only: true }] }),
          422,
          "MountRefused",
          "exist"
        ],
        [create({ image }, { name: "\0" }), 400, "InvalidName", "\\u0000"],
        [create({ image }, { bogus: 1 }), 400, "InvalidInput", "bogus"],
        [["POST", "/v1/images/pull", { reference: long }], 400, "InvalidReference", "more than"],
        [["GET", "/v1/sandboxes/%00"], 400, "InvalidName", "\\u0000"],
        [["GET", "/v1/sandboxes/..%2f..%2fx"], 400, "InvalidName", "starts with"],
        [["POST", "/v1/sandboxes/x/stop", { timeout_ms: -1 }], 400, "InvalidInput", "timeout_ms"],
        [["POST", "/v1/sandboxes/x/stop", { timeout_ms: 2 ** 40 }], 400, "InvalidInput", "timeout_ms"],
        [create(port("")), 400, "InvalidSpec", "IP address"],
        [create(port("localhost")), 400, "InvalidSpec", "localhost"],
        [create(port("cafe")), 400, "InvalidSpec", "cafe"],
        [create({ image, hostname: "h".repeat(65) }), 400, "InvalidSpec", "hostname"],
        [create({ image, labels: { a: "\ud800" } }), 400, "InvalidSpec", "labels"],
        [create({ image, rlimits: [limit] }), 400, "InvalidSpec", "above the hard one"],
        [create({ image, permissions: ["net"] }), 400, "InvalidInput", "config.permissions"],
        [["POST", "/v1/sandboxes/check", { config: { image, hostname: "" } }], 400, "InvalidSpec", "hostname"],
        [exec({ argv: ["true"], cwd: "tmp" }), 400, "InvalidSpec", "cwd"],
        [exec({ argv: ["true"], env: ["nonsense"] }), 400, "InvalidSpec", "env"],
        [exec({ argv: ["true"], rlimits: [limit] }), 400, "InvalidSpec", "rlimits"],
        [exec({ argv: [""] }), 400, "InvalidSpec", "argv"],
        [exec({ argv: ["true"], timeout_ms: 0 }), 400, "InvalidInput", "timeout_ms"],
        [exec({ argv: Array.from({ length: 5000 }, String) }), 400, "InvalidInput", "request.argv"],
        [["POST", "/v1/sandboxes/x/execs/1/signal", { signal: 65 }], 400, "InvalidInput", "signal"],
        [["DELETE", "/v1/sandboxes/x?force=maybe"], 400, "InvalidInput", "force"],
        [["PATCH", "/v1/sandboxes/x"], 405, "MethodNotAllowed", "DELETE"]
      ]
      for (const [request, status, code, word] of cases) {
        const answer = await home.http(...request)
        const { code: said, error } = answer.body
        expect({ request, status: answer.status, code: said }).toEqual({ request, status, code })
        expect(error).toContain(word)
      }
      await nothingLeft()
    },
    timeoutMs
  )

  test(
    "a port that is taken, over HTTP: its owner is named, and nothing is left; on another address it is free",
    async () => {
      const holder = net.createServer().listen({ host: "127.0.0.1", port: 0 })
      await new Promise((resolve) => holder.once("listening", resolve))
      const { port } = holder.address() as net.AddressInfo
      const create = (more = {}) =>
        home.http("POST", "/v1/sandboxes", {
          name: "web",
          config: { image, ports: [{ host_port: port, guest_port: 80, ...more }] }
        })
      for (const more of [{}, { host_ip: "0.0.0.0" }]) {
        const { status, body } = await create(more)
        expect({ more, status, code: body.code }).toEqual({ more, status: 409, code: "PortTaken" })
        expect(body.error).toContain(`process ${process.pid} (`)
        await nothingLeft()
      }
      const elsewhere = await create({ host_ip: "127.0.0.2" })
      expect(elsewhere.body).toMatchObject({ name: "web", config: { ports: [{ host_ip: "127.0.0.2" }] } })
      holder.close()
      expect((await home.http("DELETE", "/v1/sandboxes/web")).status).toBe(204)
      await nothingLeft()
    },
    timeoutMs
  )

  test(
    "homes that can not be one",
    async () => {
      const directory = mkdtempSync(path.join(tmpdir(), "bkw-"))
      const file = path.join(directory, "file")
      writeFileSync(file, "")
      const dangling = path.join(directory, "dangling")
      symlinkSync("/nonexistent/x", dangling)
      const closed = path.join(directory, "closed")
      mkdirSync(closed)
      chmodSync(closed, 0)
      const homes = [
        "/dev/null",
        "/proc/x",
        "/proc",
        file,
        path.join(file, "x"),
        dangling,
        path.join(directory, "l".repeat(120))
      ]
      // Nothing is closed to the superuser.
      if (process.getuid?.() !== 0) homes.push(closed)
      for (const each of homes) {
        for (const args of [["ps"], ["create", image], ["serve"]]) {
          const { code, stdout, stderr } = await home.bunker(args, { env: { BUNKER_HOME: each } })
          expect({ each, args, code, stdout }).toEqual({ each, args, code: 125, stdout: "" })
          expect(one(stderr)).toContain("set BUNKER_HOME")
        }
      }
      rmSync(directory, { recursive: true, force: true })
    },
    timeoutMs
  )

  test(
    "a sandbox's directory that can not be entered",
    async () => {
      const link = path.join(home.directory, "sandboxes/loop")
      symlinkSync("loop", link)
      for (const args of [
        ["create", "--name", "loop", image],
        ["inspect", "loop"],
        ["start", "loop"],
        ["rm", "-f", "loop"]
      ]) {
        const { code, stderr } = await home.bunker(args)
        expect({ args, code }).toEqual({ args, code: 125 })
        expect(one(stderr)).toContain("loop")
      }
      expect((await home.bunker(["ps", "-a"])).code).toBe(0)
      rmSync(link)
      await nothingLeft()
    },
    timeoutMs
  )

  test(
    "two programs that want the same at once: one has it, the other hears why",
    async () => {
      const tries = await Promise.all(
        Array.from({ length: 6 }, () => home.bunker(["create", "-q", "--name", "same", image]))
      )
      expect(tries.filter(({ code }) => code === 0)).toHaveLength(1)
      for (const { code, stderr } of tries) if (code !== 0) expect(one(stderr)).toContain("exists")
      const gone = await Promise.all(Array.from({ length: 4 }, () => home.bunker(["rm", "same"])))
      expect(gone.filter(({ code }) => code === 0).length).toBeGreaterThanOrEqual(1)
      for (const { code, stderr } of gone) if (code !== 0) expect(one(stderr)).toContain("no sandbox")
      const second = await home.bunker(["serve"])
      expect(second.code).toBe(125)
      one(second.stderr)
      await nothingLeft()
    },
    timeoutMs
  )
})
