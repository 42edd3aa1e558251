/**
 * Says what a plugin is: one actor with its protocol, its options, the permissions that its messages need, and, as plain data,
 * the HTTP routes and CLI commands by which people reach it. Runs nothing (see PluginHost).
 */
import type { Context, Layer, Schema } from "effect"
import type { Rpc, RpcGroup } from "effect/rpc"
import type { Address } from "../actors/kit/Actor.ts"

/**
 * One HTTP route. Path parameters (`:name`), the query and the JSON body together are the message's payload, with snake_case
 * keys; unknown keys are refused. A message that streams answers server-sent events when they are asked for, else a JSON array
 * at the end.
 */
export interface PluginRoute<Tag extends string = string> {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE"
  readonly path: string
  readonly message: Tag
  /** One line for people who read the API's description; absent: the message's name. */
  readonly summary?: string
  /** Status of a good answer, 200 when absent. */
  readonly status?: number
  /** Parameters of the path that stand in an object of the payload, by the name of its field: `{ name: "lease" }` makes `lease.name`. */
  readonly within?: Readonly<Record<string, string>>
  /** Payload (in the keys of the wire) under what the request says; objects in it are merged key by key. */
  readonly defaults?: Readonly<Record<string, unknown>>
  /** Media type of an answer that is plain bytes: the message streams `Uint8Array`. */
  readonly download?: string
  /**
   * Field of the payload that gets the path of a private file with the request's body, of any length, when its media type is not
   * JSON; the other fields then come from the query.
   */
  readonly upload?: string
  /** What a message that streams answers to those who take no events: all of them, or the last one alone. Default `all`. */
  readonly answers?: "all" | "last"
  /**
   * For a message that may stream nothing for long: the answer with events begins after a second without one, and a failure after
   * that is an event, where else it would have a status of its own. Default false.
   */
  readonly mayBeSilent?: boolean
  /** With `upload`: most bytes of a body, and then every body is one, JSON, too. Absent: any length. */
  readonly uploadBytesMax?: number
}

/** What a plugin looks at in a payload before it is decoded: keys of the wire. */
export type PluginGuard<Tag extends string = string> = (
  payload: Readonly<Record<string, unknown>>,
  message: Tag
) => { readonly _tag: string; readonly message: string } | undefined

/**
 * Permissions that a decoded payload needs beside its message's, for what it carries: a path of this machine, a port. `spooled` is the
 * field that names a file of the door's own, and no path that a client chose.
 */
export type PluginNeeds<Tag extends string = string> = (
  payload: unknown,
  message: Tag,
  spooled: string | undefined
) => ReadonlyArray<string>

/** One CLI command, `bunker NAME ARGUMENT…`: each argument is a field of the message's payload. */
export interface PluginCommand<Tag extends string = string> {
  readonly name: string
  /** One line for `--help`. */
  readonly summary: string
  readonly message: Tag
  /** Fields of the payload, by position. */
  readonly arguments: ReadonlyArray<{ readonly field: string; readonly summary: string }>
}

/** A plugin with its types erased, as the host keeps it. */
export interface Plugin {
  /** Unique name, `[a-z][a-z0-9-]*`. */
  readonly name: string
  /** Names of the plugins whose addresses the layer uses. */
  readonly deps: ReadonlyArray<string>
  readonly options: Schema.Top
  // biome-ignore lint/suspicious/noExplicitAny: the types were checked by definePlugin and are erased here
  readonly address: Context.Key<any, any>
  // biome-ignore lint/suspicious/noExplicitAny: as above
  readonly protocol: RpcGroup.RpcGroup<any>
  /** Permission of every message, by its tag. */
  readonly permissions: Readonly<Record<string, string>>
  // biome-ignore lint/suspicious/noExplicitAny: as above
  readonly layer: (options: any) => Layer.Layer<any, any, any>
  readonly routes: ReadonlyArray<PluginRoute>
  readonly commands: ReadonlyArray<PluginCommand>
  readonly guard?: PluginGuard
  readonly needs?: PluginNeeds
}

/** Checks a plugin's types: every message has a permission, and routes and commands name messages that exist. */
export const definePlugin = <Self, Rpcs extends Rpc.Any, Options extends Schema.Top, E, R>(plugin: {
  readonly name: string
  readonly deps?: ReadonlyArray<string>
  readonly options: Options
  readonly address: Context.Key<Self, Address<Rpcs>>
  readonly protocol: RpcGroup.RpcGroup<Rpcs>
  readonly permissions: { readonly [Tag in Rpcs["_tag"]]: string }
  readonly layer: (options: Options["Type"]) => Layer.Layer<Self, E, R>
  readonly routes?: ReadonlyArray<PluginRoute<Rpcs["_tag"]>>
  readonly commands?: ReadonlyArray<PluginCommand<Rpcs["_tag"]>>
  /** Refuses a payload for what it carries, before anything else is said of it. */
  readonly guard?: PluginGuard<Rpcs["_tag"]>
  readonly needs?: PluginNeeds<Rpcs["_tag"]>
}): Plugin => ({ deps: [], routes: [], commands: [], ...plugin }) as unknown as Plugin
