/** Directories in and out of a sandbox: through the class, embedded and of a server, and as tar streams over plain HTTP. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import fs from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { CopyFailed, FileFailed, FileNotFound, Sandbox, type SandboxOptions } from "../../src/sdk/index.ts"
import { engine, Home } from "../support/bunker.ts"
import { loadBusybox } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { startServer, type TestServer } from "../support/server.ts"

describe.skipIf(mustSkip("trees of programs")).each(["embedded", "of a server"])("A sandbox %s", (door) => {
  const timeoutMs = 120_000
  const home = fs.mkdtempSync(path.join(tmpdir(), "bk-"))
  const work = fs.mkdtempSync(path.join(tmpdir(), "bk-work-"))
  const source = path.join(work, "tree")
  let server: TestServer | undefined
  let box: Sandbox

  beforeAll(async () => {
    await loadBusybox(new Home(home))
    let options: SandboxOptions = { home, image: "test/busybox:1", engine: engine as "qemu" }
    if (door !== "embedded") {
      server = await startServer(home, "unix")
      options = { image: options.image, engine: engine as "qemu", server: server.options }
    }
    fs.mkdirSync(path.join(source, "sub"), { recursive: true })
    fs.writeFileSync(path.join(source, "sub/file"), "text", { mode: 0o640 })
    fs.writeFileSync(path.join(source, "large"), crypto.getRandomValues(new Uint8Array(60_000)))
    fs.linkSync(path.join(source, "sub/file"), path.join(source, "same"))
    fs.symlinkSync("sub/file", path.join(source, "link"))
    fs.writeFileSync(path.join(source, "ünï\n☃"), "odd")
    // Whole seconds: Node sets times as a double, which is a few hundred nanoseconds off.
    for (const name of ["sub/file", "large", "ünï\n☃"]) fs.utimesSync(path.join(source, name), 1e9, 1e9)
    fs.chmodSync(path.join(source, "sub"), 0o711)
    box = await Sandbox.create({ ...options, name: "box" })
  }, timeoutMs)
  afterAll(async () => {
    await box.dispose()
    await server?.stop()
    for (const directory of [home, work]) fs.rmSync(directory, { recursive: true, force: true })
  }, timeoutMs)

  const describeTree = (root: string) =>
    fs
      .readdirSync(root, { recursive: true, encoding: "utf8" })
      .toSorted()
      .map((name) => {
        const stat = fs.lstatSync(path.join(root, name))
        const content = stat.isSymbolicLink()
          ? fs.readlinkSync(path.join(root, name))
          : stat.isFile()
            ? fs.readFileSync(path.join(root, name)).toString("base64")
            : ""
        return { name, mode: stat.mode, links: stat.nlink, content, mtime: stat.isFile() ? stat.mtimeMs : 0 }
      })
  const ask = (way: string, init: RequestInit = {}) =>
    fetch(`http://bunker/v1/sandboxes/box/tree?${way}`, { ...init, unix: server!.options.url.slice("unix:".length) })

  test(
    "takes a directory and gives it back as it was",
    async () => {
      expect(await box.files.copyIn(source, "/tmp/copied")).toEqual([])
      expect((await box.files.stat("/tmp/copied/sub/file")).mtimeMs).toBe(1_000_000_000_000)
      expect((await box.exec(["sh", "-c", "cat '/tmp/copied/link'; ls /tmp/copied | wc -l"])).stdout).toBe("text5\n")
      const back = path.join(work, "back")
      expect(await box.files.copyOut("/tmp/copied", back)).toEqual([])
      expect(describeTree(back)).toEqual(describeTree(source))
      // Into what is a directory; what is in it; one file.
      await box.files.copyIn(source, "/tmp/copied")
      expect((await box.files.list("/tmp/copied/tree")).length).toBe(5)
      await box.files.copyIn(path.join(source, "same"), "/tmp/one")
      expect(Buffer.from(await box.files.read("/tmp/one")).toString()).toBe("text")
      fs.mkdirSync(path.join(work, "into"))
      await box.files.copyOut("/tmp/copied/sub/.", path.join(work, "into"))
      expect(fs.readdirSync(path.join(work, "into"))).toEqual(["file"])
    },
    timeoutMs
  )

  test(
    "says what it left out, and fails with what is wrong",
    async () => {
      const odd = path.join(work, "odd")
      fs.mkdirSync(odd)
      expect(Bun.spawnSync(["mkfifo", path.join(odd, "pipe")]).exitCode).toBe(0)
      expect(await box.files.copyIn(odd, "/tmp/odd")).toEqual([expect.stringContaining("pipe")])
      await box.exec(["busybox", "mkfifo", "/tmp/odd/theirs"])
      expect(await box.files.copyOut("/tmp/odd", path.join(work, "odd-back"))).toEqual([
        expect.stringContaining("theirs")
      ])
      await expect(box.files.copyIn(path.join(work, "none"), "/tmp")).rejects.toBeInstanceOf(CopyFailed)
      await expect(box.files.copyOut("/none", work)).rejects.toBeInstanceOf(FileNotFound)
      await expect(box.files.copyOut("/tmp/odd", path.join(work, "no/such/place"))).rejects.toBeInstanceOf(CopyFailed)
      await expect(box.files.copyIn(source, "/root/x", { user: "user" })).rejects.toBeInstanceOf(FileFailed)
    },
    timeoutMs
  )

  test.skipIf(door === "embedded")(
    "is a tar stream over HTTP, both ways",
    async () => {
      const tar = Bun.spawnSync(["tar", "c", "--format=pax", "-C", source, "."])
      await box.files.mkdir("/tmp/tar")
      const put = await ask("path=/tmp/tar", { method: "PUT", body: tar.stdout })
      expect({ status: put.status, body: await put.json() }).toEqual({ status: 200, body: { skipped: [] } })
      const got = await ask("path=/tmp/tar")
      expect(got.headers.get("content-type")).toContain("application/x-tar")
      const back = path.join(work, "untarred")
      fs.mkdirSync(back)
      const unpacked = Bun.spawnSync(["tar", "x", "-p", "-C", back], { stdin: Buffer.from(await got.arrayBuffer()) })
      expect({ code: unpacked.exitCode, said: unpacked.stderr.toString() }).toEqual({ code: 0, said: "" })
      expect(describeTree(path.join(back, "tar"))).toEqual(describeTree(source))
      const refused = [
        [await ask("path=/none"), 404, "FileNotFound"],
        [await ask("path=/none", { method: "PUT", body: tar.stdout }), 404, "FileNotFound"],
        [await ask("path=/tmp/tar", { method: "PUT", body: "no tar" }), 422, "CopyFailed"],
        [await ask("path=relative"), 400, "InvalidInput"]
      ] as const
      for (const [answer, status, code] of refused) {
        expect({ status: answer.status, body: await answer.json() }).toMatchObject({ status, body: { code } })
      }
    },
    timeoutMs
  )
})
