/**
 * Chooses what this process is, loading nothing that it does not need: a runner that becomes a VM, a version line, or the rest of
 * the program. A runner starts with every VM, so what is imported here is part of every boot.
 */
import { version } from "../../package.json"

/** `loadApp` loads and enters everything else: see enterApp.ts. */
export const enter = (loadApp: () => Promise<unknown>): void => {
  const [first] = process.argv.slice(2)
  if (first === "__runner") return void import("../vm/runner.ts").then(({ runRunner }) => runRunner())
  if ((first === "--version" || first === "-V") && process.argv.length === 3) return void console.log(version)
  void loadApp()
}
