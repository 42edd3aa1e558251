/** The packages of this checkout, made once for all suites that install them, and empty projects to install them into. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { busyboxArchive, busyboxPath } from "./busyboxImage.ts"

const root = path.join(import.meta.dir, "../..")
export const packages = path.join(root, "dist/packages")
const { version } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as { readonly version: string }

/** Path of what `bun run package` makes; the version is put in. */
export const packageFile = (name: string): string => path.join(packages, name.replace("VERSION", version))

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export const runIn = async (
  cwd: string,
  command: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {}
): Promise<Ran> => {
  const all: Readonly<Record<string, string>> = { PATH: process.env["PATH"] ?? "", HOME: cwd, ...env }
  const [program = "", ...rest] = command
  const child = Bun.spawn([Bun.which(program, { PATH: all["PATH"] ?? "" }) ?? program, ...rest], {
    cwd,
    env: all,
    stdio: ["ignore", "pipe", "pipe"]
  })
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return { code: await child.exited, stdout, stderr }
}

/** The same, and an error with everything that was said unless it succeeds. */
export const mustRun = async (...words: Parameters<typeof runIn>): Promise<string> => {
  const { code, stdout, stderr } = await runIn(...words)
  if (code !== 0) throw new Error(`${words[1].join(" ")} ended with ${code}: ${stdout}${stderr}`)
  return stdout
}

/** Makes the packages unless they are newer than every source; one process at a time, the others wait and find them made. */
export const makePackages = async (): Promise<void> => {
  mkdirSync(path.join(root, "dist"), { recursive: true })
  const script = `"$1" scripts/package/main.ts --if-stale`
  await mustRun(root, ["flock", "dist/.packages.lock", "sh", "-c", script, "sh", process.execPath], {
    HOME: process.env["HOME"] ?? "/"
  })
}

/** An empty project; `bun` and `bunx` in it are the Bun that runs the tests, whether or not the machine has one. */
export class Project {
  private readonly tools = mkdtempSync(path.join(tmpdir(), "bk-bun-"))
  readonly directory = mkdtempSync(path.join(tmpdir(), "bk-pkg-"))
  readonly home = path.join(this.directory, "h")
  private readonly env: Readonly<Record<string, string>>

  constructor() {
    for (const name of ["bun", "bunx"]) symlinkSync(process.execPath, path.join(this.tools, name))
    writeFileSync(path.join(this.directory, "package.json"), '{ "name": "empty", "private": true, "type": "module" }\n')
    this.env = {
      BUNKER_HOME: this.home,
      BUNKER_ENGINE: process.env["BUNKER_TEST_ENGINE"] ?? "qemu",
      // Nothing but the tarballs may be needed.
      npm_config_registry: "http://127.0.0.1:9/",
      BUN_CONFIG_REGISTRY: "http://127.0.0.1:9/",
      PATH: `${this.tools}:${process.env["PATH"] ?? ""}`
    }
  }

  path(...names: ReadonlyArray<string>): string {
    return path.join(this.directory, ...names)
  }

  write(name: string, text: string): void {
    mkdirSync(path.dirname(this.path(name)), { recursive: true })
    writeFileSync(this.path(name), text)
  }

  run(command: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}): Promise<Ran> {
    return runIn(this.directory, command, { ...this.env, ...env })
  }

  must(command: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}): Promise<string> {
    return mustRun(this.directory, command, { ...this.env, ...env })
  }

  /** Path of an archive with the busybox image, `test/busybox:1`. */
  image(): string {
    const file = this.path("image.tar")
    if (!existsSync(file)) writeFileSync(file, busyboxArchive(busyboxPath()!))
    return file
  }

  dispose(): void {
    for (const directory of [this.directory, this.tools]) rmSync(directory, { recursive: true, force: true })
  }
}
