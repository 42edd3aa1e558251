/**
 * Enters the program from a checkout. The guest agent is the one that guest/build.sh made.
 */
import path from "node:path"
import { enter } from "./enter.ts"

enter(async () => {
  const { enterApp } = await import("./enterApp.ts")
  enterApp({
    command: [process.execPath, import.meta.path],
    agentPath: path.join(import.meta.dirname, "../../guest/build/agent"),
    stagePath: path.join(import.meta.dirname, "../../stage/build/stage"),
    launcherPath: path.join(import.meta.dirname, "../../launcher/build/launcher"),
    sharedModules: () => import("../plugin/sharedModules.ts").then((module) => module.sharedModules)
  })
})
