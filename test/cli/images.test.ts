import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Effect, Exit, Scope } from "effect"
import { Home, program } from "../support/bunker.ts"
import { type Fault, startFaultProxy } from "../support/faultProxy.ts"
import { archiveOf, file, imageOf, layoutFiles, savedFiles } from "../support/image.ts"
import { first, layoutOf, noise, problemsIn, second } from "../support/imageStore.ts"
import { hasRegistryTools, startRegistry } from "../support/registry.ts"

setDefaultTimeout(60_000)

const built = existsSync(program)
if (!built) console.log(`skipped: tests of the program, since there is no ${program}; run 'bun run build'`)

const scope = Scope.makeUnsafe()
const within = <A>(effect: Effect.Effect<A, never, Scope.Scope>) => Effect.runPromise(Scope.provide(effect, scope))
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

const homes: Array<Home> = []
const newHome = (): Home => {
  const home = new Home()
  homes.push(home)
  return home
}
afterAll(() => {
  for (const home of homes) rmSync(home.directory, { recursive: true, force: true })
})

/** What is wrong in a home, but for lock files of what is not there: a prune takes those. */
const problems = (home: Home) => problemsIn(home.directory).filter((problem) => !problem.startsWith("locks/"))

const archiveFile = (home: Home, bytes: Uint8Array): string => {
  const place = path.join(home.directory, "..", `${path.basename(home.directory)}.tar`)
  writeFileSync(place, bytes)
  process.on("exit", () => rmSync(place, { force: true }))
  return place
}
const both = archiveOf(
  layoutFiles([
    { ...layoutOf(first), name: "test/first:1" },
    { ...layoutOf(second), name: "test/second:1" }
  ])
)

