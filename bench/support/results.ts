/** Writes what a bench found to `bench/results/<name>-<date>.json`, with what it was measured on. */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"

const results = path.join(import.meta.dirname, "../results")
const root = path.join(import.meta.dirname, "../..")

const firstLine = (command: ReadonlyArray<string>): string | undefined => {
  try {
    const { stdout, exitCode } = Bun.spawnSync([...command], { cwd: root, stderr: "ignore" })
    return exitCode === 0 ? stdout.toString().split("\n", 1)[0] : undefined
  } catch {
    return undefined
  }
}

/** Machine and versions. */
export const environment = () => ({
  cpu: os.cpus()[0]?.model ?? "unknown",
  cpus: os.cpus().length,
  memoryMb: Math.round(os.totalmem() / 2 ** 20),
  kernel: os.release(),
  bun: Bun.version,
  qemu: firstLine(["qemu-system-x86_64", "--version"]),
  commit: firstLine(["git", "rev-parse", "--short", "HEAD"]),
  uncommittedChanges: firstLine(["git", "status", "--porcelain", "--untracked-files=no", "--", "src", "guest"]) !== ""
})

/** Answers the file's path. A second run of the same day replaces the first. */
export const writeResult = (name: string, content: object): string => {
  fs.mkdirSync(results, { recursive: true })
  const file = path.join(results, `${name}-${new Date().toISOString().slice(0, 10)}.json`)
  fs.writeFileSync(file, `${JSON.stringify({ bench: name, at: new Date().toISOString(), ...content }, undefined, 2)}\n`)
  return path.relative(root, file)
}
