/**
 * Says how the npm package starts its own processes, and where the package of native files has what is not JavaScript. In a program of
 * `bun build --compile`, where both are inside the executable, unpacks them once into the home directory.
 *
 * Invariant: a directory of unpacked files has its name only when all of them are in it.
 */
import fs from "node:fs"
import path from "node:path"
import { version } from "../../package.json"
import type { Settings } from "../domain/settings.ts"
import type { Program } from "../plugin/bunker.ts"

/** Paths of files by their names. */
type Files = Readonly<Record<string, string>>

/** What both packages have as files; `program.js` is the whole program as one module. */
const filesOf = async (): Promise<Files> => {
  const own = ((await import("./embedded.js")) as { readonly default: Files }).default
  try {
    const native = ((await import("bunker-sandbox-linux-x64")) as { readonly default: Files }).default
    return { ...native, ...own }
  } catch {
    // Optional, as npm has it: what needs a file of it says which package to install.
    return own
  }
}

/** Bundlers give paths relative to what they write, and names with digests. */
const absolute = (file: string): string => path.resolve(import.meta.dirname, file)
const isInPlace = ([name, file]: readonly [string, string]): boolean =>
  path.basename(file) === name && !file.startsWith("/$bunfs/") && path.isAbsolute(file)

/** Copies files to where a process can execute and load them; two processes at once make the same. */
const unpacked = (files: Files, home: string): string => {
  const digest = new Bun.CryptoHasher("sha256")
  for (const [name, file] of Object.entries(files)) {
    digest.update(`${name}\0${path.basename(file)}\0${fs.statSync(absolute(file)).size}\0`)
  }
  const directory = path.join(home, "cache", "native", `${version}-${digest.digest("hex").slice(0, 16)}`)
  if (fs.existsSync(directory)) return directory
  fs.mkdirSync(path.dirname(directory), { recursive: true, mode: 0o700 })
  const partial = fs.mkdtempSync(`${directory}.`)
  try {
    for (const [name, file] of Object.entries(files)) {
      const to = path.join(partial, name)
      fs.writeFileSync(to, fs.readFileSync(absolute(file)), { mode: 0o700 })
    }
    fs.renameSync(partial, directory)
  } catch (cause) {
    fs.rmSync(partial, { recursive: true, force: true })
    if (!fs.existsSync(directory)) throw cause
  }
  return directory
}

/** Bun as a process of its own: settings and modules of the directory it is started in are not read. */
const bun = (): ReadonlyArray<string> => {
  const plain = ["--no-env-file", "--config=/dev/null"]
  const isCompiled = import.meta.dirname.startsWith("/$bunfs")
  // A compiled program runs other files than its own only when it is told to be Bun.
  return isCompiled || process.env["BUN_BE_BUN"] !== undefined
    ? ["/usr/bin/env", "BUN_BE_BUN=1", process.execPath, ...plain]
    : [process.execPath, ...plain]
}

/** The program, and settings that name the directory of native files. */
export const programOf = async (settings: Settings): Promise<readonly [Program, Settings]> => {
  const files = await filesOf()
  const native = Object.entries(files).filter(([name]) => name !== "program.js")
  const isInstalled = Object.entries(files).every(isInPlace)
  const own = isInstalled ? path.dirname(native[0]?.[1] ?? import.meta.dirname) : unpacked(files, settings.home)
  const directory = settings.native ?? own
  const program = isInstalled ? files["program.js"]! : path.join(own, "program.js")
  return [
    {
      command: [...bun(), program],
      agentPath: path.join(directory, "agent"),
      mountHelperPath: path.join(directory, "mount-helper"),
      launcherPath: path.join(directory, "launcher")
    },
    // mke2fs of the system is taken first.
    { ...settings, native: directory, path: `${settings.path}:${directory}` }
  ]
}
