/**
 * Lists the modules that plugins and this program have in common. Loaded only when there is a config file. Of `effect` it has what
 * actors are made of and not all: every module here makes every start of the compiled program slower.
 */
import {
  Array as Arrays,
  Cause,
  Clock,
  Context,
  Data,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Function as Functions,
  flow,
  identity,
  Layer,
  Option,
  Order,
  Predicate,
  PubSub,
  pipe,
  Queue,
  Record as Records,
  Ref,
  References,
  Result,
  Schedule,
  Schema,
  Scope,
  Semaphore,
  Stream,
  Struct,
  SynchronizedRef
} from "effect"
import { Rpc, RpcGroup, RpcSchema } from "effect/rpc"
import * as api from "./api.ts"

const effect = {
  Array: Arrays,
  Cause,
  Clock,
  Context,
  Data,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Function: Functions,
  Layer,
  Option,
  Order,
  Predicate,
  PubSub,
  Queue,
  Record: Records,
  Ref,
  References,
  Result,
  Schedule,
  Schema,
  Scope,
  Semaphore,
  Stream,
  Struct,
  SynchronizedRef,
  flow,
  identity,
  pipe
}

export const sharedModules: Readonly<Record<string, Record<string, unknown>>> = {
  effect,
  "effect/rpc": { Rpc, RpcGroup, RpcSchema },
  "bunker/plugin": api
}