describe.skipIf(!built)("images without a registry", () => {
  test("load, list, inspect, df, rm and prune speak to people and to programs", async () => {
    const home = newHome()
    const archive = archiveFile(home, both)
    const load = await home.bunker(["load", archive])
    expect(load).toMatchObject({ code: 0, stdout: "test/first:1\ntest/second:1\n" })
    expect(load.stderr).toContain("test/first:1: 3 layer(s)")
    expect(load.stderr).toContain(": already here")
    expect(load.stderr).not.toContain("\x1b")

    expect(await home.bunker(["load", "-q", archive])).toEqual({
      code: 0,
      stdout: "test/first:1\ntest/second:1\n",
      stderr: ""
    })
    const events = (await home.must(["load", "--json", archive]))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    expect(events.map((event) => event._tag).filter((tag) => tag === "Done")).toHaveLength(2)

    const listed = JSON.parse(await home.must(["images", "--json"]))
    expect(listed).toHaveLength(2)
    expect(await home.must(["images", "-q"])).toBe("test/second:1\ntest/first:1\n")
    expect(await home.must(["images"])).toMatch(/^IMAGE +DIGEST +PLATFORM +LAYERS +SIZE +PULLED\n/)

    const [inspected] = JSON.parse(await home.must(["image", "inspect", "test/first:1"]))
    expect(inspected).toMatchObject({
      config: { env: ["A=b"] },
      layers: [{ position: 0 }, { position: 1 }, { position: 2 }]
    })
    const usage = JSON.parse(await home.must(["df", "--json"]))
    expect(usage).toMatchObject({ images: { count: 2 }, layers: { count: 4 }, temporary: { count: 0 } })
    expect(await home.must(["df"])).toMatch(/^WHAT +COUNT +SIZE\nimages +2 /)

    expect(JSON.parse(await home.must(["image", "rm", "--json", "test/first:1"]))).toMatchObject({ layers_removed: 2 })
    const rehearsed = await home.must(["image", "prune", "--dry-run", "--json"])
    expect(await home.must(["images", "-q"])).toBe("test/second:1\n")
    expect(await home.must(["image", "prune", "--dry-run"])).toMatch(/^would remove 1 image and 2 layers and free \d/)
    const pruned = await home.must(["image", "prune", "--json"])
    expect(pruned).toBe(rehearsed)
    expect(JSON.parse(pruned)).toMatchObject({ image_refs_removed: 1, fsmeta_removed: 1, vmdk_removed: 1 })
    expect(await home.must(["image", "prune"])).toBe("0 images and 0 layers removed, 0 B freed\n")
    await home.must(["load", "-q", archive])
    expect(await home.must(["prune", "--dry-run"])).toMatch(/^would remove 2 images and 4 layers and free \d/)
    expect(JSON.parse(await home.must(["prune", "--json"]))).toMatchObject({
      sandboxes: { removed: 0 },
      images: { image_refs_removed: 2 }
    })
    expect(await home.must(["images", "--json"])).toBe("[]\n")
    expect(problems(home)).toEqual([])
  })

  test("save writes files and pipes, load reads them back; a terminal or a bad place is refused in one line", async () => {
    const home = newHome()
    await home.must(["load", "-q", archiveFile(home, both)])
    const file = path.join(home.directory, "saved.tar")
    expect((await home.bunker(["save", "-o", file, "test/first:1", "test/second:1"])).stderr).toMatch(
      /saved.tar: 2 image\(s\), \d/
    )
    const child = home.start(["save", "test/first:1", "test/second:1"])
    const piped = new Uint8Array(await new Response(child.stdout).arrayBuffer())
    expect(await child.exited).toBe(0)
    expect(Buffer.from(piped).equals(readFileSync(file))).toBe(true)
    const other = newHome()
    for (const args of [
      ["load", "-q"],
      ["load", "-q", "-"],
      ["load", "-q", "-i", "-"]
    ]) {
      expect(await other.bunker(args, { stdin: Bun.zstdCompressSync(piped) })).toEqual({
        code: 0,
        stdout: "test/first:1\ntest/second:1\n",
        stderr: ""
      })
    }
    expect(await other.must(["load", "-q", "-i", file])).toBe("test/first:1\ntest/second:1\n")
    expect(problems(other)).toEqual([])
    for (const [output, word] of [
      ["/nowhere/x.tar", "does not exist"],
      ["/dev/full", "no space left"],
      [home.directory, "is a directory"]
    ] as const) {
      const { code, stderr } = await home.bunker(["save", "-o", output, "test/first:1"])
      expect(code).toBe(125)
      expect(stderr).toMatch(/^bunker: [^\n]+\n$/)
      expect(stderr).toContain(word)
    }
    const gone = await home.bunker(["save", "-o", file, "nothing:1"])
    expect(gone).toMatchObject({ code: 125, stderr: expect.stringContaining("bunker pull nothing:1") })
    expect(readFileSync(file).length).toBe(piped.length)
    expect((await other.bunker(["load"], { stdin: "no archive" })).stderr).toMatch(/^bunker: what stdin gave can not/)
  })

  test("import makes an image of a directory or of a tar on stdin, and says what is wrong with others", async () => {
    const home = newHome()
    const root = path.join(home.directory, "root")
    mkdirSync(path.join(root, "bin"), { recursive: true })
    writeFileSync(path.join(root, "bin", "hello"), "hello")
    const args = ["-c", 'CMD ["/bin/hello"]', "--change", "ENV A=b"]
    expect(await home.must(["import", "-q", ...args, root, "mine:1"])).toBe("mine:1\n")
    const tar = Bun.spawnSync(["tar", "-C", root, "-c", "."]).stdout
    expect(await home.must(["import", "-q", "-", "mine:2"], { stdin: tar })).toBe("mine:2\n")
    const [inspected] = JSON.parse(await home.must(["image", "inspect", "mine:1"]))
    expect(inspected).toMatchObject({ config: { cmd: ["/bin/hello"], env: ["A=b"] }, layers: [{ position: 0 }] })
    const wrong = await home.bunker(["import", "-", "mine:3"], { stdin: "" })
    expect(wrong).toMatchObject({
      code: 125,
      stderr: expect.stringMatching(/^bunker: what stdin gave can not be imported: it is empty/)
    })
    const change = await home.bunker(["import", "-c", "RUN make", root, "mine:3"])
    expect(change).toMatchObject({ code: 125, stderr: expect.stringContaining("only CMD, ENTRYPOINT") })
    expect(problems(home)).toEqual([])
  })

  test("several tags of a docker save archive are all there", async () => {
    const home = newHome()
    const archive = archiveFile(home, Bun.gzipSync(new Uint8Array(archiveOf(savedFiles(first, ["one:1", "two:2"])))))
    expect(await home.must(["load", "-q", archive])).toBe("one:1\ntwo:2\n")
  })

  const page = path.join(tmpdir(), `bk-page-${process.pid}.html`)
  writeFileSync(page, `<html>${"x".repeat(600)}</html>`)
  afterAll(() => rmSync(page, { force: true }))
  const wrong: ReadonlyArray<readonly [ReadonlyArray<string>, string]> = [
    [["pull"], "image"],
    [["pull", "team/UPPER"], "not an image reference"],
    [["pull", "127.0.0.1:1/a/b"], "can not be reached"],
    [["pull", "--platform", "a/b/c/d", "alpine"], "not a platform"],
    [["pull", "--pull", "sometimes", "alpine"], "sometimes"],
    [["load"], "empty"],
    [["save"], "image"],
    [["save", "nothing"], "bunker pull nothing"],
    [["load", "/nowhere.tar"], "no such file"],
    [["load", page], "HTML"],
    [["load", "-t", "Not Valid", page], "not an image reference"],
    [["image", "inspect", "nothing"], "bunker images"],
    [["image", "rm", "nothing"], "bunker images"],
    [["image", "prune", "extra"], "extra"],
    [["images", "--colour"], "--colour"]
  ]
  for (const [args, word] of wrong)
    test(`bunker ${args.join(" ").replace(page, "PAGE")}: one line and 125`, async () => {
      const home = newHome()
      const { code, stdout, stderr } = await home.bunker(args)
      expect({ code, stdout }).toEqual({ code: 125, stdout: "" })
      expect(stderr).toMatch(/^bunker: [^\n]+\n$/)
      expect(stderr).toContain(word)
    })
})

