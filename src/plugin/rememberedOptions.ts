/**
 * Remembers the options in `bunker.config.ts`, so that commands which need no plugin need not run that file. Nothing but files: part
 * of every start (cli/enter.ts).
 *
 * Invariant: what is remembered is what the file says now. Only a file whose options can depend on nothing else is remembered: one that
 * imports nothing but Bunker's and Effect's modules and asks neither its environment nor the clock. Any other is run each time.
 */
import fs from "node:fs"
import path from "node:path"

/** Options of plugins, by plugin name. */
export type PluginOptions = Readonly<Record<string, unknown>>

/** What a config may not use to be remembered, Effect's modules included; words in its comments count, too. */
const changing =
  /\b(import\s*\(|(import\.meta|process|Bun|globalThis|self|require|await|Date|DateTime|Temporal|Intl|Math|Random|Clock|Config|fetch|eval|Function|performance|crypto)\b)/
const imports = /\b(?:import|export)\b[^;"']*?\bfrom\s*["']([^"']+)["']|\bimport\s*["']([^"']+)["']/g
const steady: ReadonlySet<string> = new Set(["bunker/plugin", "effect"])

const stampOf = (file: string): string | undefined => {
  const stat = fs.statSync(file, { bigint: true, throwIfNoEntry: false })
  return stat === undefined ? undefined : `${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}`
}

const placeOf = (config: string): string => path.join(path.dirname(config), "cache", "options.json")

/** What the config says, without running it; undefined when only running it tells. */
export const rememberedOptions = (config: string): PluginOptions | undefined => {
  try {
    const { stamp, options } = JSON.parse(fs.readFileSync(placeOf(config), "utf8"))
    return stamp === stampOf(config) && typeof options === "object" && options !== null ? options : undefined
  } catch {
    return undefined
  }
}

/** Notes what the config says, where that can not change while the file does not. */
export const rememberOptions = (config: string, options: PluginOptions): void => {
  try {
    const stamp = stampOf(config)
    const text = fs.readFileSync(config, "utf8")
    const others = [...text.matchAll(imports)].some(([, from, bare]) => !steady.has(from ?? bare ?? ""))
    const json = JSON.stringify({ stamp, options })
    // A value that JSON does not carry would be another one the next time.
    if (changing.test(text) || others || !Bun.deepEquals(JSON.parse(json).options, options, true)) return
    if (stamp !== stampOf(config)) return
    const place = placeOf(config)
    fs.mkdirSync(path.dirname(place), { recursive: true, mode: 0o700 })
    const temporary = `${place}.${process.pid}`
    fs.writeFileSync(temporary, json, { mode: 0o600 })
    fs.renameSync(temporary, place)
  } catch {
    // It is run the next time.
  }
}
