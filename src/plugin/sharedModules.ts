/**
 * Lists the modules that plugins and this program have in common. All of `effect` is in it, so only what loads a config file may
 * import this: it makes every start of a compiled program slower.
 */
import * as effect from "effect"
import * as rpc from "effect/rpc"
import * as api from "./api.ts"
import type { SharedModules } from "./userConfig.ts"

export const sharedModules: SharedModules = {
  effect,
  "effect/rpc": rpc,
  "bunker/plugin": api
}
