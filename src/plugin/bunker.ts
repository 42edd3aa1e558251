/**
 * Puts a whole Bunker together for a process: home, database, engines and the built-in actors, then whatever plugins the home's
 * owner added. The doors (CLI, HTTP, SDK) build this one layer.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect, Layer, Result, Schema } from "effect"
import type { ImageStore } from "../actors/images/ImageStore.ts"
import { AgentTimeoutMs } from "../actors/keeper/agentWatch.ts"
import { NetworkProgram } from "../actors/keeper/network/network.ts"
import type { LeaseManager } from "../actors/leases/LeaseManager.ts"
import type { ModelCache } from "../actors/models/ModelCache.ts"
import type { Sweeper } from "../actors/sandboxes/Sweeper.ts"
import type { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import type { SecretStore } from "../actors/secrets/SecretStore.ts"
import type { SessionStore } from "../actors/sessions/SessionStore.ts"
import type { PluginInvalid } from "../domain/errors/plugin.ts"
import { readImageOptions } from "../domain/image/imageOptions.ts"
import { lateCompiling } from "../domain/jitThreshold.ts"
import { readAgentTimeout, type Settings, settingsEnvironment } from "../domain/settings.ts"
import { Database } from "../store/database/Database.ts"
import { builtIn } from "../store/database/migrations.ts"
import { Paths } from "../store/files/Paths.ts"
import { Engines } from "../vm/engines/Engine.ts"
import { builtInPlugins } from "./builtin.ts"
import type { Plugin } from "./Plugin.ts"
import { PluginHost } from "./PluginHost.ts"
import { type PluginOptions, rememberedOptions, rememberOptions } from "./rememberedOptions.ts"
import { foreignConfig, type LoadedConfig, loadConfig, noConfig, openAudit, type SharedModules } from "./userConfig.ts"

/** What the program that embeds Bunker knows of itself. */
export interface Program {
  /** Program and first arguments that run this build, like `[bun, main.ts]` or `[bunker]`. */
  readonly command: ReadonlyArray<string>
  /** The guest agent of this build. */
  readonly agentPath: string
  /** The program of this build that mounts shared directories. */
  readonly mountHelperPath: string
  /** The runner in C of this build; empty where it could not be compiled. */
  readonly launcherPath?: string
  /** True for a program that has options of its own: the home's config is not asked. */
  readonly ignoresConfig?: boolean
  /** What plugins import, by name; absent in a build that loads no config file. */
  readonly sharedModules?: () => Promise<SharedModules>
}

/** Everything that a door may use. */
export type Bunker =
  | PluginHost
  | ImageStore
  | ModelCache
  | VmSupervisor
  | SecretStore
  | SessionStore
  | Sweeper
  | LeaseManager
  | Database
  | Paths
  | Engines

/** Which plugins a process builds: only Bunker's own, which nothing in the home can break, or the owner's, too. */
export type PluginChoice = "own" | "all"

/** The layer of a process that uses the home named in `settings`. */
export const bunkerLayer = (settings: Settings, program: Program, choice: PluginChoice = "own") => {
  const infrastructure = Database.layer(builtIn).pipe(
    Layer.provideMerge(Paths.layer(settings.home, { models: settings.models })),
    Layer.provideMerge(enginesLayer(settings, program)),
    Layer.provideMerge(networkLayer(settings, program)),
    Layer.provideMerge(Layer.effect(AgentTimeoutMs, readAgentTimeout("BUNKER_AGENT_TIMEOUT", settings.agentTimeout)))
  )
  const plugins = Layer.unwrap(
    Effect.gen(function* () {
      const { home, userConfig } = yield* Paths
      const own = builtInPlugins({
        sources: () => import("./imageSources.ts").then((module) => module.imageSources(settings)),
        images: yield* readImageOptions("BUNKER_IMAGES", settings.images),
        models: () =>
          import("./modelSources.ts").then((module) => module.modelSources(settings, readConfig(userConfig, program))),
        keepers: {
          keeperCommand: [...program.command, "__keeper"],
          engine: settings.engine,
          keeperEnv: { ...settingsEnvironment(settings), [lateCompiling.name]: lateCompiling.value }
        }
      })
      const config =
        choice === "all" ? yield* readConfig(userConfig, program) : yield* ownConfig(userConfig, program, own)
      const audit =
        config.auditFile === undefined ? {} : { audit: yield* openAudit(path.resolve(home, config.auditFile)) }
      const { options, policy } = config
      return PluginHost.layer([...own, ...config.plugins], { options, policy, ...audit })
    })
  )
  return Layer.provideMerge(plugins, infrastructure) as Layer.Layer<
    Bunker,
    Layer.Error<typeof plugins> | Layer.Error<typeof infrastructure>
  >
}

