/** Machines as files, through the compiled program: edited, copied, broken, without their database. Boots nothing. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"
import { archiveOf, directory, file, imageOf, layoutFiles } from "../support/image.ts"

if (!fs.existsSync(program)) console.warn("skipped: machines; missing: dist/bunker ('bun run build' makes it)")

describe.skipIf(!fs.existsSync(program))("machines", () => {
  let home: Home
  const image = "test/tiny:1"

  beforeAll(async () => {
    home = new Home()
    const { manifest, blobs } = imageOf([[directory("etc"), file("etc/hostname", "x")]])
    const archive = path.join(home.directory, "image.tar")
    fs.writeFileSync(archive, archiveOf(layoutFiles([{ name: image, top: manifest, blobs }])))
    await home.must(["load", archive])
  }, 60_000)
  afterAll(() => home.dispose())

  const definition = (name: string) => path.join(home.directory, "sandboxes", name, "config.toml")
  const inspect = async (name: string) => JSON.parse(await home.must(["inspect", name]))[0]
  const change = (name: string, edit: (text: string) => string) =>
    fs.writeFileSync(definition(name), edit(fs.readFileSync(definition(name), "utf8")))
  const refused = async (args: ReadonlyArray<string>, ...words: ReadonlyArray<string>) => {
    const { code, stderr } = await home.bunker(args)
    expect({ args, code, lines: stderr.trim().split("\n").length }).toEqual({ args, code: 125, lines: 1 })
    for (const word of words) expect(stderr).toContain(word)
  }

  test("are written with what they were created with", async () => {
    const flags =
      "--cpus 2 --memory 300 --disk 1536 -e A=1 -l team=web --restart on-failure:3 --max-duration 2h --idle-timeout 90s --session turn-1"
    await home.must(["create", "--name", "web", ...flags.split(" "), image, "sh", "-c", "exit 1"])
    const text = fs.readFileSync(definition("web"), "utf8")
    for (const line of [
      'state = "created"',
      "cpus = 2",
      "memory_mb = 300",
      "disk_gb = 1.5",
      'command = ["sh", "-c", "exit 1"]',
      'env = ["A=1"]',
      'restart = "on-failure:3"',
      'max_duration = "2h"',
      'idle_timeout = "1m30s"',
      'session = "turn-1"',
      '[labels]\nteam = "web"'
    ])
      expect(text).toContain(`\n${line}\n`)
    expect((await inspect("web")).config).toMatchObject({
      restart: { policy: "on-failure", attempts_max: 3 },
      max_duration_ms: 7_200_000,
      idle_timeout_ms: 90_000,
      session: "turn-1"
    })
  })

  test("are what their file says, from the next command on", async () => {
    change("web", (text) => `# by hand\n${text.replace("memory_mb = 300", "memory_mb = 600 # more")}`)
    expect((await inspect("web")).config.memory_mb).toBe(600)
    expect(fs.readFileSync(definition("web"), "utf8")).toStartWith("# by hand\n")
  })

  test("come back from their files when the database is gone", async () => {
    const before = await inspect("web")
    for (const name of fs.readdirSync(home.directory).filter((each) => each.startsWith("bunker.db")))
      fs.rmSync(path.join(home.directory, name))
    expect(await home.must(["ps", "-a", "-q"])).toBe("web\n")
    expect(await inspect("web")).toMatchObject({ vm_id: before.vm_id, config: before.config, status: "created" })
    await refused(["start", "web"], "bunker pull")
    await home.must(["load", path.join(home.directory, "image.tar")])
  })

  test("that were copied appear under the directory's name; the first look and doctor say so", async () => {
    fs.cpSync(path.dirname(definition("web")), path.dirname(definition("web2")), { recursive: true })
    const { stdout, stderr } = await home.bunker(["ps", "-a", "-q"])
    expect(stdout.trim().split("\n").toSorted()).toEqual(["web", "web2"])
    expect(stderr).toContain('it says the name "web"')
    expect((await inspect("web2")).vm_id).not.toBe((await inspect("web")).vm_id)
    await home.must(["rm", "web2"])
    expect(fs.existsSync(path.dirname(definition("web2")))).toBe(false)
  })

  test("whose file is broken are named by ps and doctor, refuse a start, and are not overwritten", async () => {
    const whole = fs.readFileSync(definition("web"), "utf8")
    change("web", (text) => text.replace("cpus = 2", "cpus = 0").concat('colour = "red"\n'))
    const broken = fs.readFileSync(definition("web"), "utf8")
    const line = broken.slice(0, broken.indexOf("cpus")).split("\n").length
    const place = `${definition("web")}:${line}: cpus`
    expect((await home.bunker(["ps"])).stderr).toContain(place)
    await refused(["start", "web"], place)
    await refused(["create", "--name", "web", image], "web")
    const found = JSON.parse(
      (await home.bunker(["doctor", "--json"], { env: { BUNKER_QEMU: "/none", BUNKER_LIBKRUN: "/none" } })).stdout
    )
    expect(found).toContainEqual(
      expect.objectContaining({ what: "sandbox web", state: "broken", detail: expect.stringContaining(place) })
    )
    expect(fs.readFileSync(definition("web"), "utf8")).toBe(broken)
    fs.writeFileSync(definition("web"), `${whole}[hooks]\npre = "x"\n`)
    const after = JSON.parse(
      (await home.bunker(["doctor", "--json"], { env: { BUNKER_QEMU: "/none", BUNKER_LIBKRUN: "/none" } })).stdout
    )
    expect(after).toContainEqual(
      expect.objectContaining({ what: "sandbox web", state: "warning", detail: expect.stringContaining("hooks") })
    )
  }, 60_000)

  test("that ask for what there is not are named by doctor and inspect; that no guest could boot by doctor and the start", async () => {
    const whole = fs.readFileSync(definition("web"), "utf8")
    const doctor = async () =>
      JSON.parse(
        (await home.bunker(["doctor", "--json"], { env: { BUNKER_QEMU: "/none", BUNKER_LIBKRUN: "/none" } })).stdout
      )
    const found = (state: string, words: string) =>
      expect.objectContaining({ what: "sandbox web", state, detail: expect.stringContaining(words) })
    const first = (lines: string) => fs.writeFileSync(definition("web"), `${lines}\n${whole}`)
    first('permissions = ["net:example.org"]\nkernel = ""')
    expect(await doctor()).toContainEqual(found("warning", "permissions has no effect"))
    expect((await inspect("web")).warnings).toEqual([expect.stringContaining("permissions has no effect")])
    first('permissions = []\nkernel = ""')
    expect(await doctor()).not.toContainEqual(found("warning", "no effect"))
    expect((await inspect("web")).warnings).toBeUndefined()
    const cases: ReadonlyArray<readonly [lines: string, word: string]> = [
      [`hostname = "${"h".repeat(65)}"`, "hostname"],
      ['ports = [{ host_ip = "", host_port = 0, guest_port = 80 }]', "IP address"],
      ['ports = [{ host_ip = "localhost", host_port = 0, guest_port = 80 }]', "localhost"],
      ['rlimits = [{ resource = "nofile", soft = 2, hard = 1 }]', "above the hard one"],
      ['workdir = "work"', "workdir"]
    ]
    for (const [lines, word] of cases) {
      first(lines)
      expect(await doctor()).toContainEqual(found("broken", word))
      await refused(["start", "web"], word)
    }
    first("ports = [{ host_port = 0, guest_port = 80 }]")
    expect((await inspect("web")).config.ports).toEqual([{ host_ip: "127.0.0.1", host_port: 0, guest_port: 80 }])
    fs.writeFileSync(definition("web"), whole)
  }, 60_000)

  test("that nothing but a broken file tells of are not found, and removed by force only", async () => {
    fs.mkdirSync(path.dirname(definition("lost")))
    fs.writeFileSync(definition("lost"), "name = ")
    await refused(["inspect", "lost"], `${definition("lost")}:1`, "bunker rm -f lost")
    await refused(["rm", "lost"], definition("lost"))
    await refused(["create", "--name", "lost", image], definition("lost"))
    await home.must(["rm", "-f", "lost"])
    expect(fs.existsSync(path.dirname(definition("lost")))).toBe(false)
  })

  test("are replaced only once the new one is known to be good", async () => {
    const { vm_id } = await inspect("web")
    await refused(["create", "--name", "web", "--replace", "--pull", "never", "no/such"], "no/such")
    await refused(["create", "--name", "web", "--replace", "-v", "/no/such:/x", image], "/no/such")
    expect((await inspect("web")).vm_id).toBe(vm_id)
    await home.must(["create", "--name", "web", "--replace", "-l", "tier=a=b", "-l", "team=x", image])
    expect((await inspect("web")).vm_id).not.toBe(vm_id)
  })

  test("are filtered by label, status, name and image", async () => {
    await home.must(["create", "--name", "other", "-l", "team=x", image])
    const shown = async (...filters: ReadonlyArray<string>) =>
      (await home.must(["ps", "-a", "-q", ...filters.flatMap((each) => ["--filter", each])]))
        .trim()
        .split("\n")
        .toSorted()
    expect(await shown("label=team")).toEqual(["other", "web"])
    expect(await shown("label=tier=a=b")).toEqual(["web"])
    expect(await shown("label=team=x", "label=tier")).toEqual(["web"])
    expect(await shown("name=oth", "name=we")).toEqual(["other", "web"])
    expect(await shown("status=running")).toEqual([""])
    expect(await shown("image=tiny", "label=team=y")).toEqual([""])
    await refused(["ps", "--filter", "colour=red"], "--filter", "label=KEY")
  })

  test("take no policies that make no sense", async () => {
    await refused(["create", "--restart", "sometimes", image], "--restart", "on-failure:3")
    await refused(["create", "--max-duration", "soon", image], "--max-duration", "90s")
    await refused(["create", "--idle-timeout", "0s", image], "--idle-timeout")
    await refused(["run", "-d", "--rm", "--restart", "always", image, "true"], "restart", "--rm")
    await refused(["run", "--name", "x", "--restart", "always", image, "true"], "--restart", "-d")
    await refused(["touch", "web"], "web", "created")
    for (const command of [["stop"], ["stop", "--drain"], ["stop", "-t", "1"]]) {
      const stderr = "bunker: web is not started yet; nothing to stop\n"
      expect(await home.bunker([...command, "web"])).toEqual({ code: 0, stdout: "web\n", stderr })
    }
    await refused(["kill", "web"], "nothing of it runs", "bunker start web", "bunker rm web")
  })
})
