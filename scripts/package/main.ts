/**
 * Makes what is published of one commit, in `dist/packages`: the npm package, the npm package of native files, the whole program as
 * archive and Debian package with a script that installs it, `SHA256SUMS`, and a list of what is inside (SPDX). The same commit and compiler give the same npm packages.
 *
 * Publishes nothing. Usage: bun run package [--if-stale] [--out DIRECTORY]
 */
import fs from "node:fs"
import path from "node:path"
import { type Native, nativeFiles } from "./native.ts"
import { npmPackage } from "./npm.ts"
import { pack, sha256, sourceDate } from "./pack.ts"
import { programArchives } from "./program.ts"
import { sbom } from "./sbom.ts"

const root = path.join(import.meta.dirname, "../..")
const words = process.argv.slice(2)
const out = words.includes("--out")
  ? path.resolve(words[words.indexOf("--out") + 1] ?? "")
  : path.join(root, "dist/packages")
// Below the checkout, whose packages the declarations refer to.
const work = path.join(root, `dist/.package.${process.pid}`)
const { version } = (await Bun.file(path.join(root, "package.json")).json()) as { readonly version: string }

const step = async <A>(what: string, make: () => A | Promise<A>): Promise<A> => {
  const begun = performance.now()
  const made = await make()
  console.error(`package: ${what} (${((performance.now() - begun) / 1000).toFixed(1)} s)`)
  return made
}

/** Modification time of the newest file at or below a path, in milliseconds. */
const newest = (place: string): number => {
  const stat = fs.statSync(place)
  if (!stat.isDirectory()) return stat.mtimeMs
  const names = fs.readdirSync(place).filter((name) => name !== "build")
  return Math.max(0, ...names.map((name) => newest(path.join(place, name))))
}

const sources = "src native migrations scripts/package package.json README.md CHANGELOG.md LICENSE".split(" ")
const builtAt = fs.statSync(path.join(out, "SHA256SUMS"), { throwIfNoEntry: false })?.mtimeMs ?? 0
const isFresh = builtAt >= Math.max(...sources.map((source) => newest(path.join(root, source))))
if (words.includes("--if-stale") && isFresh) process.exit(0)

fs.rmSync(out, { recursive: true, force: true })
fs.mkdirSync(out, { recursive: true })
const epoch = sourceDate(root)
const built: Native = await step("native files", () => nativeFiles(root, path.join(work, "native"), version))
await step("JavaScript and declarations", () => npmPackage(root, path.join(work, "npm"), version))
const tarballs = [
  pack(path.join(work, "npm"), "package", path.join(out, `bunker-sandbox-${version}.tgz`), epoch),
  pack(built.package, "package", path.join(out, `bunker-sandbox-linux-x64-${version}.tgz`), epoch)
]
tarballs.push(
  ...(await step("archive and Debian package", () => programArchives(root, work, built.package, out, version, epoch)))
)
const list = path.join(out, `bunker-${version}.spdx.json`)
fs.writeFileSync(list, sbom(root, version, epoch, tarballs))
fs.writeFileSync(
  path.join(out, "SHA256SUMS"),
  [...tarballs, list]
    .map((file) => `${sha256(file)}  ${path.basename(file)}\n`)
    .sort((left, right) => (left.slice(66) < right.slice(66) ? -1 : 1))
    .join("")
)
fs.rmSync(work, { recursive: true })
for (const file of [...tarballs, list, path.join(out, "SHA256SUMS")]) {
  console.log(`${(fs.statSync(file).size / 1e6).toFixed(1).padStart(6)} MB  ${path.relative(root, file)}`)
}
