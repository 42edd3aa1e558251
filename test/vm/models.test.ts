/** Models in real sandboxes: on the host under qemu, in the KVM lab under krun. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { engine, type Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const skipped = mustSkip("models in sandboxes")
const suite = describe.skipIf(skipped)
const timeoutMs = 240_000
const { it, itOnHost } = vmCases(timeoutMs)

const image = "test/busybox:1"

interface Manifest {
  readonly files: ReadonlyArray<{ readonly path: string; readonly sha256: string }>
}

suite(`models in sandboxes (${engine})`, () => {
  let home: Home
  let scratch: string

  beforeAll(async () => {
    home = await busyboxHome()
    scratch = fs.mkdtempSync("/tmp/bk-models-")
    for (const [version, text] of Object.entries({ one: "hello world", two: "another" })) {
      fs.mkdirSync(path.join(scratch, version, "sub"), { recursive: true })
      fs.writeFileSync(path.join(scratch, version, "weights.bin"), text.repeat(50_000))
      fs.writeFileSync(path.join(scratch, version, "sub", "config.json"), `"${version}"`)
    }
    await home.must(["model", "add", "tiny", "--source", `dir:${path.join(scratch, "one")}`])
  }, timeoutMs)

  afterAll(async () => {
    await home.dispose()
    fs.rmSync(scratch, { recursive: true, force: true })
  }, timeoutMs)

  const manifest = async (): Promise<Manifest> =>
    (JSON.parse(await home.must(["model", "status", "tiny", "--json"])) as { readonly manifest: Manifest }).manifest

  it("the first start fetches it; the guest reads what the manifest says, and can not write", async () => {
    const script =
      "cd /models/tiny; sha256sum weights.bin sub/config.json; echo x > new; echo x >> weights.bin; rm -f weights.bin; chmod 777 weights.bin; mv sub other; true"
    const { stdout, stderr, code } = await home.bunker(["run", "--model", "tiny", image, "--", "sh", "-c", script])
    expect({ code, stderr }).toMatchObject({ code: 0 })
    const { files } = await manifest()
    const sums = Object.fromEntries(files.map((file) => [file.path, file.sha256]))
    expect(stdout.trim().split("\n")).toEqual([
      `${sums["weights.bin"]}  weights.bin`,
      `${sums["sub/config.json"]}  sub/config.json`
    ])
    expect(stderr.match(/Read-only file system/g)?.length).toBe(5)
    expect(await home.must(["model", "status", "tiny", "--verify"])).toContain("installed")
  })

  itOnHost(
    "a policy of never refuses what is not here, another target is taken, what is no mount is refused",
    async () => {
      await home.must([
        "model",
        "add",
        "manual",
        "--source",
        `dir:${path.join(scratch, "one")}`,
        "--pull-policy",
        "never"
      ])
      const refused = await home.bunker(["run", "--model", "manual", image, "true"])
      expect({ code: refused.code, lines: refused.stderr.trim().split("\n").length }).toEqual({ code: 125, lines: 1 })
      expect(refused.stderr).toContain("bunker model pull manual")
      const unknown = await home.bunker(["run", "--model", "nobody", image, "true"])
      expect({ code: unknown.code, says: unknown.stderr.includes("nobody") }).toEqual({ code: 125, says: true })
      await home.must(["model", "pull", "manual"])
      expect(await home.must(["run", "--model", "manual:/m", image, "--", "cat", "/m/sub/config.json"])).toBe('"one"')
      for (const wrong of ["a b", "tiny:relative", "tiny:/a:ro"]) {
        expect((await home.bunker(["run", "--model", wrong, image, "true"])).stderr).toContain("--model")
      }
    }
  )

  it("a running sandbox keeps its files when a new revision comes; its model can not be removed", async () => {
    await home.must(["create", "--name", "box", "--model", "tiny", image])
    await home.must(["start", "box"])
    const read = () => home.must(["exec", "box", "--", "cat", "/models/tiny/sub/config.json"])
    expect(await read()).toBe('"one"')
    await home.must(["model", "pull", "tiny", "--from", path.join(scratch, "two")])
    expect(await read()).toBe('"one"')
    expect(fs.readFileSync(path.join(home.directory, "models/tiny/payload/sub/config.json"), "utf8")).toBe('"two"')
    const refused = await home.bunker(["model", "rm", "tiny"])
    expect({ code: refused.code, names: refused.stderr.includes("box") }).toEqual({ code: 125, names: true })
    await home.must(["model", "drop", "tiny"])
    expect(await read()).toBe('"one"')
    expect(await home.must(["model", "status", "tiny"])).toContain("missing")
    await home.must(["model", "pull", "tiny", "--from", path.join(scratch, "two")])
    await home.must(["kill", "box"])
    await home.must(["start", "box"])
    expect(await read()).toBe('"two"')
    await home.must(["rm", "-f", "box"])
    await home.must(["sweep"])
    expect(fs.readdirSync(path.join(home.directory, "models/.purge"))).toEqual([])
    await home.must(["model", "rm", "tiny"])
  })
})
