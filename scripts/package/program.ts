/**
 * Makes the whole program as an archive that runs wherever it is unpacked, as a Debian package, and the script that installs the archive
 * into a home directory. All three have the same files: program, libraries, completions for shells, a manual page, licences.
 */
import fs from "node:fs"
import path from "node:path"
import { output, pack, sha256 } from "./pack.ts"

const architecture = { name: "linux-x64", debian: "amd64" } as const
const completions: Readonly<Record<string, string>> = {
  bash: "share/bash-completion/completions/bunker",
  zsh: "share/zsh/site-functions/_bunker",
  fish: "share/fish/vendor_completions.d/bunker.fish"
}

/** Text as roff takes it for what it is. */
const literal = (text: string): string =>
  Bun.stripANSI(text)
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^([.'])/gm, "\\&$1")
    .trim()

/** A manual page of what `--help` says, of the program and of each of its commands. */
const manual = (program: string, version: string, epoch: number): string => {
  const help = (...words: ReadonlyArray<string>): string => output([program, ...words, "--help"])
  const whole = help()
  const listed = whole.split(/^COMMANDS.*$|^SUBCOMMANDS.*$/m)[1] ?? ""
  const names = [...Bun.stripANSI(listed).matchAll(/^ {2}([a-z][a-z-]*)\b/gm)].map(([, name]) => name!)
  const date = new Date(epoch * 1000).toISOString().slice(0, 10)
  const section = (title: string, text: string): string => `.SH ${title}\n.nf\n${literal(text)}\n.fi\n`
  return [
    `.TH BUNKER 1 "${date}" "bunker ${version}" "User commands"\n`,
    ".SH NAME\nbunker \\- runs commands in microVMs\n",
    section("SYNOPSIS", "bunker COMMAND [OPTION...] [ARGUMENT...]"),
    section("DESCRIPTION", whole),
    ...[...new Set(names)].map((name) => section(`BUNKER ${name.toUpperCase()}`, help(name)))
  ].join("")
}

/** The files as below `/usr`; `program` is where the build put `bunker` and `bunker-main`. */
const lay = (root: string, native: string, tree: string, version: string, epoch: number): void => {
  const to = (file: string): string => {
    const place = path.join(tree, file)
    fs.mkdirSync(path.dirname(place), { recursive: true })
    return place
  }
  const program = path.join(root, "dist")
  for (const file of ["bunker", "bunker-main"]) fs.copyFileSync(path.join(program, file), to(`lib/bunker/${file}`))
  for (const file of ["libkrun.so.1.16.0", "libkrunfw.so.5", "mke2fs"]) {
    fs.copyFileSync(path.join(native, "native", file), to(`lib/bunker/${file}`))
  }
  fs.symlinkSync("../lib/bunker/bunker", to("bin/bunker"))
  for (const file of ["LICENSE", "README.md", "CHANGELOG.md"]) {
    fs.copyFileSync(path.join(root, file), to(`share/doc/bunker/${file}`))
  }
  fs.copyFileSync(path.join(native, "NOTICE"), to("share/doc/bunker/NOTICE"))
  const laid = path.join(tree, "lib/bunker/bunker")
  for (const [shell, file] of Object.entries(completions))
    fs.writeFileSync(to(file), output([laid, "completion", shell]))
  fs.writeFileSync(to("share/man/man1/bunker.1"), manual(laid, version, epoch))
}

const debianControl = (version: string, kilobytes: number): string =>
  [
    "Package: bunker",
    `Version: ${version}`,
    `Architecture: ${architecture.debian}`,
    "Maintainer: Bunker <bunker@bunker.invalid>",
    `Installed-Size: ${kilobytes}`,
    "Depends: libc6 (>= 2.28)",
    "Recommends: qemu-system-x86",
    "Section: admin",
    "Priority: optional",
    "Description: microVM sandboxes from OCI images",
    " Runs commands of an OCI image in a virtual machine with a kernel of its own,",
    " under KVM, or emulated by QEMU where KVM is missing. No daemon, no root.\n"
  ].join("\n")

/** Archive, Debian package where dpkg-deb is there, and install script. `native` is the npm package of native files. */
export const programArchives = (
  root: string,
  work: string,
  native: string,
  out: string,
  version: string,
  epoch: number
): ReadonlyArray<string> => {
  output([process.execPath, path.join(root, "scripts/build.ts"), "--if-stale"])
  const tree = path.join(work, "program")
  lay(root, native, tree, version, epoch)
  const name = `bunker-${version}-${architecture.name}`
  const archive = pack(tree, name, path.join(out, `${name}.tar.zst`), epoch)
  const installer = path.join(out, "install.sh")
  const script = fs
    .readFileSync(path.join(import.meta.dirname, "install.sh"), "utf8")
    .replace("@NAME@", name)
    .replace("@SHA256@", sha256(archive))
  fs.writeFileSync(installer, script, { mode: 0o755 })
  if (Bun.which("dpkg-deb") === null) {
    console.error("package: no dpkg-deb here, so no Debian package")
    return [archive, installer]
  }
  const debian = path.join(work, "debian")
  fs.mkdirSync(path.join(debian, "DEBIAN"), { recursive: true })
  fs.cpSync(tree, path.join(debian, "usr"), { recursive: true, verbatimSymlinks: true })
  const kilobytes = Number(output(["du", "-sk", "--apparent-size", path.join(debian, "usr")]).split("\t")[0])
  fs.writeFileSync(path.join(debian, "DEBIAN/control"), debianControl(version, kilobytes))
  output(["find", debian, "-exec", "touch", "--no-dereference", `--date=@${epoch}`, "{}", "+"])
  output(["chmod", "-R", "u=rwX,go=rX", debian])
  const file = path.join(out, `bunker_${version}_${architecture.debian}.deb`)
  output([
    "env",
    `SOURCE_DATE_EPOCH=${epoch}`,
    "dpkg-deb",
    "--root-owner-group",
    "-Zzstd",
    "-z9",
    "--build",
    debian,
    file
  ])
  return [archive, file, installer]
}
