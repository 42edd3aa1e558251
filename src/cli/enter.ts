/**
 * Chooses what this process is, loading nothing that it does not need: a runner that becomes a VM, the process behind a network card, a version line, or the rest of
 * the program. A runner starts with every VM, so what is imported here is part of every boot.
 */
import fs from "node:fs"
import { version } from "../../package.json"
import { rememberedOptions } from "../plugin/rememberedOptions.ts"

/** Commands that need no plugin of the owner's. One that is missing here starts slower, with the modules that plugins import. */
const plain: ReadonlySet<string> = new Set(
  "__keeper __lost __ended __complete run create start exec stop kill pause unpause touch rm ps inspect logs network port wait pull load save import images image login logout df prune secret session sweep migrate".split(
    " "
  )
)

/** Those of them for which the options in a config file count; they run the file when it has changed. */
const configured: ReadonlySet<string> = new Set("run create pull load import image session sweep prune".split(" "))

/** `loadApp` loads and enters everything else, with or without what plugins import: see enterApp.ts. */
export const enter = (loadApp: (plugins: boolean) => Promise<unknown>): void => {
  const [first = ""] = process.argv.slice(2)
  if (first === "__runner") return void import("../vm/runner/runner.ts").then(({ runRunner }) => runRunner())
  if (first === "__net") return void import("../net/process/netProcess.ts").then(({ runNet }) => runNet())
  if ((first === "--version" || first === "-V") && process.argv.length === 3) return void console.log(version)
  const config = configFile()
  const asks = !plain.has(first) || (configured.has(first) && rememberedOptions(config) === undefined)
  // The scripts for shells are in the build with everything alone (scripts/lean.ts).
  void loadApp(first === "completion" || (asks && fs.existsSync(config)))
}

/** Looks at the default place, too, as domain/settings.ts does: wrongly yes only costs time, and so does a home that is odd. */
const configFile = (): string =>
  `${process.env["BUNKER_HOME"] || `${process.env["HOME"] ?? ""}/.bunker`}/bunker.config.ts`
