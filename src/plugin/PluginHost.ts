/**
 * Builds the actors of a set of plugins in the order of their deps and carries messages from the doors to them, after asking the
 * policy. Knows no plugin by name; gives no door of its own.
 */
import { Clock, Context, Effect, Layer, Schema, SchemaAST, Stream } from "effect"
import { type Rpc, RpcSchema } from "effect/rpc"
import {
  InvalidInput,
  PermissionDenied,
  type PluginError,
  PluginInvalid,
  UnknownMessage
} from "../domain/errors/plugin.ts"
import { closure, type Policy, permits, sortByDeps } from "../domain/plugins.ts"
import { fromText, fromWire, toWire, type WireIssue, wireIssues } from "../domain/wire.ts"
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

/** An answer as JSON with snake_case keys: `One` for plain messages, `Many` for streaming ones. */
export type Reply =
  | { readonly _tag: "One"; readonly value: unknown }
  | {
      readonly _tag: "Many"
      readonly values: Stream.Stream<unknown, { readonly _tag: string }>
      /** The same before encoding. */
      readonly plain: Stream.Stream<unknown, { readonly _tag: string }>
    }

/** `UnknownMessage`, `PermissionDenied`, `InvalidInput`, or an error of the message's own. */
export type SendError = { readonly _tag: string; readonly message: string }

/** A message as a door has it: JSON with snake_case keys, and fields that came as text (a path, a query, a command line). */
export interface Letter {
  readonly plugin: string
  readonly message: string
  readonly payload?: Readonly<Record<string, unknown>>
  /** Over the payload; made numbers and booleans where the schema wants them. */
  readonly text?: Readonly<Record<string, string>>
  /** The field that names a private file of the door's own: what was sent to it. */
  readonly spooled?: string
}

export class PluginHost extends Context.Service<
  PluginHost,
  {
    readonly plugins: ReadonlyArray<Plugin>
    /** Asks the policy, decodes the letter by the message's schema (unknown keys refused), and sends it. */
    readonly send: (letter: Letter) => Effect.Effect<Reply, SendError>
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
        yield* checkDoors(sorted)
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

/** Fails when two plugins want the same route or command. */
const checkDoors = (plugins: ReadonlyArray<Plugin>): Effect.Effect<void, PluginInvalid> => {
  const owners = new Map<string, string>()
  for (const { name, routes, commands } of plugins) {
    const doors = [
      ...routes.map((route) => `route ${route.method} ${route.path}`),
      ...commands.map((command) => `command "${command.name}"`)
    ]
    for (const door of doors) {
      const owner = owners.get(door)
      if (owner !== undefined) {
        return Effect.fail(new PluginInvalid({ plugin: name, reason: `its ${door} is taken by plugin "${owner}"` }))
      }
      owners.set(door, name)
    }
  }
  return Effect.void
}

// biome-ignore lint/suspicious/noExplicitAny: layers of different plugins are folded into one
type ErasedLayer = Layer.Layer<any, any, any>

const decodeOptions = (plugin: Plugin, given: unknown): Effect.Effect<ErasedLayer, PluginInvalid> =>
  Schema.decodeUnknownEffect(plugin.options as Schema.Codec<unknown>)(given === undefined ? {} : given, {
    onExcessProperty: "error"
  }).pipe(
    Effect.mapError((error) => new PluginInvalid({ plugin: plugin.name, reason: `its options: ${error.message}` })),
    Effect.map(plugin.layer)
  )

const make = (
  plugins: ReadonlyArray<Plugin>,
  options: HostOptions,
  context: Context.Context<never>
): PluginHost["Service"] => {
  const policy = options.policy ?? { allow: ["*"], deny: [] }
  const byName = new Map(plugins.map((plugin) => [plugin.name, plugin]))

  const decide = (plugin: Plugin, message: string, permission: string): Effect.Effect<void, PermissionDenied> =>
    Effect.flatMap(Clock.currentTimeMillis, (time) => {
      const allowed = permits(policy, permission)
      options.audit?.({ time, plugin: plugin.name, message, permission, allowed })
      return allowed ? Effect.void : Effect.fail(new PermissionDenied({ plugin: plugin.name, permission }))
    })

  const decode = (schema: Schema.Top, given: Readonly<Record<string, unknown>>) => {
    const wrong = (issues: ReadonlyArray<WireIssue>) => new InvalidInput({ issues })
    if (!SchemaAST.isVoid(schema.ast)) {
      return Effect.mapError(fromWire(schema, given), (error) => wrong(wireIssues(error)))
    }
    const extra = Object.keys(given).map((path) => ({ path, message: "there is no such field" }))
    return extra.length === 0 ? Effect.succeed<unknown>(undefined) : Effect.fail(wrong(extra))
  }

  const send = Effect.fn("PluginHost.send")(function* (letter: Letter) {
    const { message } = letter
    const plugin = byName.get(letter.plugin)
    const rpc = plugin?.protocol.requests.get(message) as Rpc.AnyWithProps | undefined
    if (plugin === undefined || rpc === undefined) {
      return yield* new UnknownMessage({ plugin: letter.plugin, message_: message })
    }
    yield* decide(plugin, message, plugin.permissions[message] ?? `${plugin.name}:unnamed`)
    const { spooled } = letter
    if (spooled !== undefined && letter.text !== undefined && Object.hasOwn(letter.text, spooled)) {
      // Else a query would put a path of this machine in the place of what was sent.
      return yield* new InvalidInput({
        issues: [{ path: spooled, message: "what is sent is given once, in the body" }]
      })
    }
    const given = { ...letter.payload, ...fromText(rpc.payloadSchema, letter.text ?? {}) }
    const refused = plugin.guard?.(given, message)
    if (refused !== undefined) return yield* Effect.fail(refused)
    const payload = yield* decode(rpc.payloadSchema, given)
    for (const permission of plugin.needs?.(payload, message, spooled) ?? []) yield* decide(plugin, message, permission)
    const address = Context.getUnsafe(context, plugin.address) as Record<string, (payload: unknown) => unknown>
    const answer = address[message]!(payload)
    if (RpcSchema.isStreamSchema(rpc.successSchema)) {
      const { success } = rpc.successSchema
      const plain = answer as Stream.Stream<unknown, SendError>
      return { _tag: "Many", values: Stream.map(plain, (value) => toWire(success, value)), plain } as const
    }
    const value = yield* answer as Effect.Effect<unknown, SendError>
    const nothing = SchemaAST.isVoid(rpc.successSchema.ast)
    return { _tag: "One", value: nothing ? undefined : toWire(rpc.successSchema, value) } as const
  })

  return { plugins, send }
}
