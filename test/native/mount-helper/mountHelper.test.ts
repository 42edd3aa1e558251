/** The program that mounts shares, run natively: what it mounts, what it refuses, as root and as anybody else. */
import { afterAll, describe, expect, test } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { engineOptions } from "../../support/vm.ts"

const stage = engineOptions.mountHelperPath
if (!fs.existsSync(stage))
  Bun.spawnSync(["sh", path.join(import.meta.dirname, "../../../native/mount-helper/build.sh")])
const runs = (...command: ReadonlyArray<string>) => Bun.spawnSync([...command], { stderr: "ignore" }).exitCode === 0
const asOther = process.getuid?.() === 0 ? ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"] : []
const allowed = fs.existsSync(stage) && runs(...asOther, "unshare", "-Urm", "true")
if (!allowed) console.warn("skipped: stage; missing: a C compiler, setpriv, or the right to make user namespaces")

const base = fs.mkdtempSync(path.join(os.tmpdir(), "bk-stage-"))
fs.chmodSync(base, 0o755)
afterAll(() => fs.rmSync(base, { recursive: true, force: true }))

const source = path.join(base, "source")
const directory = path.join(base, "place")
fs.mkdirSync(path.join(source, "home/deep"), { recursive: true })
fs.writeFileSync(path.join(source, "file"), "file\n")
fs.writeFileSync(path.join(source, "home/deep/secret"), "secret\n")
fs.mkdirSync(directory)

const identity = (file: string): ReadonlyArray<string> => {
  const { dev, ino } = fs.statSync(file, { bigint: true })
  return [String(dev), String(ino)]
}
const shared = (mode: "ro" | "rw", file: string) => ["--share", mode, ...identity(file), file]

/** As this user, or as nobody in particular when this one is root. */
const run = (words: ReadonlyArray<string>, script: string, unprivileged: boolean) => {
  const command = [...(unprivileged ? asOther : []), stage, directory, ...words, "--", "/bin/sh", "-c", script]
  const report = path.join(base, `report-${crypto.randomUUID()}`)
  const fd = fs.openSync(report, "w")
  // Descriptor 3 is where the runner's configuration would be.
  const child = Bun.spawnSync(command, { stdio: ["ignore", "pipe", "pipe", "ignore", fd], cwd: directory } as never)
  fs.closeSync(fd)
  return {
    code: child.exitCode,
    stdout: String(child.stdout),
    stderr: String(child.stderr),
    report: fs.readFileSync(report, "utf8")
  }
}

describe.skipIf(!allowed).each([false, true])("stage (unprivileged: %p)", (unprivileged) => {
  if (unprivileged && process.getuid?.() === 0) {
    fs.chmodSync(path.join(source), 0o777)
    fs.chownSync(directory, 1234, 1234)
  }

  test("mounts in a namespace of its own, with the flags asked for", () => {
    const file = path.join(source, "file")
    const { stdout, report } = run(
      [...shared("rw", source), ...shared("ro", file)],
      `cd ${directory}/shares; ls; cat 1; touch 0/made && rm 0/made && echo wrote; echo x >> 1; touch x; mknod 0/d c 1 3; grep -c CapEff:.*db /proc/self/status`,
      unprivileged
    )
    expect({ stdout, report }).toEqual({ stdout: "0\n1\nfile\nwrote\n1\n", report: "" })
    expect(fs.readFileSync(file, "utf8")).toBe("file\n")
    expect(fs.readdirSync(directory)).toEqual([])
    expect(fs.readFileSync("/proc/mounts", "utf8")).not.toContain(directory)
  })

  test("read-only reaches what is mounted below", () => {
    const { stdout, stderr } = run(
      [...shared("ro", "/dev")],
      `cd ${directory}/shares/0/shm && touch x || echo refused`,
      unprivileged
    )
    expect({ stdout, stderr }).toEqual({ stdout: "refused\n", stderr: expect.stringContaining("Read-only") })
  })

  test("hides a directory below a share", () => {
    const { stdout } = run(
      [...shared("rw", source), "--hide", "home/deep", "--hide", "not/there"],
      `cd ${directory}/shares/0; cat home/deep/secret; mv home/deep home/other; ls home; rmdir home/deep; ls home`,
      unprivileged
    )
    expect(stdout).toBe("deep\ndeep\n")
  })

  test("makes a root in which only what is kept is seen", () => {
    const { stdout } = run(
      ["--jail", "--keep", "ro", "/bin/busybox", "--keep", "ro", path.join(source, "file"), ...shared("ro", source)],
      `cd ${directory}; find . -xdev -type f | sort; ls proc/self; chroot . /bin/busybox cat ${source}/file; chroot . /bin/busybox ls shares/0/../../..`,
      unprivileged
    )
    const home = source.slice(1)
    expect(stdout).toBe(`./bin/busybox\n./${home}/file\nfd\nfile\nbin\nproc\nshares\ntmp\n`)
  })

  test("refuses a path that leads elsewhere by now, and says so in one line", () => {
    const link = path.join(base, `link-${unprivileged}`)
    fs.symlinkSync("/etc", link)
    for (const words of [
      ["--share", "ro", "1", "2", source],
      ["--share", "ro", ...identity("/etc"), link],
      ["--share", "ro", "1", "2", "/no/such/path"],
      [...shared("ro", source), "--hide", "/etc"],
      ["--hide", "home"],
      ["--else"]
    ]) {
      const { code, stdout, report } = run(words, "echo entered", unprivileged)
      expect({ words, code, stdout }).toEqual({ words, code: 125, stdout: "" })
      expect(JSON.parse(report)).toMatchObject({ event: "error" })
    }
  })
})