/** The owner's config; nothing when there is none. */
export const readConfig = (file: string, program: Program): Effect.Effect<LoadedConfig, PluginInvalid> =>
  fs.existsSync(file)
    ? Effect.tap(loadConfig(file, program.sharedModules), ({ options }) =>
        Effect.sync(() => rememberOptions(file, options))
      )
    : Effect.succeed(noConfig)

/**
 * What the owner's config says to Bunker's own plugins: its options, and nothing else of it. Whatever is wrong with it is said, and left
 * out, so that nothing in the home stops a command.
 */
const ownConfig = Effect.fnUntraced(function* (file: string, program: Program, own: ReadonlyArray<Plugin>) {
  if (program.ignoresConfig === true || !fs.existsSync(file)) return noConfig
  const leaveOut = (what: string) => Effect.logError(`${what}; these options do not count until that is mended`)
  const wrong = foreignConfig(file)
  if (wrong !== undefined) return yield* Effect.as(leaveOut(`${file} is not run: ${wrong}`), noConfig)
  const known = rememberedOptions(file)
  // A build without the modules that a config imports can not run one: cli/enter.ts takes another build for what needs it.
  if (known === undefined && program.sharedModules === undefined) return noConfig
  const given =
    known ??
    (yield* readConfig(file, program).pipe(
      Effect.map((config) => config.options),
      Effect.catchTag("PluginInvalid", (error) => Effect.as(leaveOut(error.message), {} as PluginOptions))
    ))
  const options: Record<string, unknown> = {}
  for (const plugin of own) {
    const value = given[plugin.name]
    if (value === undefined) continue
    const checked = Schema.decodeUnknownResult(plugin.options as Schema.Codec<unknown>)(value, {
      onExcessProperty: "error"
    })
    if (Result.isSuccess(checked)) options[plugin.name] = value
    else yield* leaveOut(`${file}: options of ${plugin.name}: ${checked.failure.message.replace(/\s+/g, " ")}`)
  }
  return { ...noConfig, options }
})

/** Nothing of this process's environment is passed on but what the runtime needs. */
const networkLayer = (settings: Settings, program: Program) =>
  Layer.succeed(NetworkProgram, {
    command: [...program.command, "__net"],
    environment: {
      ...settings.runtime,
      ...(settings.certificates === undefined ? {} : { SSL_CERT_FILE: settings.certificates }),
      PATH: settings.path,
      HOME: "/",
      LC_ALL: "C.UTF-8"
    },
    proxies: settings.proxies
  })

/** Where this program's engines find what they need. */
export const engineOptions = (settings: Settings, program: Program) => ({
  bootCacheDir: path.join(settings.home, "cache", "boot"),
  libkrun: settings.libkrun,
  libkrunfw: settings.libkrunfw,
  qemu: settings.qemu,
  native: settings.native,
  agentPath: settings.agent ?? program.agentPath,
  mountHelperPath: program.mountHelperPath,
  launcherPath: program.launcherPath,
  runnerCommand: [...program.command, "__runner"]
})

/** The engines alone: for what needs neither home nor database. */
export const enginesLayer = (settings: Settings, program: Program) => Engines.layer(engineOptions(settings, program))
