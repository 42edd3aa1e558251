/** A home on a disk with no byte left: what frees room works, and so does what tells the owner what there is. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Home } from "../support/bunker.ts"
import { loadBusybox } from "../support/busyboxImage.ts"
import { have, run } from "../support/mount.ts"
import { mustSkip } from "../support/requirements.ts"

setDefaultTimeout(120_000)

const skipped = mustSkip("a home on a full disk", [
  ...(process.getuid?.() === 0 && existsSync("/dev/loop-control") ? [] : ["root and loop devices"]),
  ...(have("mkfs.ext4") ? [] : ["mkfs.ext4"])
])
const image = "test/busybox:1"

describe.skipIf(skipped)("a full disk", () => {
  const place = mkdtempSync(path.join(tmpdir(), "bk-full-"))
  const disk = path.join(place, "d")
  const fill = path.join(disk, "fill")
  let home: Home

  beforeAll(async () => {
    run("truncate", "-s", "96M", path.join(place, "image"))
    run("mkfs.ext4", "-q", "-O", "^has_journal", path.join(place, "image"))
    mkdirSync(disk)
    run("mount", "-o", "loop", path.join(place, "image"), disk)
    home = new Home(path.join(disk, "h"))
    await loadBusybox(home)
    for (const name of ["a", "b"]) await home.must(["create", "--name", name, image])
  })
  afterAll(async () => {
    rmSync(fill, { force: true })
    await home.dispose()
    run("umount", "-l", disk)
    rmSync(place, { recursive: true, force: true })
  })
  const fillUp = () => void Bun.spawnSync(["dd", "if=/dev/zero", `of=${fill}`, "bs=1k"], { stderr: "ignore" })
  const reserved = () => statSync(path.join(home.directory, "reserve"), { throwIfNoEntry: false })?.size
  const names = async () => (await home.must(["ps", "-a", "-q"])).trim().split("\n").toSorted()

  test("lists, tells, stops and removes, as often as it is filled again; what it gave up comes back with the room", async () => {
    expect(reserved()).toBe(1024 * 1024)
    await home.must(["run", "-d", "--memory", "128m", "--name", "c", image, "sh", "-c", "while :; do sleep 0.1; done"])
    fillUp()
    expect(await names()).toEqual(["a", "b", "c"])
    await home.must(["stop", "-t", "5", "c"])
    const [stopped] = JSON.parse(await home.must(["inspect", "c"]))
    expect(stopped).toMatchObject({ status: "stopped", termination_reason: "shutdown_requested" })
    // Nobody has the database open by now: each command has to make room for its own shared memory.
    fillUp()
    expect(await names()).toEqual(["a", "b", "c"])
    fillUp()
    await home.must(["rm", "b"])
    expect(await names()).toEqual(["a", "c"])
    expect(reserved() ?? 0).toBeLessThan(1024 * 1024)
    rmSync(fill)
    await home.must(["ps"])
    expect(reserved()).toBe(1024 * 1024)
  })

  test("that takes all of it says so, and takes nothing for ever", async () => {
    const said: Array<string> = []
    for (let turn = 0; turn < 8; turn += 1) {
      fillUp()
      const { code, stderr } = await home.bunker(["ps"])
      said.push(code === 0 ? "ok" : stderr)
    }
    expect(reserved()).toBeUndefined()
    expect(said[0]).toBe("ok")
    expect(said.at(-1)).toMatch(/^bunker: no space left on the disk that holds .*\n$/)
    rmSync(fill)
    expect(await names()).toEqual(["a", "c"])
  })
})