describe.skipIf(!built || process.getuid?.() !== 0)("a home that can not be used", () => {
  /** The program where anybody may run it. */
  const place = mkdtempSync(path.join(tmpdir(), "bk-any-"))
  beforeAll(() => {
    chmodSync(place, 0o755)
    for (const part of ["", "-main"]) cpSync(`${program}${part}`, path.join(place, `bunker${part}`))
  })
  afterAll(() => rmSync(place, { recursive: true, force: true }))

  const asNobody = async (home: string, ...args: ReadonlyArray<string>) => {
    const command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", path.join(place, "bunker"), ...args]
    const child = Bun.spawn(command, {
      env: { PATH: "/usr/bin:/bin", HOME: "/", BUNKER_HOME: home },
      stdout: "pipe",
      stderr: "pipe"
    })
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    return { code: await child.exited, stdout, stderr }
  }

  for (const [what, make] of [
    ["whose parent is closed", (home: string) => path.join(home, "inner")],
    ["that is another's", (home: string) => home],
    [
      "that is another's and may be read",
      (home: string) => {
        chmodSync(home, 0o755)
        return home
      }
    ],
    [
      "whose cache is another's",
      (home: string) => {
        chmodSync(home, 0o777)
        mkdirSync(path.join(home, "cache"), { mode: 0o700 })
        return home
      }
    ]
  ] as const)
    test(`${what}: one line and 125`, async () => {
      const parent = mkdtempSync(path.join(place, "home-"))
      const { code, stdout, stderr } = await asNobody(make(parent), "images")
      expect({ code, stdout }).toEqual({ code: 125, stdout: "" })
      expect(stderr).toMatch(/^bunker: the home directory [^\n]+\n$/)
    })

  test("whose database is another's: one line and 125", async () => {
    const home = newHome()
    await home.must(["images"])
    Bun.spawnSync(["chown", "-R", "65534:65534", home.directory])
    Bun.spawnSync(["chown", "root:root", path.join(home.directory, "bunker.db")])
    const { code, stderr } = await asNobody(home.directory, "images")
    expect(code).toBe(125)
    expect(stderr).toMatch(/^bunker: the home directory [^\n]+\n$/)
  })
})

const big = imageOf([1, 2, 3, 4].map((seed) => [file(`noise-${seed}`, noise(2_000_000, seed))]))

