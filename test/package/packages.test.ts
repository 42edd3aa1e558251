/** Installs the packed packages into empty projects, as somebody who has no clone does, with no registry to ask. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { makePackages, mustRun, Project, packageFile, packages } from "../support/packages.ts"
import { mustSkip } from "../support/requirements.ts"

const root = path.join(import.meta.dir, "../..")
const minutes = 60_000
const tarballs = () => [packageFile("bunker-sandbox-linux-x64-VERSION.tgz"), packageFile("bunker-sandbox-VERSION.tgz")]
const program = `import { Images, Sandbox } from "bunker-sandbox"
await new Images().load(process.argv[2])
await using box = await Sandbox.create({ image: "test/busybox:1", memoryMb: 256 })
const { stdout, exitCode } = await box.exec(["sh", "-c", "echo hi from $(uname -s); exit 7"])
await box.files.write("/root/note", "kept")
console.log(JSON.stringify({ stdout, exitCode, note: new TextDecoder().decode(await box.files.read("/root/note")) }))
`
const effectProgram = `import { Effect } from "effect"
import { layer, VmSupervisor } from "bunker-sandbox/effect"
import { definePlugin, type UserConfig } from "bunker-sandbox/plugin"
export const config: UserConfig = {}
const program = Effect.gen(function* () {
  const sandboxes = yield* VmSupervisor
  const found = sandboxes.Inspect({ name: "none" })
  return yield* found.pipe(Effect.as("found"), Effect.catchTag("SandboxNotFound", ({ sandbox }) => Effect.succeed(sandbox)))
})
const none: string = await Effect.runPromise(Effect.provide(program, layer()) as Effect.Effect<string, unknown>)
console.log(none, typeof definePlugin)
`
const resolutions = [
  ["esnext", "bundler"],
  ["nodenext", "nodenext"]
]
const strict = { strict: true, exactOptionalPropertyTypes: true, target: "esnext", noEmit: true }
const said = { stdout: "hi from Linux\n", exitCode: 7, note: "kept" }

let project: Project
beforeAll(async () => {
  await makePackages()
  project = new Project()
  await project.must(["bun", "add", ...tarballs()])
}, 10 * minutes)
afterAll(() => project?.dispose())

describe("the packed packages", () => {
  test(
    "have the same bytes when they are made again",
    async () => {
      const again = mkdtempSync(path.join(tmpdir(), "bk-again-"))
      try {
        await mustRun(root, [process.execPath, "scripts/package/main.ts", "--out", again], { HOME: "/" })
        expect(readFileSync(path.join(again, "SHA256SUMS"), "utf8")).toBe(
          readFileSync(path.join(packages, "SHA256SUMS"), "utf8")
        )
      } finally {
        rmSync(again, { recursive: true })
      }
    },
    10 * minutes
  )

  test("bring no TypeScript sources, no tests and no dependency besides the native files, and take little room", async () => {
    const files = readdirSync(project.path("node_modules/bunker-sandbox"), { recursive: true, encoding: "utf8" })
    expect(files.filter((file) => /\.test\.|(?<!\.d)\.ts$/.test(file))).toEqual([])
    const installed = readdirSync(project.path("node_modules")).filter((name) => !name.startsWith("."))
    expect(installed.sort()).toEqual(["bunker-sandbox", "bunker-sandbox-linux-x64"])
    const kilobytes = async (name: string) =>
      Number((await project.must(["du", "-sk", `node_modules/${name}`])).split("\t")[0])
    expect(await kilobytes("bunker-sandbox")).toBeLessThan(25_000)
    expect(await kilobytes("bunker-sandbox-linux-x64")).toBeLessThan(35_000)
  })

  test(
    "have declarations without an error, however strictly they are checked",
    async () => {
      project.write(
        "types.ts",
        `import { Sandbox, SandboxNotFound } from "bunker-sandbox"
const box = await Sandbox.create({ image: "alpine:3.20", memoryMb: 512 })
const { stdout, exitCode } = await box.exec(["sh", "-c", "echo hi"])
export const text: string = stdout
export const code: number = exitCode
// @ts-expect-error: a number
await Sandbox.create({ image: 1 })
try {
  await Sandbox.get("none")
} catch (error) {
  if (error instanceof SandboxNotFound) {
    const { sandbox, suggestion, _tag }: { sandbox: string; suggestion: string; _tag: "SandboxNotFound" } = error
    console.log(sandbox, suggestion, _tag)
  }
}
`
      )
      for (const [module, moduleResolution] of resolutions) {
        for (const skipLibCheck of [true, false]) {
          const compilerOptions = { ...strict, module, moduleResolution, skipLibCheck, types: [] }
          project.write("tsconfig.json", JSON.stringify({ compilerOptions, files: ["types.ts"] }))
          const tsc = path.join(root, "node_modules/typescript/bin/tsc")
          const { code, stdout } = await project.run([process.execPath, tsc])
          expect({ module, skipLibCheck, code, stdout }).toEqual({ module, skipLibCheck, code: 0, stdout: "" })
        }
      }
    },
    4 * minutes
  )

  test("share Effect's values with a program that has Effect", async () => {
    const other = new Project()
    try {
      await other.must(["bun", "add", ...tarballs()])
      mkdirSync(other.path("node_modules/@types"))
      for (const name of ["effect", "@types/bun"]) {
        symlinkSync(path.join(root, "node_modules", name), other.path("node_modules", name))
      }
      other.write("effect.ts", effectProgram)
      expect(await other.must(["bun", "effect.ts"])).toBe("none function\n")
      for (const [module, moduleResolution] of resolutions) {
        const compilerOptions = { ...strict, module, moduleResolution, skipLibCheck: false, types: ["bun"] }
        other.write("tsconfig.json", JSON.stringify({ compilerOptions, files: ["effect.ts"] }))
        const { code, stdout } = await other.run([process.execPath, path.join(root, "node_modules/typescript/bin/tsc")])
        expect({ module, code, stdout }).toEqual({ module, code: 0, stdout: "" })
      }
    } finally {
      other.dispose()
    }
  }, 240_000)

  test("say to another runtime what to do", async () => {
    project.write("node.mjs", 'import { Sandbox } from "bunker-sandbox"\nconsole.log(Sandbox)\n')
    const { code, stderr } = await project.run(["node", "node.mjs"])
    expect(code).toBe(1)
    expect(stderr).toContain("bunker-sandbox runs sandboxes in Bun, and this is another runtime")
    expect(stderr).toContain("bunker serve")
  })

  test("have a launcher that a glibc of 2018 loads", async () => {
    const file = project.path("node_modules/bunker-sandbox-linux-x64/native/launcher")
    const versions = [...readFileSync(file, "latin1").matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor))
    expect(Math.max(...versions)).toBeLessThanOrEqual(28)
  })
})

describe.skipIf(mustSkip("sandboxes of packed packages"))("the installed packages", () => {
  test(
    "run a program's sandbox, and leave nothing of it",
    async () => {
      project.write("program.ts", program)
      expect(JSON.parse(await project.must(["bun", "program.ts", project.image()]))).toEqual(said)
      expect(readdirSync(path.join(project.home, "sandboxes"))).toEqual([])
    },
    5 * minutes
  )

  test(
    "run commands by bunx",
    async () => {
      await project.must(["bunx", "bunker-sandbox", "load", "-q", project.image()])
      const { code, stdout, stderr } = await project.run([
        "bunx",
        "bunker-sandbox",
        "run",
        "test/busybox:1",
        "--",
        "sh",
        "-c",
        "echo out; exit 3"
      ])
      expect({ code, stdout, stderr }).toMatchObject({ code: 3, stdout: "out\n" })
    },
    5 * minutes
  )

  test(
    "go into an executable that needs nothing beside it",
    async () => {
      project.write("program.ts", program)
      await project.must(["bun", "build", "--compile", "program.ts", "--outfile", "app"])
      renameSync(project.path("node_modules"), project.path("aside"))
      try {
        const home = { BUNKER_HOME: project.path("h2") }
        expect(JSON.parse(await project.must(["./app", project.image()], home))).toEqual(said)
      } finally {
        renameSync(project.path("aside"), project.path("node_modules"))
        rmSync(project.path("app"), { force: true })
      }
    },
    5 * minutes
  )

  test(
    "are gone without a trace when they are removed",
    async () => {
      const other = new Project()
      try {
        await other.must(["bun", "add", ...tarballs()])
        await other.must(["bun", "remove", "bunker-sandbox", "bunker-sandbox-linux-x64"])
        expect(existsSync(other.path("node_modules/bunker-sandbox"))).toBe(false)
        expect(existsSync(other.home)).toBe(false)
      } finally {
        other.dispose()
      }
    },
    minutes
  )
})
