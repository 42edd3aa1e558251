/** Builds what a checkout runs: the guest agent, then the one binary `dist/bunker` with the agent in it. Takes `--if-stale`. */
import fs from "node:fs"
import path from "node:path"

const root = path.join(import.meta.dirname, "..")
const binary = path.join(root, "dist/bunker")

const run = async (command: ReadonlyArray<string>): Promise<void> => {
  const child = Bun.spawn([...command], { cwd: root, stdio: ["ignore", "inherit", "inherit"] })
  if ((await child.exited) !== 0) {
    console.error(`build: ${command.join(" ")} failed`)
    process.exit(1)
  }
}

const newestBelow = (directory: string): number =>
  fs
    .readdirSync(path.join(root, directory), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.parentPath.includes("guest/build"))
    .reduce((newest, entry) => Math.max(newest, fs.statSync(path.join(entry.parentPath, entry.name)).mtimeMs), 0)

const built = fs.statSync(binary, { throwIfNoEntry: false })?.mtimeMs ?? 0
const newest = Math.max(
  ...["src", "guest", "migrations"].map(newestBelow),
  fs.statSync(path.join(root, "package.json")).mtimeMs
)
if (process.argv.includes("--if-stale") && built > newest) process.exit(0)

await run(["sh", "guest/build.sh"])
fs.mkdirSync(path.join(root, "dist"), { recursive: true })
// Built aside and renamed: a running bunker keeps its file, and nobody starts half of one.
const aside = `${binary}.${process.pid}`
const result = await Bun.build({
  entrypoints: [path.join(root, "src/cli/compiled.ts")],
  compile: { outfile: aside },
  minify: true,
  bytecode: true,
  format: "esm",
  target: "bun"
})
if (!result.success) {
  for (const log of result.logs) console.error(String(log))
  process.exit(1)
}
fs.renameSync(aside, binary)
