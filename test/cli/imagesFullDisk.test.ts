/** A home on a disk that is too small, as a user meets it: a file system of its own on a loop device. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Effect, Exit, Scope } from "effect"
import { Home, program } from "../support/bunker.ts"
import { startFaultProxy } from "../support/faultProxy.ts"
import { file, imageOf } from "../support/image.ts"
import { first, layoutOf, noise, problemsIn } from "../support/imageStore.ts"
import { have, run } from "../support/mount.ts"
import { hasRegistryTools, startRegistry } from "../support/registry.ts"

setDefaultTimeout(60_000)

const missing = [
  ...(existsSync(program) ? [] : ["dist/bunker ('bun run build' makes it)"]),
  ...(hasRegistryTools ? [] : ["docker-registry and skopeo"]),
  ...(process.getuid?.() === 0 && existsSync("/dev/loop-control") ? [] : ["root and loop devices"]),
  ...(have("mkfs.ext4") ? [] : ["mkfs.ext4"])
]
if (missing.length > 0) console.warn(`skipped: a full disk; missing: ${missing.join(", ")}`)

const scope = Scope.makeUnsafe()
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))
const within = <A>(effect: Effect.Effect<A, never, Scope.Scope>) => Effect.runPromise(Scope.provide(effect, scope))

describe.skipIf(missing.length > 0)("a disk of 16 MiB", () => {
  const place = mkdtempSync(path.join(tmpdir(), "bk-disk-"))
  const disk = path.join(place, "d")
  const home = new Home()
  const BUNKER_HOME = path.join(disk, "h")
  const bunker = (...args: ReadonlyArray<string>) => home.bunker(args, { env: { BUNKER_HOME } })
  const large = imageOf([
    [file("a", noise(2_000_000, 1))],
    [file("b", noise(14_000_000, 2))],
    [file("c", noise(900_000, 3))]
  ])
  let host = ""
  let stalling = ""
  beforeAll(async () => {
    writeFileSync(path.join(place, "image"), Buffer.alloc(16 * 2 ** 20))
    run("mkfs.ext4", "-q", "-O", "^has_journal", path.join(place, "image"))
    mkdirSync(disk)
    run("mount", "-o", "loop", path.join(place, "image"), disk)
    const registry = await within(startRegistry())
    await within(registry.push("t/large:1", layoutOf(large)))
    await within(registry.push("t/first:1", layoutOf(first)))
    const slow = large.layers[2]!.descriptor.digest
    const proxy = await within(
      startFaultProxy(registry.host, (request) => (request.path.endsWith(slow) ? { stallAfter: 300_000 } : undefined))
    )
    host = registry.host
    stalling = proxy.host
  })
  afterAll(() => {
    run("umount", disk)
    rmSync(place, { recursive: true, force: true })
    rmSync(home.directory, { recursive: true, force: true })
  })

  test("an image that has no room is one line with the bytes that it needs, and leaves nothing", async () => {
    for (const from of [host, stalling]) {
      const { code, stderr, stdout } = await bunker("pull", `${from}/t/large:1`)
      expect({ code, stdout }).toEqual({ code: 125, stdout: "" })
      const last = stderr.trimEnd().split("\n").at(-1)!
      expect(last).toStartWith(`bunker: no space left on the disk that holds ${BUNKER_HOME} (at least 14`)
      expect(readdirSync(path.join(BUNKER_HOME, "cache/tmp"))).toEqual([])
      expect(readdirSync(path.join(BUNKER_HOME, "cache/layers"))).toEqual([])
    }
    expect((await bunker("pull", "-q", `${host}/t/first:1`)).code).toBe(0)
    const problems = problemsIn(BUNKER_HOME).filter((problem) => !problem.startsWith("locks/"))
    expect(problems).toEqual([])
  })

  test("with no byte left every command says so in one line, and goes on when there is room again", async () => {
    const fill = path.join(disk, "fill")
    Bun.spawnSync(["dd", "if=/dev/zero", `of=${fill}`, "bs=1k"], { stderr: "ignore" })
    for (const args of [
      ["images"],
      ["pull", `${host}/t/first:1`],
      ["image", "prune"],
      ["save", "-o", path.join(place, "x.tar"), `${host}/t/first:1`]
    ]) {
      const { code, stderr } = await bunker(...args)
      if (code === 0) continue
      expect(stderr.trimEnd().split("\n").at(-1)).toMatch(/^bunker: no space left on the disk that holds /)
      expect(stderr).not.toContain("internal")
    }
    rmSync(fill)
    expect((await bunker("images", "-q")).stdout).toBe(`${host}/t/first:1\n`)
    expect((await bunker("image", "prune")).stdout).toContain("1 image")
  })
})
