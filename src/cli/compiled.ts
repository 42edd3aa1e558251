/**
 * Enters the program as one compiled binary with the guest agent, `stage` and the launcher embedded in it. The application is a module of its own in the
 * binary, so that `--version` neither reads nor checks its bytecode; with all that plugins may import it is another
 * (compiledPlugins.ts).
 */
import agentPath from "../../native/guest/build/agent" with { type: "file" }
import launcherPath from "../../native/launcher/build/launcher" with { type: "file" }
import mountHelperPath from "../../native/mount-helper/build/mount-helper" with { type: "file" }
import { enter } from "./enter.ts"
import { type EnterApp, enterApp as enterPlain } from "./enterApp.ts"

enter(async (plugins) => {
  // Built at run time, or the bundler would put it into this module.
  const enterApp = plugins
    ? ((await import(`${import.meta.dirname}/compiledPlugins.js`)) as { readonly enterApp: EnterApp }).enterApp
    : enterPlain
  enterApp({ command: [process.execPath], agentPath, mountHelperPath, launcherPath })
})
