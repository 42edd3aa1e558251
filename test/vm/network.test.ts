/** The network of a sandbox as a user sees it, for both engines: on the host under qemu, in the KVM lab under krun. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { engine, type Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { inLab, vmCases } from "../support/vmCases.ts"

const suite = describe.skipIf(mustSkip("networks of sandboxes"))
const timeoutMs = 600_000
const { it, itOnHost } = vmCases(timeoutMs)

const image = "test/busybox:1"
/** An address of this machine's loopback that no other test uses. */
const alias = () => `127.${[0, 0, 0].map(() => 1 + Math.floor(Math.random() * 250)).join(".")}`
const bigBytes = inLab ? 5_000_000 : 30_000_000
const big = Buffer.alloc(bigBytes, "x")

const serve = (hostname: string) =>
  Bun.serve({
    hostname,
    port: 0,
    idleTimeout: 0,
    fetch: (request) => {
      const { pathname } = new URL(request.url)
      if (pathname === "/big") return new Response(big)
      // Says one word and then nothing more, for as long as it is asked.
      if (pathname === "/held") {
        return new Response(
          new ReadableStream({ start: (controller) => controller.enqueue(new TextEncoder().encode("held\n")) })
        )
      }
      return new Response(`hello ${request.headers.get("host")}\n`)
    }
  })

const get = (url: string) => `busybox wget -q -O - http://${url}`
/** The lines about the network on the stderr of a run in the foreground. */
const told = (stderr: string) => stderr.split("\n").filter((line) => line.startsWith("bunker: network: "))

/** Processes behind network cards of a home. */
const netProcesses = (home: Home): ReadonlyArray<number> =>
  fs.readdirSync("/proc").flatMap((pid) => {
    try {
      const ours = fs.readlinkSync(`/proc/${pid}/cwd`).startsWith(path.join(home.directory, "run"))
      return ours && fs.readFileSync(`/proc/${pid}/cmdline`, "latin1").includes("\0__net\0") ? [Number(pid)] : []
    } catch {
      return []
    }
  })

/** False once a process has closed all that it had. */
const lives = (pid: number): boolean => {
  try {
    return !/\) [ZX] /.test(fs.readFileSync(`/proc/${pid}/stat`, "latin1"))
  } catch {
    return false
  }
}

