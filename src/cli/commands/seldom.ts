/** The commands that are asked for seldom, together: a command line with one of them loads them all. */
import { cp } from "./files/cp.ts"
import { filesGroup } from "./files/files.ts"
import { df } from "./images/df.ts"
import { imageGroup } from "./images/image.ts"
import { importRootfs } from "./images/import.ts"
import { list } from "./images/list.ts"
import { load } from "./images/load.ts"
import { login } from "./images/login.ts"
import { logout } from "./images/logout.ts"
import { pruneAll } from "./images/prune.ts"
import { pull } from "./images/pull.ts"
import { save } from "./images/save.ts"
import { stats } from "./logs/stats.ts"
import { modelGroup } from "./models/models.ts"
import { networkGroup } from "./network/network.ts"
import { portGroup } from "./network/ports.ts"
import { secretGroup } from "./network/secrets.ts"
import { sessionGroup } from "./sessions/sessions.ts"
import { completion } from "./system/completion.ts"
import { doctor } from "./system/doctor.ts"
import { migrate } from "./system/migrate.ts"
import { serve } from "./system/serve.ts"
import { sweep } from "./system/sweep.ts"

export const seldom = [
  cp,
  filesGroup,
  stats,
  pull,
  load,
  save,
  importRootfs,
  list,
  imageGroup,
  df,
  pruneAll,
  login,
  logout,
  modelGroup,
  networkGroup,
  portGroup,
  secretGroup,
  sessionGroup,
  doctor,
  serve,
  sweep,
  completion,
  migrate
] as const
