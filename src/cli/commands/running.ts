/** The commands about sandboxes that are there, together: a command line with one of them loads them all, and no other. */
import { logs } from "./logs/logs.ts"
import { attach } from "./sandboxes/attach.ts"
import { inspect } from "./sandboxes/inspect.ts"
import { kill } from "./sandboxes/kill.ts"
import { pause } from "./sandboxes/pause.ts"
import { ps } from "./sandboxes/ps.ts"
import { restart } from "./sandboxes/restart.ts"
import { remove } from "./sandboxes/rm.ts"
import { shell } from "./sandboxes/shell.ts"
import { stop } from "./sandboxes/stop.ts"
import { touch } from "./sandboxes/touch.ts"
import { unpause } from "./sandboxes/unpause.ts"
import { wait } from "./sandboxes/wait.ts"

export const running = [
  attach,
  shell,
  stop,
  restart,
  kill,
  pause,
  unpause,
  touch,
  remove,
  ps,
  inspect,
  logs,
  wait
] as const
