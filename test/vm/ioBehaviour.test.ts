/** Files, ports, limits and large streams of one sandbox, for both engines: on the host under qemu, in the KVM lab under krun. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import net from "node:net"
import path from "node:path"
import { engine, type Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { busybox, mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const skipped = mustSkip("files and ports of sandboxes")
const suite = describe.skipIf(skipped)

/** Megabytes of the large streams: the specification's number. */
const askedMegabytes = process.env["BUNKER_TEST_STREAM_MB"]
const streamMegabytes = Number(askedMegabytes ?? 100)
/** Of files that are copied, which the guest's processor hashes. */
const fileMegabytes = Number(askedMegabytes ?? (process.env["BUNKER_LAB"] === undefined ? 20 : 5))

const timeoutMs = 600_000
const { it, itOnHost } = vmCases(timeoutMs)

const image = "test/busybox:1"
const guestPort = 7000
const sha256 = (bytes: Uint8Array): string => new Bun.CryptoHasher("sha256").update(bytes).digest("hex")

const noise = (megabytes: number): Buffer => {
  const block = crypto.getRandomValues(new Uint8Array(65_536))
  const bytes = Buffer.alloc(megabytes * 1_000_000)
  for (let at = 0, index = 0; at < bytes.length; at += block.length, index += 1) {
    bytes.set(block.subarray(0, Math.min(block.length, bytes.length - at)), at)
    if (at + 4 <= bytes.length) bytes.writeUInt32LE(index, at)
  }
  return bytes
}

