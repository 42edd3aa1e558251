/**
 * Builds what a checkout runs: the guest agent, then `dist/bunker-main` with the agent in it, then `dist/bunker`, which people start
 * and which becomes the other for most of what they ask (native/fastpath/README.md). With `--if-stale` only when a source is newer; with `--is-fresh` it builds nothing and ends with 1 when one is.
 */
import fs from "node:fs"
import path from "node:path"
import { lean } from "./lean.ts"

const root = path.join(import.meta.dirname, "..")
const binary = path.join(root, "dist/bunker")
const whole = path.join(root, "dist/bunker-main")

const run = async (command: ReadonlyArray<string>): Promise<void> => {
  const child = Bun.spawn([...command], { cwd: root, stdio: ["ignore", "inherit", "inherit"] })
  if ((await child.exited) !== 0) {
    console.error(`build: ${command.join(" ")} failed`)
    process.exit(1)
  }
}

/** Modification time of the newest file at or below a path, in milliseconds. */
const newest = (place: string): number => {
  const stat = fs.statSync(place)
  if (!stat.isDirectory()) return stat.mtimeMs
  const names = fs.readdirSync(place).filter((name) => name !== "build")
  return Math.max(0, ...names.map((name) => newest(path.join(place, name))))
}

// The same list as in ./bunker, which looks without starting Bun.
const sources = [
  "src",
  "native",
  "migrations",
  "scripts/build.ts",
  "scripts/lean.ts",
  "package.json",
  "package-lock.json"
]
const startedAt = new Date()
const builtAt = (file: string): number => fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0
const built = Math.min(builtAt(binary), builtAt(whole))
const fresh = built >= Math.max(...sources.map((source) => newest(path.join(root, source))))
if (process.argv.includes("--is-fresh")) process.exit(fresh ? 0 : 1)
if (process.argv.includes("--if-stale") && fresh) process.exit(0)

await run(["sh", "native/guest/build.sh"])
await run(["sh", "native/mount-helper/build.sh"])
await run(["sh", "native/launcher/build.sh"])
await run(["sh", "native/fastpath/build.sh"])
fs.mkdirSync(path.join(root, "dist"), { recursive: true })
// Built aside and renamed: a running bunker keeps its file, and nobody starts half of one.
const aside = `${whole}.${process.pid}`
const source = (name: string): string => path.join(root, `src/cli/${name}.ts`)
const build = async (options: Parameters<typeof Bun.build>[0]): Promise<void> => {
  const result = await Bun.build({ ...options, minify: true, format: "esm", target: "bun" })
  if (result.success) return
  for (const log of result.logs) console.error(String(log))
  process.exit(1)
}
// Bundled by itself first: whatever one entry point uses of a module, all of them would carry.
const plugins = `${aside}.plugins`
await build({ entrypoints: [source("compiledPlugins")], outdir: plugins })
await build({
  // The first loads the other when it is needed; what it imports dynamically is cut into modules of their own.
  entrypoints: [source("compiled"), path.join(plugins, "compiledPlugins.js")],
  naming: "[name].[ext]",
  splitting: true,
  plugins: [lean],
  compile: {
    outfile: aside,
    // Bun's habit of reading these from wherever it is started would run a stranger's code and take a stranger's settings.
    autoloadBunfig: false,
    autoloadDotenv: false,
    autoloadPackageJson: false,
    autoloadTsconfig: false
  },
  bytecode: true
})
fs.rmSync(plugins, { recursive: true })
// What changed during the build is newer than what was built.
fs.utimesSync(aside, startedAt, startedAt)
fs.renameSync(aside, whole)
fs.copyFileSync(path.join(root, "native/fastpath/build/fastpath"), aside)
fs.utimesSync(aside, startedAt, startedAt)
fs.renameSync(aside, binary)
