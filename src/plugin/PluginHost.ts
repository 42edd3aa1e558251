/**
 * Builds the actors of a set of plugins in the order of their deps and carries messages from the doors to them, after asking the
 * policy. Knows no plugin by name; gives no door of its own.
 */
import { Clock, Context, Effect, Layer, Schema, Stream } from "effect"
import { type Rpc, RpcSchema } from "effect/rpc"
import { PermissionDenied, type PluginError, PluginInvalid, UnknownMessage } from "../domain/errors/plugin.ts"
import { closure, type Policy, permits, sortByDeps } from "../domain/plugins.ts"
import type { Plugin } from "./Plugin.ts"

/** What one decision of the policy was, for the audit. */
export interface Decision {
  /** Unix milliseconds. */
  readonly time: number
  readonly plugin: string
  readonly message: string
  readonly permission: string
  readonly allowed: boolean
}

export interface HostOptions {
  /** Options of plugins, by plugin name; absent means `{}`. */
  readonly options?: Readonly<Record<string, unknown>>
  /** Default: everything is allowed, as for the owner of the home directory. */
  readonly policy?: Policy
  /** Receives every decision, for example to write it as a JSON line. */
  readonly audit?: (decision: Decision) => void
  /** Build only these plugins and what they need. */
  readonly only?: ReadonlyArray<string>
}

/** An answer still as a value: `one` for plain messages, `many` for streaming ones, already in encoded (JSON) form. */
export type Reply =
  | { readonly _tag: "One"; readonly value: unknown }
  | { readonly _tag: "Many"; readonly values: Stream.Stream<unknown, { readonly _tag: string }> }

export type SendError =
  | UnknownMessage
  | PermissionDenied
  | Schema.SchemaError
  | { readonly _tag: string; readonly message: string }

export class PluginHost extends Context.Service<
  PluginHost,
  {
    readonly plugins: ReadonlyArray<Plugin>
    /** Decodes `payload` by the message's schema (unknown keys refused), asks the policy, and sends it. */
    readonly send: (plugin: string, message: string, payload: unknown) => Effect.Effect<Reply, SendError>
  }
>()("bunker/PluginHost") {
  /** Gives the host and every plugin's address. Fails by name when plugins are missing, duplicate, cyclic or invalid. */
  static readonly layer = (
    plugins: ReadonlyArray<Plugin>,
    options: HostOptions = {}
  ): Layer.Layer<PluginHost, PluginError> =>
    Layer.unwrap(
      Effect.gen(function* () {
        const sorted = yield* Effect.fromResult(sortByDeps(plugins))
        const chosen = options.only === undefined ? sorted : closure(sorted, options.only)
        const layers = yield* Effect.forEach(chosen, (plugin) => decodeOptions(plugin, options.options?.[plugin.name]))
        const actors = layers.reduce(
          (below, layer) => Layer.provideMerge(layer, below),
          Layer.empty as unknown as ErasedLayer
        )
        const host = Layer.effect(
          PluginHost,
          Effect.map(Effect.context<never>(), (context) => make(chosen, options, context))
        )
        return Layer.provideMerge(host, actors) as Layer.Layer<PluginHost, PluginError>
      })
    )
}

// biome-ignore lint/suspicious/noExplicitAny: layers of different plugins are folded into one
type ErasedLayer = Layer.Layer<any, any, any>

const decodeOptions = (plugin: Plugin, given: unknown): Effect.Effect<ErasedLayer, PluginInvalid> =>
  Schema.decodeUnknownEffect(plugin.options as Schema.Codec<unknown>)(given === undefined ? {} : given, {
    onExcessProperty: "error"
  }).pipe(
    Effect.mapError((error) => new PluginInvalid({ name: plugin.name, reason: `its options: ${error.message}` })),
    Effect.map(plugin.layer)
  )

const make = (
  plugins: ReadonlyArray<Plugin>,
  options: HostOptions,
  context: Context.Context<never>
): PluginHost["Service"] => {
  const policy = options.policy ?? { allow: ["*"], deny: [] }
  const byName = new Map(plugins.map((plugin) => [plugin.name, plugin]))

  const decide = (plugin: Plugin, message: string): Effect.Effect<void, PermissionDenied> =>
    Effect.flatMap(Clock.currentTimeMillis, (time) => {
      const permission = plugin.permissions[message] ?? `${plugin.name}:unnamed`
      const allowed = permits(policy, permission)
      options.audit?.({ time, plugin: plugin.name, message, permission, allowed })
      return allowed ? Effect.void : Effect.fail(new PermissionDenied({ plugin: plugin.name, permission }))
    })

  const send = Effect.fn("PluginHost.send")(function* (name: string, message: string, payload: unknown) {
    const plugin = byName.get(name)
    const rpc = plugin?.protocol.requests.get(message) as Rpc.AnyWithProps | undefined
    if (plugin === undefined || rpc === undefined) return yield* new UnknownMessage({ plugin: name, message_: message })
    yield* decide(plugin, message)
    const decoded = yield* Schema.decodeUnknownEffect(rpc.payloadSchema as unknown as Schema.Codec<unknown>)(payload, {
      onExcessProperty: "error"
    })
    const address = Context.getUnsafe(context, plugin.address) as Record<string, (payload: unknown) => unknown>
    const answer = address[message]!(decoded)
    if (RpcSchema.isStreamSchema(rpc.successSchema)) {
      const encode = Schema.encodeUnknownEffect(rpc.successSchema.success as Schema.Codec<unknown>)
      return {
        _tag: "Many",
        values: Stream.mapEffect(answer as Stream.Stream<unknown, never>, (value) => encode(value))
      } as const
    }
    const value = yield* answer as Effect.Effect<unknown, { readonly _tag: string; readonly message: string }>
    const encoded = yield* Schema.encodeUnknownEffect(rpc.successSchema as unknown as Schema.Codec<unknown>)(value)
    return { _tag: "One", value: encoded } as const
  })

  return { plugins, send: send as PluginHost["Service"]["send"] }
}

/**
 * Imports plugins from a file: its default export is a plugin or a list of them. Fails with `PluginInvalid` naming the file.
 * The file is code and runs with this process's rights: only files that the owner of the home directory chose get here.
 */
export const loadPlugins = Effect.fn("PluginHost.loadPlugins")(function* (
  file: string
): Effect.fn.Return<ReadonlyArray<Plugin>, PluginInvalid> {
  const module = yield* Effect.tryPromise({
    try: () => import(file) as Promise<{ readonly default?: unknown }>,
    catch: (cause) => new PluginInvalid({ name: file, reason: cause instanceof Error ? cause.message : String(cause) })
  })
  const found = Array.isArray(module.default) ? (module.default as ReadonlyArray<unknown>) : [module.default]
  for (const candidate of found) {
    if (!isPlugin(candidate)) {
      return yield* new PluginInvalid({
        name: file,
        reason: "its default export is not a plugin; make one with definePlugin"
      })
    }
  }
  return found as ReadonlyArray<Plugin>
})

const isPlugin = (value: unknown): value is Plugin => {
  const plugin = value as Partial<Plugin> | null | undefined
  return (
    typeof plugin?.name === "string" &&
    /^[a-z][a-z0-9-]{0,63}$/.test(plugin.name) &&
    typeof plugin.layer === "function" &&
    Array.isArray(plugin.deps) &&
    plugin.protocol?.requests instanceof Map
  )
}
