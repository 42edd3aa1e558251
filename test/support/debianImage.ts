/** Makes a root file system, as a tar, out of the files of Debian packages that are installed on this machine, with all they depend on. */
import fs from "node:fs"
import path from "node:path"

/** A field in dpkg-query's words. */
const field = (name: string): string => `$\{${name}}`

/** True where each of the packages is installed, so that its files are here. */
export const haveDebianPackages = (names: ReadonlyArray<string>): boolean => {
  if (Bun.which("dpkg-query") === null) return false
  const { stdout } = Bun.spawnSync(["dpkg-query", "-W", "-f", `${field("db:Status-Abbrev")}\n`, ...names])
  return (
    stdout
      .toString()
      .split("\n")
      .filter((line) => line.startsWith("ii")).length >= names.length
  )
}

const ask = (format: string, ...names: ReadonlyArray<string>): ReadonlyArray<string> =>
  Bun.spawnSync(["dpkg-query", "-W", "-f", format, ...names])
    .stdout.toString()
    .split("\n")

/** The packages and all that they need, by what dpkg has recorded of those that are installed. */
const closure = (names: ReadonlyArray<string>): ReadonlyArray<string> => {
  const provided = new Map<string, string>()
  const needs = new Map<string, ReadonlyArray<string>>()
  const format = `${["db:Status-Abbrev", "Package", "Provides", "Depends"].map(field).join("\t")},${field("Pre-Depends")}\n`
  for (const line of ask(format)) {
    const [status = "", name = "", provides = "", depends = ""] = line.split("\t")
    if (!status.startsWith("ii")) continue
    for (const each of provides.split(",")) provided.set(each.trim().split(/[ (]/)[0]!, name)
    needs.set(
      name,
      depends
        .split(",")
        .flatMap((alternatives) => alternatives.split("|").map((each) => each.trim().split(/[ (:]/)[0]!))
    )
  }
  const found = new Set<string>()
  const visit = (name: string): void => {
    const real = needs.has(name) ? name : provided.get(name)
    if (real === undefined || found.has(real)) return
    found.add(real)
    for (const each of needs.get(real) ?? []) visit(each)
  }
  for (const name of names) visit(name)
  return [...found]
}

const left =
  /^\/usr\/share\/(doc|man|locale|info|lintian|bash-completion|i18n)\/|^\/etc\/apt\/apt\.conf\.d\/|^\/usr\/lib\/x86_64-linux-gnu\/(gconv|perl\/)/

/** Writes the tar, and a dpkg database that knows these packages. Extra packages that nothing names are not taken. */
export const debianRootfs = async (directory: string, names: ReadonlyArray<string>): Promise<string> => {
  const packages = closure(names)
  const files = new Set<string>()
  for (const line of Bun.spawnSync(["dpkg-query", "-L", ...packages])
    .stdout.toString()
    .split("\n")) {
    if (!line.startsWith("/") || line === "/." || left.test(line)) continue
    // Where /bin is a link, the file is below /usr.
    const parent = fs.existsSync(path.dirname(line)) ? fs.realpathSync(path.dirname(line)) : undefined
    const real = parent === undefined ? line : path.join(parent, path.basename(line))
    const stat = fs.lstatSync(real, { throwIfNoEntry: false })
    if (stat !== undefined && !stat.isDirectory()) files.add(real.slice(1))
  }
  for (const link of ["bin", "sbin", "lib", "lib64"]) if (fs.lstatSync(`/${link}`).isSymbolicLink()) files.add(link)
  // What is made when packages are configured.
  for (const made of [
    "etc/passwd",
    "etc/group",
    "etc/ld.so.cache",
    "usr/bin/python3",
    "etc/ssl/certs/ca-certificates.crt"
  ]) {
    if (fs.existsSync(`/${made}`)) files.add(made)
  }
  const own = path.join(directory, "own")
  for (const made of [
    "var/lib/dpkg/updates",
    "var/lib/dpkg/info",
    "var/lib/apt/lists/partial",
    "var/cache/apt/archives/partial",
    "var/log/apt",
    "tmp",
    "root",
    "dev",
    "proc",
    "sys",
    "etc/apt/apt.conf.d",
    "etc/apt/preferences.d"
  ]) {
    fs.mkdirSync(path.join(own, made), { recursive: true })
  }
  const status = Bun.spawnSync(["dpkg-query", "-s", ...packages]).stdout.toString()
  fs.writeFileSync(path.join(own, "var/lib/dpkg/status"), `${status}\n`)
  const list = path.join(directory, "files")
  fs.writeFileSync(list, [...files].join("\0"))
  const tar = path.join(directory, "rootfs.tar")
  const run = async (...words: ReadonlyArray<string>) => {
    const child = Bun.spawn(["tar", "--owner=0", "--group=0", "--numeric-owner", ...words], { stderr: "pipe" })
    const said = await new Response(child.stderr).text()
    if ((await child.exited) !== 0) throw new Error(`tar: ${said}`)
  }
  await run("-C", "/", "-cf", tar, "--null", "--no-recursion", "-T", list)
  await run("-C", own, "-rf", tar, ".")
  return tar
}