describe.skipIf(!built || !hasRegistryTools)("images of a registry", () => {
  let registry: Effect.Success<ReturnType<typeof startRegistry>>
  beforeAll(async () => {
    registry = await within(startRegistry())
    await within(registry.push("team/big:1", layoutOf(big)))
    await within(registry.push("team/first:1", layoutOf(first)))
  })
  const proxied = async (rule: (path: string) => Fault | undefined) => {
    const proxy = await within(startFaultProxy(registry.host, (request) => rule(request.path)))
    return { ...proxy, image: `${proxy.host}/team/big:1` }
  }

  test("pull is quiet, plain or JSON, and knows what is here", async () => {
    const home = newHome()
    const image = `${registry.host}/team/first:1`
    const plain = await home.bunker(["pull", image])
    expect(plain).toMatchObject({ code: 0, stdout: `${image}\n` })
    expect(plain.stderr.split("\n").filter((line) => line.endsWith(": done"))).toHaveLength(3)
    expect(await home.bunker(["pull", "-q", image])).toEqual({ code: 0, stdout: `${image}\n`, stderr: "" })
    const json = await home.bunker(["pull", "--json", "--pull", "if-missing", image])
    expect(json.stderr).toBe("")
    expect(JSON.parse(json.stdout)).toMatchObject({ _tag: "Done", cached: true, image: { reference: image } })
  })

  test("a registry that does not have it: one line and 125", async () => {
    const { code, stdout, stderr } = await newHome().bunker(["pull", `${registry.host}/team/none:9`])
    expect({ code, stdout }).toEqual({ code: 125, stdout: "" })
    expect(stderr).toMatch(/^bunker: [^\n]+has no image[^\n]+\n$/)
  })

  test("Ctrl-C in the middle of a pull ends with 130, says nothing more and leaves nothing", async () => {
    const home = newHome()
    await home.must(["images"])
    const last = big.layers[3]!.descriptor.digest
    const proxy = await proxied((asked) => (asked.endsWith(last) ? { stallAfter: 100_000 } : undefined))
    const child = home.start(["pull", proxy.image])
    let stderr = ""
    for await (const chunk of child.stderr) {
      stderr += new TextDecoder().decode(chunk)
      if (stderr.split(": done").length === 4) child.kill("SIGINT")
    }
    expect(await child.exited).toBe(130)
    expect(await new Response(child.stdout).text()).toBe("")
    expect(
      stderr
        .trimEnd()
        .split("\n")
        .map((line) => line.replace(/[0-9a-f]{12}/, "X"))
    ).toEqual([expect.stringContaining("4 layer(s)"), "  layer X: done", "  layer X: done", "  layer X: done"])
    expect(problems(home)).toEqual([])
    expect(JSON.parse(await home.must(["df", "--json"]))).toMatchObject({
      layers: { count: 0 },
      temporary: { count: 0 }
    })
  })

  test("Ctrl-C at random moments ends with 130 or with the image, and leaves nothing half", async () => {
    const home = newHome()
    await home.must(["images"])
    const image = `${registry.host}/team/big:1`
    const seed = Date.now() % 1_000_000
    console.log(`seed ${seed}`)
    for (let round = 0; round < 8; round += 1) {
      const child = home.start(["pull", "--json", image])
      let out = ""
      let left = ((seed >> round) % 8) + 1
      for await (const chunk of child.stdout) {
        out += new TextDecoder().decode(chunk)
        left -= 1
        if (left === 0) child.kill("SIGINT")
      }
      const code = await child.exited
      const whole = out.includes('"_tag":"Done"')
      expect({ round, code }).toEqual({ round, code: whole && code === 0 ? 0 : 130 })
      expect(await new Response(child.stderr).text()).toBe("")
      expect(problems(home)).toEqual([])
      if (!whole) expect(JSON.parse(await home.must(["df", "--json"]))).toMatchObject({ layers: { count: 0 } })
      await home.bunker(["image", "rm", image])
    }
  })

  test("pulls killed at ten random moments leave what the next one makes whole", async () => {
    const home = newHome()
    const seed = Date.now() % 1_000_000
    console.log(`seed ${seed}`)
    let state = seed
    const random = () => (state = (state * 1_103_515_245 + 12_345) % 2_147_483_648) / 2_147_483_648
    const image = `${registry.host}/team/big:1`
    const began = performance.now()
    await newHome().must(["pull", "-q", image])
    const usual = performance.now() - began
    for (let round = 0; round < 10; round += 1) {
      const child = home.start(["pull", image])
      await Bun.sleep(random() * usual)
      child.kill("SIGKILL")
      await child.exited
    }
    await home.must(["pull", "-q", image])
    expect(problems(home)).toEqual([])
    await home.must(["image", "prune"])
    expect(problemsIn(home.directory)).toEqual([])
  })
})
