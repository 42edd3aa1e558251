/** What sandboxes are run for: package managers install through the network's rules, from mirrors that this test serves. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { engine, Home } from "../support/bunker.ts"
import { debianRootfs, haveDebianPackages } from "../support/debianImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const base = ["bash", "coreutils", "dash", "diffutils", "dpkg", "findutils", "grep", "libc-bin", "sed"]
const packages = [...base, "apt", "python3", "python3-pip", "curl", "git", "ca-certificates"]
const missing = haveDebianPackages(packages) ? [] : [`Debian's packages ${packages.join(", ")}`]
const suite = describe.skipIf(mustSkip("package managers in sandboxes", missing))
const timeoutMs = 900_000
const { it } = vmCases(timeoutMs)

const image = "test/debian:1"
const alias = () => `127.${[0, 0, 0].map(() => 1 + Math.floor(Math.random() * 250)).join(".")}`
const run = (cwd: string, ...command: ReadonlyArray<string>): void => {
  const { exitCode, stderr } = Bun.spawnSync([...command], { cwd, env: { ...process.env, HOME: cwd } })
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`)
}

/** A Debian archive with one package, an index of Python packages with one, and a git repository. */
const makeMirrors = (root: string): void => {
  const deb = path.join(root, "deb/hello")
  fs.mkdirSync(path.join(deb, "DEBIAN"), { recursive: true })
  fs.mkdirSync(path.join(deb, "usr/bin"), { recursive: true })
  fs.writeFileSync(path.join(deb, "usr/bin/bunker-hello"), "#!/bin/sh\necho installed by apt\n", { mode: 0o755 })
  const control =
    "Package: bunker-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: Test <test@example.com>\nDescription: says hello\n"
  fs.writeFileSync(path.join(deb, "DEBIAN/control"), control)
  run(path.join(root, "deb"), "dpkg-deb", "--root-owner-group", "-Zgzip", "-b", "hello", "bunker-hello_1.0_all.deb")
  const bytes = fs.readFileSync(path.join(root, "deb/bunker-hello_1.0_all.deb"))
  const sha256 = new Bun.CryptoHasher("sha256").update(bytes).digest("hex")
  fs.writeFileSync(
    path.join(root, "deb/Packages"),
    `${control}Filename: ./bunker-hello_1.0_all.deb\nSize: ${bytes.length}\nSHA256: ${sha256}\n`
  )
  const wheel = path.join(root, "pypi/simple/bunkerhello")
  fs.mkdirSync(wheel, { recursive: true })
  const name = "bunkerhello-1.0-py3-none-any.whl"
  const meta = "bunkerhello-1.0.dist-info"
  const script = `
import zipfile
with zipfile.ZipFile("${name}", "w") as z:
    z.writestr("bunkerhello.py", "print('installed by pip')\\n")
    z.writestr("${meta}/METADATA", "Metadata-Version: 2.1\\nName: bunkerhello\\nVersion: 1.0\\n")
    z.writestr("${meta}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    z.writestr("${meta}/RECORD", "bunkerhello.py,,\\n${meta}/METADATA,,\\n${meta}/WHEEL,,\\n${meta}/RECORD,,\\n")
`
  run(wheel, "/usr/bin/python3", "-c", script)
  fs.writeFileSync(path.join(wheel, "index.html"), `<a href="${name}">${name}</a>`)
  const source = path.join(root, "source")
  fs.mkdirSync(source)
  run(source, "git", "init", "-q", "-b", "main")
  fs.writeFileSync(path.join(source, "README"), "cloned by git\n")
  run(source, "git", "add", "README")
  run(source, "git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-q", "-m", "one")
  run(root, "git", "clone", "-q", "--bare", "source", "git/source.git")
  run(path.join(root, "git/source.git"), "git", "update-server-info")
}

suite(`package managers in sandboxes (${engine})`, () => {
  let home: Home
  let server: ReturnType<typeof Bun.serve>

  beforeAll(async () => {
    home = new Home()
    const work = path.join(home.directory, "work")
    fs.mkdirSync(work)
    makeMirrors(work)
    const tar = await debianRootfs(work, packages)
    await home.must(["import", "-q", "-c", "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", tar, image])
    fs.rmSync(tar)
    const places: Readonly<Record<string, string>> = {
      "deb.mirror.local": "deb",
      "pypi.mirror.local": "pypi",
      "git.local": "git"
    }
    server = Bun.serve({
      hostname: alias(),
      port: 0,
      fetch: (request) => {
        const { hostname, pathname } = new URL(request.url)
        const file = path.join(
          work,
          places[hostname] ?? "none",
          pathname.endsWith("/") ? `${pathname}index.html` : pathname
        )
        return fs.existsSync(file) ? new Response(Bun.file(file)) : new Response("", { status: 404 })
      }
    })
  }, timeoutMs)

  afterAll(async () => {
    await server?.stop(true)
    await home?.dispose()
  }, timeoutMs)

  it("apt, pip and git install by name rules, and curl of everything else fails with a line", async () => {
    const { hostname, port } = server
    const entries = ["deb.mirror.local", "pypi.mirror.local", "git.local"].flatMap((name) => [
      "--add-host",
      `${name}:${hostname}`
    ])
    const { code, stdout, stderr } = await home.bunker([
      ...["run", "-m", "1g", `--allow-net=*.mirror.local:${port},git.local`, ...entries, image, "bash", "-c"],
      [
        "set -e; export HOME=/root",
        `echo 'deb [trusted=yes] http://deb.mirror.local:${port} ./' > /etc/apt/sources.list`,
        "apt-get -o APT::Sandbox::User=root -o Acquire::Languages=none update",
        "apt-get -o APT::Sandbox::User=root install -y bunker-hello",
        "bunker-hello",
        `pip install --break-system-packages --no-cache-dir --no-compile --disable-pip-version-check --index-url http://pypi.mirror.local:${port}/simple/ --trusted-host pypi.mirror.local bunkerhello`,
        "python3 -c 'import bunkerhello'",
        `git clone -q http://git.local:${port}/source.git /root/source && cat /root/source/README`,
        "set +e",
        ...["other.example", "8.8.8.8", "169.254.169.254", "[2001:4860:4860::8888]"].map(
          (host) => `curl -sS http://${host}/; echo "curl ended with $?"`
        )
      ].join("\n")
    ])
    const said = `${stdout}${stderr}`
    expect({ code, said: code === 0 ? "" : said }).toEqual({ code: 0, said: "" })
    for (const word of ["installed by apt", "installed by pip", "cloned by git"]) expect(stdout).toContain(word)
    // 6: the name does not resolve; 7: refused.
    const ends = [...stdout.matchAll(/curl ended with (\d+)/g)].map(([, number]) => Number(number))
    expect(ends).toEqual([6, 7, 7, 7])
    // What the guest says without the end of a line may stand in front.
    const denied = [...stderr.matchAll(/bunker: network: denied (\S+): /g)].map(([, where]) => where)
    expect(denied).toEqual(["other.example", "8.8.8.8:80", "169.254.169.254:80", "[2001:4860:4860::8888]:80"])
  })
})
