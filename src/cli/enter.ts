/**
 * Chooses what this process is, loading nothing that it does not need: a runner that becomes a VM, a version line, or the CLI.
 */
import { version } from "../../package.json"
import type { Program } from "../plugin/bunker.ts"

export const enter = (program: Program): void => {
  const [first] = process.argv.slice(2)
  if (first === "__runner") return void import("../vm/runner.ts").then(({ runRunner }) => runRunner())
  if ((first === "--version" || first === "-V") && process.argv.length === 3) return void console.log(version)
  if (first === "__keeper") return void import("./keeper.ts").then(({ runKeeper }) => runKeeper(program))
  void import("./app.ts").then(({ runApp }) => runApp(program, process.argv.slice(2)))
}
