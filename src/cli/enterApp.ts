/** Enters what needs the whole program: a sandbox's keeper, the last words of the entry program, or the command line. */
import type { Program } from "../plugin/bunker.ts"

export type EnterApp = (program: Program) => void

export const enterApp: EnterApp = (program) => {
  if (process.argv[2] === "__keeper") return void import("./keeper.ts").then(({ runKeeper }) => runKeeper(program))
  if (process.argv[2] === "__lost") return void import("./fastPathFallback.ts").then(({ runLost }) => runLost(program))
  if (process.argv[2] === "__ended")
    return void import("./fastPathFallback.ts").then(({ runEnded }) => runEnded(program))
  if (process.argv[2] === "__complete")
    return void import("./completion/answer.ts").then(({ runComplete }) => runComplete(program))
  void import("./app.ts").then(({ runApp }) => runApp(program, process.argv.slice(2)))
}
