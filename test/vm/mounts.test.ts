/** Directories of the host in a sandbox: on the host under qemu, in the KVM lab under krun. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { engine, type Home, program } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const skipped = mustSkip("mounts of sandboxes")
const suite = describe.skipIf(skipped)
const timeoutMs = 240_000
const it = Object.assign((name: string, body: () => Promise<void>) => test(name, body, timeoutMs), {
  skipIf: (skip: boolean) => (name: string, body: () => Promise<void>) => test.skipIf(skip)(name, body, timeoutMs)
})

const { itOnHost } = vmCases(timeoutMs)

const image = "test/busybox:1"

suite(`mounts (${engine})`, () => {
  let home: Home
  let files: string
  /** A path in the shared directories. */
  const at = (...parts: ReadonlyArray<string>) => path.join(files, ...parts)
  const text = (...parts: ReadonlyArray<string>) => fs.readFileSync(at(...parts), "utf8")

  beforeAll(async () => {
    home = await busyboxHome()
    files = fs.mkdtempSync("/tmp/bk-mounts-")
    for (const name of ["read", "write", "inner"]) fs.mkdirSync(at(name))
    fs.writeFileSync(at("read", "file"), "of the host\n")
    fs.writeFileSync(at("outside"), "secret\n")
    fs.writeFileSync(at("single"), "one file\n")
    fs.writeFileSync(at("inner", "deep"), "deeper\n")
    fs.symlinkSync(at("outside"), at("read", "absolute"))
    fs.symlinkSync("../outside", at("read", "relative"))
    await home.must([
      ...["create", "--name", "m", "-v", `${at("read")}:/data:ro`, "-v", `${at("write")}:/write`],
      ...["-v", `${at("single")}:/etc/single:ro`, "-v", `${at("inner")}:/data/sub/inner`, "-v", `${files}:/all:ro`],
      ...["--tmpfs", "/scratch:size=8m", image]
    ])
    fs.mkdirSync(at("read", "sub", "inner"), { recursive: true })
    await home.must(["start", "m"])
  }, timeoutMs)

  afterAll(async () => {
    await home.dispose()
    fs.rmSync(files, { recursive: true, force: true })
  }, timeoutMs)

  const sh = (script: string) => home.bunker(["exec", "m", "sh", "-c", script])

  it("shows directories, single files and mounts in mounts, made where the image has no such place", async () => {
    const { stdout, stderr } = await sh("cat /data/file /etc/single /data/sub/inner/deep && ls /scratch")
    expect({ stdout, stderr }).toEqual({ stdout: "of the host\none file\ndeeper\n", stderr: "" })
  })

  it("writes where it may, and the host sees it", async () => {
    const { code, stderr } = await sh("echo new > /write/file && mkdir /write/d && echo two > /data/sub/inner/deep")
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" })
    expect([text("write", "file"), text("inner", "deep")]).toEqual(["new\n", "two\n"])
    expect(fs.statSync(at("write", "d")).isDirectory()).toBe(true)
    fs.writeFileSync(at("write", "file"), "by the host, longer\n")
    // What the guest has seen of a file may be five seconds old.
    const script = "for i in 1 2 3 4 5 6 7 8 9; do grep longer /write/file && exit; sleep 1; done"
    expect((await sh(script)).stdout).toBe("by the host, longer\n")
  })

  it("refuses writes to read-only mounts on the host, whatever root mounts in the guest", async () => {
    const before = [text("read", "file"), text("single")]
    const tries = [
      "echo x > /data/file",
      "echo x > /data/new",
      "rm /data/file",
      "chmod 777 /data/file",
      "mount -o remount,rw /data; echo x > /data/file",
      "mount -o remount,bind,rw /data; echo x > /data/new",
      "mount -o remount,bind,rw /etc/single; echo x > /etc/single",
      // Every file system of the device once more, as the guest's root may.
      "mkdir -p /m; mount -t virtiofs -o rw bunker /m; for f in /m/file /m/0/file /m/0/new /m/2 /m/new; do echo x > $f; done",
      "mount --bind /data /m; mount -o remount,bind,rw /m; echo x > /m/file; echo x > /m/new",
      "umount -l /data; mount -t virtiofs bunker /data; echo x > /data/file; echo x > /data/0/file"
    ]
    // Which of the device's file systems a second mount shows is the kernel's choice: a writable one is no way into the others.
    const { stderr } = await sh(tries.join("\n"))
    expect(stderr.match(/Read-only/g)?.length).toBeGreaterThanOrEqual(8)
    expect([text("read", "file"), text("single")]).toEqual(before)
    expect(fs.readdirSync(at("read")).sort()).toEqual(["absolute", "file", "relative", "sub"])
    expect(fs.readdirSync(files).sort()).toEqual(["inner", "outside", "read", "single", "write"])
  })

  it("follows links inside the guest only", async () => {
    // All was mounted at /all, too, but that is not where the links lead to.
    const { stdout, code } = await sh("cat /all/read/absolute /all/inner/../../outside")
    expect({ stdout, failed: code !== 0 }).toEqual({ stdout: "", failed: true })
    expect((await sh("cat /all/read/relative; cat /data/relative")).stdout).toBe("secret\n")
  })

  it("makes neither devices nor programs with rights of their own on the host", async () => {
    const script = "mknod /write/null c 1 3; grep -c ' /write virtiofs .*nosuid,nodev' /proc/mounts"
    expect(await sh(script)).toMatchObject({ stdout: "1\n", stderr: expect.stringContaining("not permitted") })
    expect(fs.readdirSync(at("write"))).not.toContain("null")
  })

  it("gives a tmpfs its size", async () => {
    const { stdout } = await sh("dd if=/dev/zero of=/scratch/f bs=1M count=9 2>&1; stat -c %a /scratch")
    expect(stdout).toMatch(/No space left(.|\n)*1777/)
  })

  it("hides Bunker's own home in a share that contains it", async () => {
    const parent = path.dirname(home.directory)
    const name = path.basename(home.directory)
    fs.mkdirSync(path.join(parent, `${name}-beside`))
    const script = `ls -a /host/${name}; ls -d /host/${name}-beside`
    const { stdout, stderr } = await home.bunker(["run", "-q", "-v", `${parent}:/host`, image, "sh", "-c", script])
    fs.rmdirSync(path.join(parent, `${name}-beside`))
    expect({ stdout, stderr }).toEqual({ stdout: `.\n..\n/host/${name}-beside\n`, stderr: "" })
  })

  itOnHost("hides it by whatever path a bind mount shows it", async () => {
    if (process.getuid?.() !== 0) return
    const place = at("bound")
    for (const name of ["home", "part"]) fs.mkdirSync(path.join(place, name), { recursive: true })
    const mounted = (...words: ReadonlyArray<string>) => {
      const bind = `mount --bind ${home.directory} ${place}/home && mount --bind ${home.directory}/cache ${place}/part`
      const command = ["unshare", "-m", "sh", "-c", `${bind} && exec "$@"`, "sh", program, ...words]
      const child = Bun.spawnSync(command, { env: home.environment(), stdout: "pipe", stderr: "pipe" })
      return { code: child.exitCode, stdout: String(child.stdout), stderr: String(child.stderr) }
    }
    for (const source of [`${place}/home`, `${place}/home/sandboxes`, `${place}/part/layers`]) {
      const { code, stderr } = mounted("create", "--name", "refused", "-v", `${source}:/data`, image)
      expect({ source, code, stderr }).toEqual({ source, code: 125, stderr: expect.stringContaining("own records") })
    }
    const shown = mounted("run", "-q", "-v", `${place}:/host`, image, "sh", "-c", "ls -A /host /host/home /host/part")
    expect(shown).toMatchObject({ code: 0, stdout: "/host:\nhome\npart\n\n/host/home:\n\n/host/part:\n" })
  })

  it.skipIf(engine !== "krun")(
    "leaves the process that serves a hostile kernel nothing but what it shares",
    async () => {
      const [info] = JSON.parse(await home.must(["inspect", "m"]))
      const root = `/proc/${info.pid}/root`
      expect(fs.readdirSync(root).sort()).toEqual(["dev", "proc", "shares", "tmp"])
      expect(fs.readdirSync(`${root}/dev`)).toEqual(["kvm"])
      expect(fs.existsSync(`${root}${home.directory}/bunker.db`)).toBe(false)
      // CAP_SYS_CHROOT is gone.
      const rights = /CapEff:\s*([0-9a-f]+)/.exec(fs.readFileSync(`/proc/${info.pid}/status`, "utf8"))![1]!
      expect(BigInt(`0x${rights}`) & (1n << 18n)).toBe(0n)
    }
  )

  it("leaves no helper behind when the VM is killed", async () => {
    const [info] = JSON.parse(await home.must(["inspect", "m"]))
    const children = () =>
      fs.readdirSync("/proc").filter((pid) => {
        if (!/^\d+$/.test(pid)) return false
        try {
          return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(path.join(home.directory, "run"))
        } catch {
          return false
        }
      })
    expect(children().length).toBeGreaterThanOrEqual(engine === "qemu" ? 2 : 0)
    process.kill(info.pid, "SIGKILL")
    for (let tries = 0; tries < 100 && children().length > 0; tries += 1) await Bun.sleep(50)
    expect(children()).toEqual([])
  })

  it("says at the start which path is gone", async () => {
    fs.rmSync(at("single"))
    for (let tries = 0; tries < 100 && (await home.must(["ps", "-q"])) !== ""; tries += 1) await Bun.sleep(50)
    const { code, stderr } = await home.bunker(["start", "m"])
    expect({ code, stderr }).toEqual({ code: 125, stderr: expect.stringContaining(at("single")) })
    expect(stderr.trim().split("\n")).toHaveLength(1)
  })

  itOnHost("refuses what can not be mounted, before anything is made", async () => {
    const refused = async (flags: ReadonlyArray<string>, ...words: ReadonlyArray<string>) => {
      const { code, stdout, stderr } = await home.bunker(["create", "--name", "refused", ...flags, image])
      expect({ flags, code, stdout }).toEqual({ flags, code: 125, stdout: "" })
      for (const word of words) expect(stderr).toContain(word)
      expect(stderr.trim().split("\n")).toHaveLength(1)
    }
    await refused(["-v", "/no/such/place:/data"], "/no/such/place", "does not exist")
    await refused(["-v", "data:/data"], "named volumes", "./data:/data")
    await refused(["-v", "/tmp"], "HOST:GUEST")
    await refused(["-v", "/tmp:data"], "absolute")
    await refused(["-v", "/tmp:/data:rx"], "rx")
    await refused(["-v", "/tmp:/a/../b"], "-v")
    await refused(["-v", "/dev/null:/data"], "neither a directory nor a file")
    for (const target of ["/", "/proc", "/proc/x", "/dev", "/sys/fs"]) await refused(["-v", `/tmp:${target}`], target)
    await refused(["-v", "/tmp:/data", "-v", "/etc:/data/"], "two mounts", "/data")
    await refused(["-v", "/tmp:/data", "--tmpfs", "/data"], "two mounts", "/data")
    await refused(["--tmpfs", "scratch"], "/path")
    await refused(["--tmpfs", "/scratch:rw"], "size=64m")
    await refused(["-v", `${home.directory}:/data`], home.directory, "records")
    await refused(["-v", `${home.directory}/cache:/data:ro`], "records")
    const link = at("write", "to-home")
    fs.symlinkSync(home.directory, link)
    await refused(["-v", `${link}:/data`], "records")
    expect(await home.must(["ps", "-a", "-q"])).toBe("m\n")
  })
})