suite(`networks of sandboxes (${engine})`, () => {
  let home: Home
  let [allowed, other, own] = [] as unknown as [
    ReturnType<typeof serve>,
    ReturnType<typeof serve>,
    ReturnType<typeof serve>
  ]
  let entry: string

  beforeAll(async () => {
    home = await busyboxHome()
    const address = alias()
    allowed = serve(address)
    other = serve(alias())
    own = serve("127.0.0.1")
    entry = `registry.local:${address}`
  }, timeoutMs)

  afterAll(async () => {
    await Promise.all([allowed, other, own].map((server) => server?.stop(true)))
    await home.dispose()
  }, timeoutMs)

  const sh = (script: string, name = "box") => home.bunker(["exec", name, "sh", "-c", script])

  it("reach what a rule names, and say of everything else at once that it was refused", async () => {
    const mirror = `files.mirror.local:${allowed.hostname}`
    const { code, stdout, stderr } = await home.bunker([
      "run",
      `--allow-net=registry.local,*.mirror.local:${allowed.port}`,
      ...["--add-host", entry, "--add-host", mirror, "--allow-host-port", String(own.port), image, "sh", "-c"],
      [
        get(`registry.local:${allowed.port}/`),
        get(`files.mirror.local:${allowed.port}/`),
        get(`host.bunker.internal:${own.port}/`),
        get("other.example/"),
        get("other.example/again"),
        get("8.8.8.8/"),
        get("169.254.169.254/"),
        get(`${other.hostname}:${other.port}/`).replace("127.", "10."),
        get(`host.bunker.internal:${other.port === 1 ? 2 : 1}/`),
        get("files.mirror.local:7/"),
        "true"
      ].join("; ")
    ])
    expect(stdout).toBe(
      `hello registry.local:${allowed.port}\nhello files.mirror.local:${allowed.port}\nhello host.bunker.internal:${own.port}\n`
    )
    expect(code).toBe(0)
    const lines = told(stderr)
    const about = (word: string) => lines.filter((line) => line.includes(` denied ${word}`))
    for (const word of [
      "other.example",
      "8.8.8.8:80",
      "169.254.169.254:80",
      "10.",
      "host.bunker.internal:",
      "files.mirror.local:7"
    ]) {
      expect({ word, lines: about(word).length }).toEqual({ word, lines: 1 })
    }
    expect(lines).toHaveLength(6)
  })

  it("keep every byte of a large answer", async () => {
    const { stdout } = await home.bunker([
      ...["run", "--allow-net=registry.local", "--add-host", entry, image],
      ...["sh", "-c", `${get(`registry.local:${allowed.port}/big`)} | sha256sum`]
    ])
    expect(stdout.split(" ")[0]).toBe(new Bun.CryptoHasher("sha256").update(big).digest("hex"))
  })

  it("are not there unless they are asked for", async () => {
    const { stdout } = await home.bunker([
      "run",
      image,
      "sh",
      "-c",
      "ip route; ip -6 route; ip addr show up | grep eth0; true"
    ])
    expect(stdout.split("\n").filter((line) => line.includes("eth0"))).toEqual([])
  })

  describe("of one that runs", () => {
    beforeAll(async () => {
      await home.must([
        "create",
        "--name",
        "box",
        `--allow-net=registry.local:${allowed.port}`,
        "--add-host",
        entry,
        image
      ])
      await home.must(["start", "box"])
      await home.serve()
    }, timeoutMs)

    it("tell what was denied and used, and which rules would have done", async () => {
      expect((await sh(get(`registry.local:${allowed.port}/`))).stdout).toContain("hello")
      await sh(`${get("pypi.example/")}; ${get("10.1.2.3:5432/")}`)
      const events = (await home.must(["network", "events", "--json", "box"]))
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line))
      const of = (kind: string) => events.filter((event) => event.kind === kind)
      expect(of("used")).toMatchObject([{ name: "registry.local", port: allowed.port, protocol: "tcp" }])
      // More of a kind comes as one with its number.
      const denied = new Set(
        of("denied").map(({ name, address, port, protocol }) => `${name ?? address} ${port} ${protocol}`)
      )
      expect([...denied].sort()).toEqual(["10.1.2.3 5432 tcp", "pypi.example 0 dns"])
      expect(await home.must(["network", "suggest", "box"])).toBe("--allow-net=10.1.2.3:5432,pypi.example\n")
    })

    it("have a process behind the card that has no rights but its user's", () => {
      const [pid] = netProcesses(home)
      const status = fs.readFileSync(`/proc/${pid}/status`, "latin1")
      const field = (name: string) => new RegExp(`^${name}:\\s*(\\S+)$`, "m").exec(status)?.[1]
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) expect(field(set)).toBe("0000000000000000")
      expect(field("NoNewPrivs")).toBe("1")
      const tasks = fs
        .readdirSync(`/proc/${pid}/task`)
        .map((task) => fs.readFileSync(`/proc/${pid}/task/${task}/status`, "latin1"))
      expect(tasks.filter((task) => !/^NoNewPrivs:\s*1$/m.test(task) || !/^CapEff:\s*0+$/m.test(task))).toEqual([])
      return Promise.resolve()
    })

    it("follow new rules at once, and end the connections that these deny", async () => {
      const held = home.start(["exec", "box", "sh", "-c", get(`registry.local:${allowed.port}/held`)])
      const reader = held.stdout.getReader()
      expect(new TextDecoder().decode((await reader.read()).value)).toBe("held\n")
      const patch = (network: object, replace = false) =>
        home.http("PATCH", "/v1/sandboxes/box/network", { network, replace })
      expect(await patch({ deny: ["*.local"] })).toMatchObject({ status: 200, body: { deny: ["*.local"] } })
      // The server would have held it for ever.
      expect((await reader.read()).done).toBe(true)
      await held.exited
      expect((await sh(get(`registry.local:${allowed.port}/`))).stdout).toBe("")
      expect((await patch({ allow: ["a..b"] })).status).toBe(400)
      const rules = ["--allow", "registry.local", "--add-host", entry]
      await home.must(["network", "update", "--replace", ...rules, "box"])
      expect((await sh(get(`registry.local:${allowed.port}/`))).stdout).toContain("hello")
      // They are the definition's from now on.
      const { body } = await home.http("GET", "/v1/sandboxes/box")
      expect(body.config.network).toEqual({ allow: ["registry.local"], hosts: { "registry.local": allowed.hostname } })
      const events = await home.http("GET", "/v1/sandboxes/box/network/events")
      expect(events.body.some((event: { rule: string | null }) => event.rule === "*.local")).toBe(true)
    })

    it("outlive the process behind the card, which is replaced in the middle of a transfer", async () => {
      const held = home.start(["exec", "box", "sh", "-c", get(`registry.local:${allowed.port}/held`)])
      const reader = held.stdout.getReader()
      await reader.read()
      const [before = 0, ...more] = netProcesses(home)
      expect(more).toEqual([])
      process.kill(before, "SIGKILL")
      // Its connection is reset, though it had nothing to say.
      expect((await reader.read()).done).toBe(true)
      expect((await sh(get(`registry.local:${allowed.port}/`))).stdout).toContain("hello")
      expect(netProcesses(home)).not.toContain(before)
      expect(await home.must(["network", "events", "box"])).toContain("was replaced")
    })

    itOnHost("are those of the next keeper when theirs is killed", async () => {
      const [before] = netProcesses(home)
      const keeper = fs.readdirSync("/proc").find((pid) => {
        try {
          const command = fs.readFileSync(`/proc/${pid}/cmdline`, "latin1")
          const environment = fs.readFileSync(`/proc/${pid}/environ`, "latin1")
          return command.includes("\0__keeper\0box") && environment.includes(`BUNKER_HOME=${home.directory}\0`)
        } catch {
          return false
        }
      })
      process.kill(Number(keeper), "SIGKILL")
      while (lives(Number(keeper))) await Bun.sleep(10)
      // While its last threads end, the killed process's socket still takes connections, which then break.
      let first = await sh(get(`registry.local:${allowed.port}/`))
      while (first.code === 125 && first.stderr.includes("try again"))
        first = await sh(get(`registry.local:${allowed.port}/`))
      expect(first).toMatchObject({ code: 0, stderr: "" })
      expect(netProcesses(home)).toEqual([before!])
      await home.must(["network", "update", "--deny", "registry.local", "box"])
      expect((await sh(get(`registry.local:${allowed.port}/`))).stdout).toBe("")
      await home.must(["network", "update", "--replace", "--allow", "registry.local", "--add-host", entry, "box"])
      // The new keeper has its own copy of the card's end.
      process.kill(before!, "SIGKILL")
      expect((await sh(get(`registry.local:${allowed.port}/`))).stdout).toContain("hello")
    })

    itOnHost("get and lose published ports while they run", async () => {
      const said = async (at: string) => {
        // The service may not listen yet: then the connection is reset.
        for (;;) {
          const text = await fetch(at)
            .then((answer) => answer.text())
            .catch(() => "")
          if (text !== "") return text
        }
      }
      await sh("mkdir -p /www && echo from inside > /www/index.html && busybox httpd -p 127.0.0.1:7100 -h /www")
      const at = (await home.must(["port", "add", "box", "7100"])).trim()
      expect(await said(`http://${at}/`)).toBe("from inside\n")
      expect(await home.must(["port", "ls", "box"])).toBe(`${at}->7100\n`)
      const more = await home.http("POST", "/v1/sandboxes/box/ports", { guest_port: 7100 })
      expect(more).toMatchObject({ status: 201, body: { guest_port: 7100, host_ip: "127.0.0.1" } })
      expect(await said(`http://127.0.0.1:${more.body.host_port}/`)).toBe("from inside\n")
      await home.must(["port", "rm", "box", `${at.split(":")[1]}:7100`])
      expect(await home.must(["port", "ls", "box"])).toBe(`127.0.0.1:${more.body.host_port}->7100\n`)
      expect((await home.http("DELETE", "/v1/sandboxes/box/ports/7100")).status).toBe(204)
      expect((await home.bunker(["port", "rm", "box", "7100"])).stderr).toContain("publishes no such port")
    })

    itOnHost("leave the image's resolver alone: it is there again without them", async () => {
      expect((await sh("cat /etc/resolv.conf")).stdout).toBe("nameserver 192.0.0.1\n")
      await home.must(["stop", "box"])
      // It has a moment for its last words.
      while (netProcesses(home).length > 0) await Bun.sleep(10)
      const file = path.join(home.directory, "sandboxes/box/config.toml")
      const text = fs.readFileSync(file, "utf8")
      expect(text).toContain("[network]")
      fs.writeFileSync(file, text.replace(/\[network\][\s\S]*?(?=\n\[(?!network)|$)/, ""))
      await home.must(["start", "box"])
      expect((await sh("cat /etc/resolv.conf")).stdout).toBe("")
      const { code, stderr } = await home.bunker(["network", "update", "--allow", "a.example", "box"])
      expect({ code, said: stderr.includes("running without a network") }).toEqual({ code: 125, said: true })
    })
  })
})
