/** Enters what needs the whole program: a sandbox's keeper, or the command line. */
import type { Program } from "../plugin/bunker.ts"
import { runApp } from "./app.ts"

export type EnterApp = (program: Program) => void

export const enterApp: EnterApp = (program) => {
  if (process.argv[2] === "__keeper") return void import("./keeper.ts").then(({ runKeeper }) => runKeeper(program))
  void runApp(program, process.argv.slice(2))
}
