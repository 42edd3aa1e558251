/**
 * The application inside the compiled binary for the few commands that load `bunker.config.ts`: it has the whole of `effect`,
 * which plugins import, and starts slower for it.
 */
import { sharedModules } from "../plugin/sharedModules.ts"
import { type EnterApp, enterApp as enter } from "./enterApp.ts"

export const enterApp: EnterApp = (program) =>
  enter({ ...program, sharedModules: () => Promise.resolve(sharedModules) })
