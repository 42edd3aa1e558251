/**
 * Chooses what this process is, loading nothing that it does not need: a runner that becomes a VM, a version line, or the rest of
 * the program. A runner starts with every VM, so what is imported here is part of every boot.
 */
import fs from "node:fs"
import { version } from "../../package.json"
import { lateCompiling } from "../domain/lateCompiling.ts"
import { execAgain } from "../ffi/execAgain.ts"
import { rememberedOptions } from "../plugin/rememberedOptions.ts"

/** Commands that need no plugin of the owner's. One that is missing here starts slower, with the modules that plugins import. */
const plain: ReadonlySet<string> = new Set(
  "__keeper run create start exec stop kill pause unpause touch rm ps inspect logs wait pull load save import images image login logout df prune session sweep migrate completion".split(
    " "
  )
)

/** Those of them for which the options in a config file count; they run the file when it has changed. */
const configured: ReadonlySet<string> = new Set("run create pull load import image session sweep prune".split(" "))

/** Commands that are over soon, or mostly wait for somebody. The others move and check much data. */
const brief: ReadonlySet<string> = new Set(
  "run create start exec attach shell stop restart kill touch rm ps inspect logs stats wait images image df".split(" ")
)

/** `loadApp` loads and enters everything else, with or without what plugins import: see enterApp.ts. */
export const enter = (loadApp: (plugins: boolean) => Promise<unknown>): void => {
  const [first = ""] = process.argv.slice(2)
  if (first === "__runner") return void import("../vm/runner.ts").then(({ runRunner }) => runRunner())
  if ((first === "--version" || first === "-V") && process.argv.length === 3) return void console.log(version)
  // Half of the processor time of so short a life went into compiling functions that are called a few times more. 5 ms.
  if (brief.has(first) && process.env[lateCompiling.name] === undefined) {
    execAgain(lateCompiling.name, lateCompiling.value)
  }
  const config = configFile()
  const asks = !plain.has(first) || (configured.has(first) && rememberedOptions(config) === undefined)
  void loadApp(asks && fs.existsSync(config))
}

/** Looks at the default place, too, as domain/settings.ts does: wrongly yes only costs time, and so does a home that is odd. */
const configFile = (): string =>
  `${process.env["BUNKER_HOME"] || `${process.env["HOME"] ?? ""}/.bunker`}/bunker.config.ts`
