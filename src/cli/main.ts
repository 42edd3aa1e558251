/**
 * Enters the program from a checkout. The guest agent is the one that native/guest/build.sh made.
 */
import path from "node:path"
import { enter } from "./enter.ts"

enter(async () => {
  const { enterApp } = await import("./enterApp.ts")
  enterApp({
    command: [process.execPath, import.meta.path],
    agentPath: path.join(import.meta.dirname, "../../native/guest/build/agent"),
    mountHelperPath: path.join(import.meta.dirname, "../../native/mount-helper/build/mount-helper"),
    launcherPath: path.join(import.meta.dirname, "../../native/launcher/build/launcher"),
    sharedModules: () => import("../plugin/sharedModules.ts").then((module) => module.sharedModules)
  })
})
