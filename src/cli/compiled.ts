/**
 * Enters the program as one compiled binary with the guest agent, `stage` and the launcher embedded in it. The application is a module of its own in the
 * binary (compiledApp.ts), so that a runner and `--version` neither read nor check its five megabytes of bytecode; with all that
 * plugins may import it is another (compiledPlugins.ts).
 */
import agentPath from "../../guest/build/agent" with { type: "file" }
import launcherPath from "../../launcher/build/launcher" with { type: "file" }
import stagePath from "../../stage/build/stage" with { type: "file" }
import { enter } from "./enter.ts"
import type { EnterApp } from "./enterApp.ts"

enter(async (plugins) => {
  // Built at run time, or the bundler would put it into this module.
  const module = `${import.meta.dirname}/${plugins ? "compiledPlugins" : "compiledApp"}.js`
  const { enterApp } = (await import(module)) as { readonly enterApp: EnterApp }
  enterApp({ command: [process.execPath], agentPath, stagePath, launcherPath })
})
