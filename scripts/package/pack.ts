/** Packs directories so that equal content gives equal bytes: names sorted, one time for all, no owners. Runs tar and gzip. */
import { spawnSync } from "node:child_process"
import fs from "node:fs"

/** What a command writes; fails with what it said. */
export const output = (command: ReadonlyArray<string>, options: { readonly cwd?: string } = {}): string => {
  const [program = "", ...args] = command
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    encoding: "utf8",
    maxBuffer: 256 * 1024 * 1024,
    env: { ...process.env, LC_ALL: "C", TZ: "UTC" },
    ...options
  })
  if (status === 0) return stdout
  throw new Error(`${command.join(" ")} ended with ${status}: ${error?.message ?? ""}${stderr}${stdout}`)
}

/** Seconds since 1970 that everything packed has: `SOURCE_DATE_EPOCH`, else when the commit was made, else the age of the manifest. */
export const sourceDate = (root: string): number => {
  const given = process.env["SOURCE_DATE_EPOCH"]
  if (given !== undefined) return Number(given)
  try {
    // Somebody else's checkout has a time, too.
    return Number(output(["git", "-c", "safe.directory=*", "log", "-1", "--format=%ct"], { cwd: root }).trim())
  } catch {
    return Math.floor(fs.statSync(`${root}/package.json`).mtimeMs / 1000)
  }
}

export const sha256 = (file: string): string =>
  new Bun.CryptoHasher("sha256").update(fs.readFileSync(file)).digest("hex")

const compressors = { gz: "gzip -9 -n", zst: "zstd -12 -T1 -q" }

/** A tar of the content of `directory` below the name `prefix`, compressed as its name says; answers the name. */
export const pack = (directory: string, prefix: string, file: string, epoch: number): string => {
  const kind = file.endsWith(".zst") ? "zst" : "gz"
  output([
    "sh",
    "-c",
    'set -e; tar --create --sort=name --mtime="@$1" --owner=0 --group=0 --numeric-owner --format=ustar --mode=u=rwX,go=rX ' +
      `--transform="s,^\\.,$2,SH" --directory="$3" . | ${compressors[kind]} > "$4"`,
    "pack",
    String(epoch),
    prefix,
    directory,
    file
  ])
  return file
}
