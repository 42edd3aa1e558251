/** Enters the program from the npm package, as one module that Bun runs. */
import os from "node:os"
import { readSettings } from "../domain/settings.ts"
import { programOf } from "../sdk/packagedProgram.ts"
import { enter } from "./enter.ts"

enter(async () => {
  const { enterApp } = await import("./enterApp.ts")
  const [program, settings] = await programOf(readSettings(process.env, process.cwd(), os.homedir()))
  // Read once more by the command that runs.
  process.env["BUNKER_NATIVE"] = settings.native
  process.env["PATH"] = settings.path
  enterApp({
    ...program,
    sharedModules: () => import("../plugin/sharedModules.ts").then((module) => module.sharedModules)
  })
})
