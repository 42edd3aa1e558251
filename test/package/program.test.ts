/** Takes the archive, the Debian package and the install script to places of the test's own, and runs the program there. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync
} from "node:fs"
import path from "node:path"
import { makePackages, Project, packageFile, packages } from "../support/packages.ts"
import { mustSkip } from "../support/requirements.ts"

const minutes = 60_000
const tools = ["zstd", "dpkg-deb"].filter((tool) => Bun.which(tool) === null).map((tool) => `${tool} (apt-get install)`)
const archive = packageFile("bunker-VERSION-linux-x64.tar.zst")

describe.skipIf(mustSkip("the packed program", tools))("the packed program", () => {
  let place: Project
  beforeAll(async () => {
    await makePackages()
    place = new Project()
  }, 10 * minutes)
  afterAll(() => place?.dispose())

  /** Runs a guest with a program, with nothing of this checkout in reach. */
  const boots = async (program: string) => {
    await place.must([program, "load", "-q", place.image()])
    return place.run([program, "run", "test/busybox:1", "--", "sh", "-c", "echo in a guest; exit 5"])
  }

  test(
    "runs from wherever the archive is unpacked",
    async () => {
      await place.must(["sh", "-c", `zstd -dcq "$0" | tar x`, archive])
      const name = path.basename(archive, ".tar.zst")
      renameSync(place.path(name), place.path("moved"))
      const { code, stdout, stderr } = await boots(place.path("moved/bin/bunker"))
      expect({ code, stdout, stderr }).toMatchObject({ code: 5, stdout: "in a guest\n" })
      expect(readFileSync(place.path("moved/share/man/man1/bunker.1"), "utf8")).toContain(".SH BUNKER RUN")
      expect(readFileSync(place.path("moved/share/bash-completion/completions/bunker"), "utf8")).toContain("bunker")
    },
    5 * minutes
  )

  test(
    "lies in the Debian package below /usr, owned by root",
    async () => {
      const deb = packageFile("bunker_VERSION_amd64.deb")
      const listed = await place.must(["dpkg-deb", "--contents", deb])
      expect(listed).toMatch(/-rwxr-xr-x root\/root .* \.\/usr\/lib\/bunker\/bunker-main$/m)
      expect(listed).toContain("./usr/bin/bunker -> ../lib/bunker/bunker")
      expect(await place.must(["dpkg-deb", "--field", deb, "Depends", "Recommends"])).toContain("qemu-system-x86")
    },
    2 * minutes
  )

  test(
    "is installed from a server by a script that can be undone",
    async () => {
      using server = Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        fetch: ({ url }) => new Response(Bun.file(path.join(packages, path.basename(new URL(url).pathname))))
      })
      const prefix = place.path("local")
      const script = place.path("install.sh")
      copyFileSync(path.join(packages, "install.sh"), script)
      const { code, stderr } = await place.run(["sh", script, "--from", server.url.origin, "--prefix", prefix])
      expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" })
      expect(await place.must([path.join(prefix, "bin/bunker"), "--version"])).toMatch(/^\d/)
      await place.must(["sh", "-c", /to undo it: (.*)/.exec(stderr)![1]!])
      const left = readdirSync(prefix, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory())
      expect(left.map((entry) => entry.name)).toEqual([])
    },
    3 * minutes
  )

  test(
    "is not installed when a byte of it is wrong",
    async () => {
      const spoilt = place.path("spoilt")
      mkdirSync(spoilt, { recursive: true })
      const bytes = readFileSync(archive)
      bytes[bytes.length >> 1]! ^= 1
      writeFileSync(path.join(spoilt, path.basename(archive)), bytes)
      copyFileSync(path.join(packages, "install.sh"), path.join(spoilt, "install.sh"))
      chmodSync(path.join(spoilt, "install.sh"), 0o755)
      const { code, stderr } = await place.run([path.join(spoilt, "install.sh"), "--prefix", place.path("none")])
      expect(code).toBe(1)
      expect(stderr).toContain("nothing was installed")
      expect(existsSync(place.path("none"))).toBe(false)
      rmSync(spoilt, { recursive: true })
    },
    minutes
  )
})
