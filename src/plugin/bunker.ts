/**
 * Puts a whole Bunker together for a process: home, database, engines and the built-in actors, then whatever plugins the home's
 * owner added. The doors (CLI, HTTP, SDK) build this one layer.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import type { ImageStore } from "../actors/ImageStore.ts"
import type { LeaseManager } from "../actors/LeaseManager.ts"
import type { Sweeper } from "../actors/Sweeper.ts"
import type { VmSupervisor } from "../actors/VmSupervisor.ts"
import { type Settings, settingsEnvironment } from "../domain/settings.ts"
import { openArchive } from "../oci/archive.ts"
import { dockerCredentials } from "../oci/credentials.ts"
import { registrySource } from "../oci/registry.ts"
import { Database } from "../store/Database.ts"
import { builtIn } from "../store/migrations.ts"
import { Paths } from "../store/Paths.ts"
import { Engines } from "../vm/Engine.ts"
import { builtInPlugins } from "./builtin.ts"
import { loadPlugins, PluginHost } from "./PluginHost.ts"

/** What the program that embeds Bunker knows of itself. */
export interface Program {
  /** Program and first arguments that run this build, like `[bun, main.ts]` or `[bunker]`. */
  readonly command: ReadonlyArray<string>
  /** The guest agent of this build. */
  readonly agentPath: string
}

/** Everything that a door may use. */
export type Bunker = PluginHost | ImageStore | VmSupervisor | Sweeper | LeaseManager | Database | Paths | Engines

/** The layer of a process that uses the home named in `settings`. */
export const bunkerLayer = (settings: Settings, program: Program) => {
  const infrastructure = Database.layer(builtIn).pipe(
    Layer.provideMerge(Paths.layer(settings.home)),
    Layer.provideMerge(enginesLayer(settings, program))
  )
  const plugins = Layer.unwrap(
    Effect.gen(function* () {
      const { userConfig } = yield* Paths
      const own = builtInPlugins({
        sources: {
          registry: (reference, { insecure }) =>
            registrySource(reference, {
              insecure,
              credentials: dockerCredentials({ directory: settings.dockerConfig, searchPath: settings.path })
            }),
          archive: (file) => openArchive(path.resolve(file))
        },
        keepers: { keeperCommand: [...program.command, "__keeper"], keeperEnv: settingsEnvironment(settings) }
      })
      const added = fs.existsSync(userConfig) ? yield* loadPlugins(userConfig) : []
      return PluginHost.layer([...own, ...added])
    })
  )
  return Layer.provideMerge(plugins, infrastructure) as Layer.Layer<
    Bunker,
    Layer.Error<typeof plugins> | Layer.Error<typeof infrastructure>
  >
}

/** The engines alone: for what needs neither home nor database. */
export const enginesLayer = (settings: Settings, program: Program) =>
  Engines.layer({
    bootCacheDir: path.join(settings.home, "cache", "boot"),
    libkrun: settings.libkrun,
    libkrunfw: settings.libkrunfw,
    qemu: settings.qemu,
    agentPath: settings.agent ?? program.agentPath,
    runnerCommand: [...program.command, "__runner"]
  })
