/** Reads what people type: where the guest's command begins, sizes, environment files. Pure but for reading the named file. */

import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { InvalidSpec } from "../domain/errors/vm.ts"
import { parseModelMount, parseTmpfs, parseVolume } from "../domain/sandbox/mounts.ts"
import type { SandboxConfig } from "../domain/sandbox/sandbox.ts"

/**
 * Puts `--` behind the first positional argument of commands whose rest belongs to the guest, so that `run alpine ls -la` needs
 * none. `valued` are the flags that take a value in the next word.
 */
export const separateGuestCommand = (
  argv: ReadonlyArray<string>,
  valued: ReadonlySet<string>
): ReadonlyArray<string> => {
  let index = 0
  while (index < argv.length) {
    const word = argv[index]!
    if (word === "--") return argv
    if (!word.startsWith("-") || word === "-") break
    // The one flag with a value that may be left away.
    if (word === "--allow-net") return separateGuestCommand(argv.with(index, "--allow-net=public"), valued)
    const takesNext =
      !word.includes("=") && (valued.has(word) || (valued.has(`-${word.at(-1)}`) && /^-[A-Za-z]+$/.test(word)))
    index += takesNext ? 2 : 1
  }
  if (index >= argv.length - 1 || argv[index + 1] === "--") return argv
  return [...argv.slice(0, index + 1), "--", ...argv.slice(index + 1)]
}

/**
 * Takes values apart from short flags that they are written to, as in `-eA=1` or `-it -p80:80`, up to the first positional
 * argument. `valued` are the flags that take a value.
 */
export const separateShortValues = (
  argv: ReadonlyArray<string>,
  valued: ReadonlySet<string>
): ReadonlyArray<string> => {
  const words: Array<string> = []
  for (let index = 0; index < argv.length; index += 1) {
    const word = argv[index]!
    if (word === "--" || word === "-" || !word.startsWith("-")) return [...words, ...argv.slice(index)]
    const at = word.startsWith("--")
      ? -1
      : [...word].findIndex((letter, place) => place > 0 && valued.has(`-${letter}`))
    if (at > 0 && at < word.length - 1 && word[at + 1] !== "=") words.push(word.slice(0, at + 1), word.slice(at + 1))
    else words.push(word)
    const takesNext = at > 0 ? at === word.length - 1 : valued.has(word)
    if (takesNext && index + 1 < argv.length) words.push(argv[(index += 1)]!)
  }
  return words
}

const units: Readonly<Record<string, number>> = {
  "": 1,
  m: 1,
  mb: 1,
  mib: 1,
  g: 1024,
  gb: 1024,
  gib: 1024,
  t: 1024 * 1024,
  tb: 1024 * 1024
}

/** `512`, `512m`, `2g`: MiB, undefined for anything else. */
const mebibytes = (text: string): number | undefined => {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim())
  const unit = match === null ? undefined : units[match[2]!.toLowerCase()]
  return match === null || unit === undefined ? undefined : Math.round(Number(match[1]) * unit)
}

/** The same, failing with the flag's name. */
export const parseMebibytes = (flag: string, text: string): Effect.Effect<number, InvalidSpec> => {
  const found = mebibytes(text)
  return found === undefined
    ? Effect.fail(
        new InvalidSpec({ field: flag, reason: `"${text}" is not a size; write 512m, 2g or a number of MiB` })
      )
    : Effect.succeed(found)
}

/** `-v`, `--tmpfs` and `--model`; a relative path of the host starts at `cwd`. Absent fields where nothing was given. */
export const readMounts = Effect.fnUntraced(function* (
  volumes: ReadonlyArray<string>,
  tmpfs: ReadonlyArray<string>,
  model: ReadonlyArray<string>,
  cwd: string
): Effect.fn.Return<Pick<SandboxConfig, "mounts" | "tmpfs" | "models">, InvalidSpec> {
  const each = <A>(field: string, texts: ReadonlyArray<string>, parse: (text: string) => A | string) =>
    Effect.forEach(texts, (text) => {
      const found = parse(text)
      return typeof found === "string" ? Effect.fail(new InvalidSpec({ field, reason: found })) : Effect.succeed(found)
    })
  const mounts = yield* each("-v", volumes, (text) => parseVolume(text, (source) => path.resolve(cwd, source)))
  const memory = yield* each("--tmpfs", tmpfs, (text) => parseTmpfs(text, mebibytes))
  const models = yield* each("--model", model, parseModelMount)
  return {
    ...(mounts.length > 0 ? { mounts } : {}),
    ...(memory.length > 0 ? { tmpfs: memory } : {}),
    ...(models.length > 0 ? { models } : {})
  }
})

const nameOf = (entry: string): string => entry.split("=", 1)[0]!

/** `KEY=value` entries of `-e` over those of `--env-file`; `-e KEY` takes the value from this process's environment. */
export const readEnvironment = Effect.fnUntraced(function* (
  entries: ReadonlyArray<string>,
  files: ReadonlyArray<string>,
  own: Readonly<Record<string, string | undefined>>
): Effect.fn.Return<ReadonlyArray<string>, InvalidSpec> {
  const lines: Array<string> = []
  for (const file of files) {
    const text = yield* Effect.try({
      try: () => fs.readFileSync(file, "utf8"),
      catch: (cause) =>
        new InvalidSpec({
          field: "--env-file",
          reason: `${file} can not be read: ${(cause as NodeJS.ErrnoException).code}`
        })
    })
    lines.push(...text.split(/\r?\n/).filter((line) => line.trim() !== "" && !line.startsWith("#")))
  }
  const all: Array<string> = []
  for (const entry of [...lines, ...entries]) {
    if (nameOf(entry) === "")
      return yield* new InvalidSpec({ field: "-e", reason: `"${entry.slice(0, 64)}" has no name before "="` })
    if (entry.includes("=")) all.push(entry)
    else if (own[entry] !== undefined) all.push(`${entry}=${own[entry]}`)
  }
  return all
})

/** `KEY=value` labels. */
export const readLabels = Effect.fnUntraced(function* (
  entries: ReadonlyArray<string>
): Effect.fn.Return<Record<string, string>, InvalidSpec> {
  // Not assigned to an object: a key named __proto__ would be lost.
  const labels = new Map<string, string>()
  for (const entry of entries) {
    const name = nameOf(entry)
    if (name === "")
      return yield* new InvalidSpec({ field: "--label", reason: `"${entry.slice(0, 64)}" has no name before "="` })
    labels.set(name, entry.slice(name.length + 1))
  }
  return Object.fromEntries(labels)
})

/** Shells that there are completions for. */
export const shells = ["bash", "zsh", "fish"] as const
export const isShell = (word: string | undefined): boolean => shells.some((shell) => shell === word)