suite(`files and ports (${engine})`, () => {
  let home: Home
  let work: string

  beforeAll(async () => {
    home = await busyboxHome()
    work = path.join(home.directory, "work")
    fs.mkdirSync(work)
    await home.must(["create", "--name", "m", "-p", `0:${guestPort}`, "--rlimit", "nofile=300:400", image])
    await home.must(["start", "m"])
  }, timeoutMs)

  afterAll(() => home.dispose(), timeoutMs)

  const sh = (script: string, flags: ReadonlyArray<string> = []) =>
    home.bunker(["exec", ...flags, "m", "sh", "-c", script])

  describe("commands", () => {
    it("have the sandbox's limits, and their own over them", async () => {
      const show = "ulimit -Sn; ulimit -Hn; ulimit -Sc"
      expect((await sh(show, ["--rlimit", "core=0"])).stdout).toBe("300\n400\n0\n")
      expect((await sh("ulimit -Sn; ulimit -Hn", ["--rlimit", "nofile=5:6"])).stdout).toBe("5\n6\n")
    })

    it("end with 124 when their time is up, and nothing of them is left", async () => {
      expect((await sh("trap '' TERM; sleep 986 & sleep 986", ["--timeout", "1"])).code).toBe(124)
      expect((await sh("ps")).stdout).not.toContain("sleep 986")
    })

    // The lab does this with 5 MB in behaviour.test.ts.
    const itLarge = askedMegabytes === undefined ? itOnHost : it
    itLarge(`carry ${streamMegabytes} MB of stdin to the guest and of stdout back unchanged`, async () => {
      const input = noise(streamMegabytes)
      const child = home.start(["exec", "-i", "m", "cat"], { stdin: input })
      const hash = new Bun.CryptoHasher("sha256")
      let bytes = 0
      for await (const chunk of child.stdout) {
        hash.update(chunk)
        bytes += chunk.length
      }
      expect({ bytes, sha256: hash.digest("hex") }).toEqual({ bytes: input.length, sha256: sha256(input) })
    })
  })

  describe("cp", () => {
    const makeTree = (name: string): string => {
      const root = path.join(work, name)
      fs.mkdirSync(path.join(root, "sub"), { recursive: true })
      fs.writeFileSync(path.join(root, "sub/file"), "text", { mode: 0o640 })
      fs.linkSync(path.join(root, "sub/file"), path.join(root, "same"))
      fs.symlinkSync("sub/file", path.join(root, "link"))
      fs.writeFileSync(path.join(root, "ünï\n☃"), "odd")
      fs.utimesSync(path.join(root, "sub/file"), 1_000_000_000, 1_000_000_000)
      fs.chmodSync(path.join(root, "sub"), 0o711)
      return root
    }

    it("keeps modes, times and links in both directions", async () => {
      const source = makeTree("tree")
      await home.must(["cp", source, "m:/tmp/copied"])
      const seen = await sh(
        "cd /tmp/copied; stat -c '%a %h %Y %s' sub/file same; readlink link; stat -c %a sub; ls | wc -l"
      )
      expect(seen.stdout).toBe("640 2 1000000000 4\n640 2 1000000000 4\nsub/file\n711\n4\n")
      const back = path.join(work, "back")
      await home.must(["cp", "m:/tmp/copied", back])
      expect(fs.readdirSync(back).toSorted()).toEqual(fs.readdirSync(source).toSorted())
      const file = fs.statSync(path.join(back, "sub/file"))
      expect([file.mode & 0o7777, file.nlink, file.mtimeMs]).toEqual([0o640, 2, 1_000_000_000_000])
      expect(fs.readlinkSync(path.join(back, "link"))).toBe("sub/file")
      expect(fs.readFileSync(path.join(back, "ünï\n☃"), "utf8")).toBe("odd")
    })

    itOnHost("follows docker's habits: into a directory, as a new name, only what is inside", async () => {
      const source = makeTree("habits")
      await sh("mkdir /tmp/there")
      await home.must(["cp", source, "m:/tmp/there"])
      await home.must(["cp", `${source}/.`, "m:/tmp/there/inside"])
      await home.must(["cp", `${source}/.`, "m:/tmp/there"])
      await home.must(["cp", path.join(source, "same"), "m:/tmp/there/renamed"])
      await home.must(["cp", path.join(source, "same"), "m:/tmp/there/sub/"])
      expect((await sh("cd /tmp/there; ls -d habits/sub inside/sub sub/file renamed sub/same")).code).toBe(0)
      expect((await home.bunker(["cp", source, "m:/tmp/there/renamed"])).stderr).toContain("the source is a directory")
      expect((await home.bunker(["cp", path.join(source, "same"), "m:/tmp/nothing/"])).stderr).toContain(
        "no such directory"
      )
      expect((await home.bunker(["cp", path.join(source, "same"), "m:/nothing/x"])).stderr).toContain("/nothing")
      expect((await home.bunker(["cp", path.join(work, "absent"), "m:/tmp"])).stderr).toContain("no such file")
      expect((await home.bunker(["cp", "m:/absent", work])).stderr).toContain("/absent")
    })

    itOnHost("onto a symbolic link writes the file that it names, there or not, and leaves the link", async () => {
      const made = path.join(work, "made")
      fs.writeFileSync(made, "new")
      await sh(
        "mkdir -p /tmp/l/sub; cd /tmp/l; echo old > real; ln -s real one; ln -s /tmp/l/one two; ln -s sub/not dangling"
      )
      await sh("cd /tmp/l; ln -s loop loop; ln -s sub to-directory")
      for (const name of ["two", "dangling"]) await home.must(["cp", made, `m:/tmp/l/${name}`])
      await home.must(["cp", made, "m:/tmp/l/to-directory"])
      const seen = await sh("cd /tmp/l; cat real sub/not sub/made; readlink one; readlink two; readlink dangling")
      expect(seen.stdout).toBe("newnewnewreal\n/tmp/l/one\nsub/not\n")
      expect((await home.bunker(["cp", made, "m:/tmp/l/loop"])).code).toBe(125)
      // A link is copied as one, and then takes the place of what is there.
      fs.symlinkSync("elsewhere", path.join(work, "a-link"))
      await home.must(["cp", path.join(work, "a-link"), "m:/tmp/l/one"])
      expect((await sh("readlink /tmp/l/one; cat /tmp/l/real")).stdout).toBe("elsewhere\nnew")

      const here = path.join(work, "here")
      fs.mkdirSync(here)
      fs.writeFileSync(path.join(here, "real"), "old")
      fs.symlinkSync("real", path.join(here, "one"))
      fs.symlinkSync(path.join(here, "not"), path.join(here, "dangling"))
      for (const name of ["one", "dangling"]) await home.must(["cp", "m:/tmp/l/real", path.join(here, name)])
      expect(["real", "not"].map((name) => fs.readFileSync(path.join(here, name), "utf8"))).toEqual(["new", "new"])
      expect(fs.readlinkSync(path.join(here, "one"))).toBe("real")
    })

    itOnHost("of a device or pipe is refused, not a success that copied nothing", async () => {
      await sh("mkfifo /tmp/pipe")
      Bun.spawnSync([busybox!, "mkfifo", path.join(work, "pipe")])
      for (const [from, to] of [
        ["m:/tmp/pipe", work],
        ["m:/dev/null", "-"],
        [path.join(work, "pipe"), "m:/tmp"],
        ["/dev/null", "m:/tmp"]
      ] as const) {
        const { code, stderr, stdout } = await home.bunker(["cp", from, to])
        expect([code, stdout, stderr]).toEqual([
          125,
          "",
          expect.stringContaining("device, pipe or socket, which is not copied")
        ])
      }
    })

    itOnHost("pipes tar streams that other programs write and read", async () => {
      const source = makeTree("piped")
      const tar = Bun.spawnSync([busybox!, "tar", "cf", "-", "-C", source, "."]).stdout
      await sh("mkdir /tmp/untarred")
      await home.must(["cp", "-", "m:/tmp/untarred"], { stdin: tar })
      expect((await sh("cd /tmp/untarred; stat -c '%a %h' sub/file; readlink link; stat -c %a sub")).stdout).toBe(
        "640 2\nsub/file\n711\n"
      )
      const child = home.start(["cp", "m:/tmp/untarred", "-"])
      const out = await new Response(child.stdout).bytes()
      const unpacked = path.join(work, "unpacked")
      fs.mkdirSync(unpacked)
      const read = Bun.spawnSync([busybox!, "tar", "xf", "-", "-C", unpacked], { stdin: out })
      expect(read.exitCode).toBe(0)
      expect(fs.readFileSync(path.join(unpacked, "untarred/sub/file"), "utf8")).toBe("text")
      expect(fs.statSync(path.join(unpacked, "untarred/same")).nlink).toBe(2)
      expect((await home.bunker(["cp", "-", "m:/tmp/untarred"], { stdin: "not a tar" })).code).toBe(125)
    })

    itOnHost("never lets a guest write outside the destination", async () => {
      const outside = path.join(work, "outside")
      const inside = path.join(work, "inside")
      fs.mkdirSync(outside)
      fs.mkdirSync(inside)
      await sh(`mkdir /tmp/trap; ln -s ${outside} /tmp/trap/x`)
      await home.must(["cp", "m:/tmp/trap/.", inside])
      // What was a link is a directory now: through the link it would land outside.
      await sh("rm /tmp/trap/x; mkdir /tmp/trap/x; echo evil > /tmp/trap/x/file")
      expect((await home.bunker(["cp", "m:/tmp/trap/.", inside])).code).toBe(125)
      expect(fs.readdirSync(outside)).toEqual([])
      // Links of the guest lead around in the guest only.
      await sh("mkdir /tmp/target; ln -s /tmp/target /tmp/way")
      fs.writeFileSync(path.join(work, "one"), "1")
      await home.must(["cp", path.join(work, "one"), "m:/tmp/way"])
      expect((await sh("cat /tmp/target/one")).stdout).toBe("1")
    })

    it(`carries a file of ${fileMegabytes} MB both ways unchanged`, async () => {
      const bytes = noise(fileMegabytes)
      const [file, back] = [path.join(work, "large"), path.join(work, "large-back")]
      fs.writeFileSync(file, bytes)
      await home.must(["cp", file, "m:/root/large"])
      expect((await sh("sha256sum < /root/large")).stdout.split(" ")[0]).toBe(sha256(bytes))
      await home.must(["cp", "m:/root/large", back])
      expect(sha256(fs.readFileSync(back))).toBe(sha256(bytes))
      await sh("rm /root/large")
    })
  })

  describe("files over HTTP", () => {
    beforeAll(() => home.serve(), timeoutMs)

    const files = async (method: string, where: string, body?: Uint8Array | string) => {
      const answer = await fetch(`http://bunker/v1/sandboxes/${where}`, {
        method,
        unix: path.join(home.directory, "bunker.sock"),
        // Said of whatever it is: the body is the file.
        ...(body === undefined ? {} : { body, headers: { "content-type": "application/json" } })
      })
      const bytes = Buffer.from(await answer.arrayBuffer())
      // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every kind
      const json = (): any => JSON.parse(bytes.toString())
      return { status: answer.status, type: answer.headers.get("content-type"), bytes, json }
    }

    itOnHost("go in and out as they are, JSON and empty ones, too", async () => {
      expect((await files("POST", "m/files/mkdir?path=/tmp/http/deep")).status).toBeLessThan(300)
      const large = noise(3)
      for (const body of [large, Buffer.from('{"path":"/tmp/not-this"}'), Buffer.alloc(0)]) {
        expect((await files("PUT", "m/files?path=/tmp/http/file&mode=416", body)).status).toBeLessThan(300)
        const got = await files("GET", "m/files?path=/tmp/http/file")
        expect(got).toMatchObject({ status: 200, type: "application/octet-stream" })
        expect(sha256(got.bytes)).toBe(sha256(body))
      }
      const stat = (await files("GET", "m/files/stat?path=/tmp/http/file")).json()
      expect(stat).toMatchObject({
        name: "file",
        type: "file",
        size: 0,
        mode: 0o640,
        uid: 0,
        mtime_ms: expect.any(Number)
      })
      await files("PUT", `m/files?path=${encodeURIComponent("/tmp/http/ünï & ☃")}`, "odd")
      const listed = (await files("GET", "m/files/list?path=/tmp/http")).json()
      expect(listed.map((file: { name: string; type: string }) => [file.name, file.type]).sort()).toEqual([
        ["deep", "directory"],
        ["file", "file"],
        ["ünï & ☃", "file"]
      ])
    })

    itOnHost("are refused with a status and a code that say why", async () => {
      const code = async (method: string, where: string, body?: string) => {
        const { status, json } = await files(method, where, body)
        return [status, json().code]
      }
      await files("POST", "m/files/mkdir?path=/tmp/http/deep")
      expect(await code("GET", "m/files?path=/nowhere")).toEqual([404, "FileNotFound"])
      expect(await code("GET", "nobody/files?path=/etc")).toEqual([404, "SandboxNotFound"])
      expect(await code("GET", "m/files?path=etc/passwd")).toEqual([400, "InvalidInput"])
      expect(await code("GET", "m/files")).toEqual([400, "InvalidInput"])
      expect(await code("PUT", "m/files?path=/etc/passwd&mode=4096", "x")).toEqual([400, "InvalidInput"])
      expect((await code("GET", "m/files?path=/etc"))[1]).toBe("FileFailed")
      expect((await code("PUT", "m/files?path=/root/x&user=user", "x"))[1]).toBe("FileFailed")
      expect((await code("DELETE", "m/files?path=/tmp/http"))[1]).toBe("FileFailed")
      expect((await files("DELETE", "m/files?path=/tmp/http&recursive=true")).status).toBeLessThan(300)
      expect(await code("GET", "m/files/stat?path=/tmp/http")).toEqual([404, "FileNotFound"])
    })
  })

  describe("a published port", () => {
    const info = async () => JSON.parse(await home.must(["inspect", "m"]))[0]
    const hostPort = async (): Promise<number> => (await info()).ports[0].host_port

    /** Sends, says that it is done, and answers what came or how it broke. */
    const talk = async (port: number, send: Uint8Array): Promise<string> =>
      new Promise((resolve) => {
        const hash = new Bun.CryptoHasher("sha256")
        const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true })
        socket.on("data", (bytes) => void hash.update(bytes))
        socket.on("end", () => resolve(hash.digest("hex")))
        socket.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
        socket.end(send)
      })

    /** An echo for one connection after the other. */
    const echo = async () => {
      await sh(`nc -ll -p ${guestPort} -e cat </dev/null >/dev/null 2>&1 & sleep 0.5`)
      return hostPort()
    }

    it("is reset while nobody listens in the guest, then carries what a service says", async () => {
      expect(await talk(await hostPort(), Buffer.from("x"))).toBe("ECONNRESET")
      const port = await echo()
      const network = async () => {
        const [{ network_received, network_sent }] = JSON.parse(await home.must(["stats", "--json", "m"]))
        return { network_received, network_sent }
      }
      expect(await network()).toEqual({ network_received: 0, network_sent: 0 })
      const bytes = noise(2)
      expect(await talk(port, bytes)).toBe(sha256(bytes))
      const few = Array.from({ length: 5 }, (_, index) => Buffer.from(`connection ${index}`))
      expect(await Promise.all(few.map((each) => talk(port, each)))).toEqual(few.map(sha256))
      const carried = bytes.length + few.reduce((sum, each) => sum + each.length, 0)
      expect(await network()).toEqual({ network_received: carried, network_sent: carried })
      expect(await home.must(["ps"])).toContain(`127.0.0.1:${port}->${guestPort}`)
    })

    itOnHost("that is taken fails the create with the owner's name and leaves nothing", async () => {
      const port = await hostPort()
      const refused = await home.bunker(["create", "--name", "late", "-p", `${port}:80`, image])
      expect(refused).toMatchObject({ code: 125, stdout: "" })
      expect(refused.stderr).toContain('sandbox "m"')
      expect(await home.must(["ps", "-a", "-q"])).toBe("m\n")
      const server = net.createServer().listen(0, "127.0.0.1")
      await new Promise((resolve) => server.once("listening", resolve))
      const ours = (server.address() as net.AddressInfo).port
      const run = await home.bunker(["run", "-p", `${ours}:80`, image])
      expect(run).toMatchObject({ code: 125, stdout: "" })
      expect(run.stderr).toContain(`process ${process.pid} (`)
      expect(await home.must(["ps", "-a", "-q"])).toBe("m\n")
      server.close()
    })

    it("is there again, with its number, when another keeper has taken over", async () => {
      const port = await hostPort()
      const keeper = fs.readdirSync("/proc").find((pid) => /^\d+$/.test(pid) && isKeeperOf(pid, home.directory))!
      process.kill(Number(keeper), "SIGKILL")
      // One that is being killed still has its sockets for a moment.
      while (fs.existsSync(`/proc/${keeper}`)) await Bun.sleep(10)
      await home.must(["exec", "m", "true"])
      const bytes = Buffer.from("still there")
      expect(await hostPort()).toBe(port)
      expect(await talk(port, bytes)).toBe(sha256(bytes))
    })

    it("is free when the sandbox has stopped", async () => {
      const port = await hostPort()
      await home.must(["stop", "-t", "1", "m"])
      expect((await info()).ports).toBeUndefined()
      expect(await talk(port, Buffer.from("x"))).toBe("ECONNREFUSED")
    })
  })
})

const isKeeperOf = (pid: string, directory: string): boolean => {
  try {
    const command = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8")
    const environment = fs.readFileSync(`/proc/${pid}/environ`, "utf8")
    return command.includes("__keeper") && environment.includes(`BUNKER_HOME=${directory}\0`)
  } catch {
    return false
  }
}
