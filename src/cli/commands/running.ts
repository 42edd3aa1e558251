/** The commands about sandboxes that are there, together: whoever asks for one loads them all. */
import * as Attach from "./attach.ts"
import { logs } from "./logs.ts"
import * as Manage from "./manage.ts"

export const running = [
  Attach.attach,
  Attach.shell,
  Manage.stop,
  Manage.restart,
  Manage.kill,
  Manage.pause,
  Manage.unpause,
  Manage.touch,
  Manage.remove,
  Manage.ps,
  Manage.inspect,
  logs,
  Manage.wait
] as const
