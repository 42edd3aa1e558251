/** Lists the modules that plugins and this program have in common. Loaded only when there is a config file. */
import * as effect from "effect"
import * as rpc from "effect/rpc"
import * as api from "./api.ts"

export const sharedModules: Readonly<Record<string, Record<string, unknown>>> = {
  effect,
  "effect/rpc": rpc,
  "bunker/plugin": api
}
