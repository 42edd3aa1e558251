/**
 * Reads `bunker.config.ts` of a home directory: which plugins its owner added, their options, the permissions of the doors, the
 * audit file. The file is code and runs with this process's rights: one that others own or may write is refused.
 *
 * Invariant: a config imports the very `effect` and `bunker/plugin` that this program runs, so that there is one copy of each.
 */
import fs from "node:fs"
import path from "node:path"
import { Effect, Schema } from "effect"
import { PluginInvalid } from "../domain/errors/plugin.ts"
import type { Policy } from "../domain/plugins.ts"
import { attemptFile } from "../store/files/files.ts"
import { foreignDirectory, foreignFile } from "../store/files/ownership.ts"
import type { Plugin } from "./Plugin.ts"
import type { Decision } from "./PluginHost.ts"

/** The default export of `bunker.config.ts`; a plugin or a list of plugins stands for `{ plugins }`. */
export interface UserConfig {
  readonly plugins?: ReadonlyArray<Plugin>
  /** Options of plugins, by plugin name. */
  readonly options?: Readonly<Record<string, unknown>>
  /**
   * What HTTP and the commands of plugins may do: patterns like `images:pull`, `images:*` or `*`; deny wins. Default: everything
   * is allowed. Bunker's own commands are the owner's and ask nobody.
   */
  readonly permissions?: { readonly allow?: ReadonlyArray<string>; readonly deny?: ReadonlyArray<string> }
  /** File that gets one JSON line for each decision; relative to the home directory. Default: none. */
  readonly auditFile?: string
}

/** Checks a config's type; gives it back as it is. */
export const defineConfig = (config: UserConfig): UserConfig => config

/** A config that was checked. */
export interface LoadedConfig {
  readonly plugins: ReadonlyArray<Plugin>
  readonly options: Readonly<Record<string, unknown>>
  readonly policy: Policy
  readonly auditFile: string | undefined
}

export const noConfig: LoadedConfig = {
  plugins: [],
  options: {},
  policy: { allow: ["*"], deny: [] },
  auditFile: undefined
}

const Pattern = Schema.String.check(
  Schema.isPattern(/^(\*|[a-z][a-z0-9-]*(:[a-z0-9-]+)*:([a-z0-9-]+|\*))$/, {
    expected: 'a permission like "images:pull", "images:*" or "*"'
  })
)
const Patterns = Schema.Array(Pattern)
const ConfigFile = Schema.Struct({
  plugins: Schema.optionalKey(Schema.Array(Schema.Unknown)),
  options: Schema.optionalKey(Schema.Record(Schema.String, Schema.Unknown)),
  permissions: Schema.optionalKey(
    Schema.Struct({ allow: Schema.optionalKey(Patterns), deny: Schema.optionalKey(Patterns) })
  ),
  auditFile: Schema.optionalKey(Schema.NonEmptyString)
})
const decodeConfig = Schema.decodeUnknownEffect(ConfigFile)

/** Modules by the names under which they are imported. */
export type SharedModules = Readonly<Record<string, Record<string, unknown>>>

/** Imports and checks a config file; `modules` are what it imports of this program, absent to leave that to Bun. Fails with `PluginInvalid` naming the file. */
export const loadConfig = Effect.fn("UserConfig.load")(function* (
  file: string,
  modules?: () => Promise<SharedModules>
): Effect.fn.Return<LoadedConfig, PluginInvalid> {
  const invalid = (reason: string) => new PluginInvalid({ plugin: file, reason: reason.replace(/\s+/g, " ") })
  const wrong = foreignConfig(file)
  if (wrong !== undefined) return yield* invalid(`${wrong}: it would run with your rights`)
  const module = yield* Effect.tryPromise({
    try: async () => {
      if (modules !== undefined) await shareModules(modules)
      return (await import(file)) as { readonly default?: unknown }
    },
    catch: (cause) => invalid(describeImportError(cause))
  })
  const given = module.default
  const whole = Array.isArray(given) ? { plugins: given } : looksLikePlugin(given) ? { plugins: [given] } : given
  if (typeof whole !== "object" || whole === null) {
    return yield* invalid(
      "its default export is no plugin, list of plugins or config; see defineConfig and definePlugin"
    )
  }
  const config = yield* decodeConfig(whole, { onExcessProperty: "error" }).pipe(
    Effect.mapError((error) => invalid(`its default export is no config: ${error.message}`))
  )
  const plugins = config.plugins ?? []
  for (const [index, plugin] of plugins.entries()) {
    const wrong = whatIsWrong(plugin)
    if (wrong !== undefined) return yield* invalid(`plugin ${index + 1} of its default export ${wrong}`)
  }
  const { allow = ["*"], deny = [] } = config.permissions ?? {}
  return {
    plugins: plugins as ReadonlyArray<Plugin>,
    options: config.options ?? {},
    policy: { allow, deny },
    auditFile: config.auditFile
  }
})

