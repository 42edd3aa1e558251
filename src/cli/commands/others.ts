/** The commands that are asked for seldom, together: whoever asks for one loads them all. */
import { cp } from "./cp.ts"
import { filesGroup } from "./files.ts"
import * as Archives from "./imageArchives.ts"
import * as Images from "./images.ts"
import { migrate } from "./migrate.ts"
import { modelGroup } from "./models.ts"
import { networkGroup } from "./network.ts"
import { portGroup } from "./ports.ts"
import * as Registry from "./registry.ts"
import { secretGroup } from "./secrets.ts"
import { sessionGroup } from "./sessions.ts"
import { stats } from "./stats.ts"
import * as System from "./system.ts"

export const others = [
  cp,
  filesGroup,
  stats,
  Images.pull,
  Archives.load,
  Archives.save,
  Archives.importRootfs,
  Images.list,
  Images.imageGroup,
  Images.df,
  Images.pruneAll,
  Registry.login,
  Registry.logout,
  modelGroup,
  networkGroup,
  portGroup,
  secretGroup,
  sessionGroup,
  System.doctor,
  System.serve,
  System.sweep,
  System.completion,
  migrate
] as const
