/** Says how a checkout starts its own processes, and where it built what is not TypeScript. Builds nothing. */
import path from "node:path"
import type { Settings } from "../domain/settings.ts"
import type { Program } from "../plugin/bunker.ts"

const built = (file: string): string => path.join(import.meta.dirname, "../..", file)

/** The program, and the settings as they came. */
export const programOf = async (settings: Settings): Promise<readonly [Program, Settings]> => [
  {
    command: [process.execPath, path.join(import.meta.dirname, "../cli/main.ts")],
    agentPath: built("native/guest/build/agent"),
    mountHelperPath: built("native/mount-helper/build/mount-helper"),
    launcherPath: built("native/launcher/build/launcher")
  },
  settings
]