/** Why a config file is not run: others could have written it, or put theirs in its place. Undefined also when there is none. */
export const foreignConfig = (file: string): string | undefined =>
  fs.existsSync(file)
    ? (foreignFile(file) ??
      foreignDirectory(path.dirname(file)) ??
      foreignDirectory(path.dirname(fs.realpathSync(file))))
    : undefined

/** Bun's words for a file that does not compile or resolve: the first, with where it is. */
const describeImportError = (cause: unknown): string => {
  const first = (cause as { readonly errors?: ReadonlyArray<unknown> })?.errors?.[0] ?? cause
  const at = (first as { readonly position?: { readonly line: number; readonly column: number } | null })?.position
  const words = first instanceof Error ? first.message : String((first as { message?: unknown })?.message ?? first)
  return at == null ? words : `${words} (line ${at.line}, column ${at.column})`
}

let shared: Promise<void> | undefined

/** Maps what plugins import to the modules of this program: a compiled program has no node_modules to find them in. */
const shareModules = (modules: () => Promise<SharedModules>): Promise<void> => {
  shared ??= modules().then((named) => {
    Bun.plugin({
      name: "bunker",
      setup: (build) => {
        for (const [name, exports] of Object.entries(named)) {
          build.module(name, () => ({ exports, loader: "object" }))
        }
      }
    })
  })
  return shared
}

const looksLikePlugin = (value: unknown): boolean =>
  typeof value === "object" && value !== null && "protocol" in value && "layer" in value

/** What keeps a value from being a plugin; undefined when nothing does. Types are erased at run time, so all is looked at. */
const whatIsWrong = (value: unknown): string | undefined => {
  if (!looksLikePlugin(value)) return "is not a plugin; make one with definePlugin"
  const plugin = value as Partial<Plugin>
  if (typeof plugin.name !== "string" || !/^[a-z][a-z0-9-]{0,63}$/.test(plugin.name)) {
    return `has the name ${JSON.stringify(plugin.name)}; use 1 to 64 of a-z 0-9 - and start with a letter`
  }
  const { name, protocol, permissions } = plugin
  const messages = protocol?.requests
  if (!(messages instanceof Map)) return `("${name}") has no protocol made with RpcGroup.make`
  if (plugin.address === undefined) return `("${name}") has no address`
  if (!Schema.isSchema(plugin.options)) return `("${name}") has no schema of its options; Schema.Struct({}) for none`
  if (!Array.isArray(plugin.deps) || !Array.isArray(plugin.routes) || !Array.isArray(plugin.commands)) {
    return `("${name}") was not made with definePlugin`
  }
  for (const message of messages.keys()) {
    if (typeof permissions?.[message] !== "string") return `("${name}") names no permission for message "${message}"`
  }
  for (const { path, message } of plugin.routes) {
    if (!messages.has(message))
      return `("${name}") has a route to a message "${message}" that its protocol does not have`
    if (typeof path !== "string" || !path.startsWith("/"))
      return `("${name}") has a route whose path does not begin with /`
  }
  for (const command of plugin.commands) {
    if (!messages.has(command.message)) {
      return `("${name}") has a command for a message "${command.message}" that its protocol does not have`
    }
    if (!/^[a-z][a-z0-9-]*$/.test(command.name)) return `("${name}") has a command with the name "${command.name}"`
  }
  return undefined
}

/** Opens the audit file: one JSON line for each decision, written before the message is sent. The scope closes it. */
export const openAudit = Effect.fnUntraced(function* (file: string) {
  const fd = yield* Effect.acquireRelease(
    attemptFile("open audit file", file, () => fs.openSync(file, "a", 0o600)),
    (open) => Effect.sync(() => fs.closeSync(open))
  )
  return (decision: Decision): void => void fs.writeSync(fd, `${JSON.stringify(decision)}\n`)
})
