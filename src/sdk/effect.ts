/** Offers Bunker to Effect programs: the actors' addresses, their errors, and one layer that provides them. Adds nothing. */
import os from "node:os"
import { Effect, Layer } from "effect"
import { readSettings, type Settings } from "../domain/settings.ts"
import { bunkerLayer } from "../plugin/bunker.ts"
import { heldEventLoop } from "./program/eventLoop.ts"

export { ImageStore } from "../actors/images/ImageStore.ts"
export { LeaseManager } from "../actors/leases/LeaseManager.ts"
export { ModelCache } from "../actors/models/ModelCache.ts"
export { Sweeper } from "../actors/sandboxes/Sweeper.ts"
export { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
export { SessionStore } from "../actors/sessions/SessionStore.ts"
export * from "../domain/errors.ts"
export { ImageEvent, ImageHandle, ImageInspection } from "../domain/image/image.ts"
export {
  ModelCacheReport,
  ModelEntry,
  ModelEvent,
  ModelManifest,
  ModelReplacement,
  ModelSpec
} from "../domain/model/model.ts"
export { MachineProblem } from "../domain/sandbox/definition.ts"
export { ExecEvent, ExecRequest } from "../domain/sandbox/exec.ts"
export { SandboxConfig, SandboxInfo } from "../domain/sandbox/sandbox.ts"
export {
  CollectionReport,
  SessionGraph,
  SessionHead,
  SessionInfo,
  SessionNode,
  SessionSummary,
  VacuumReport
} from "../domain/session/session.ts"

export interface LayerOptions {
  /** Home directory; default: `BUNKER_HOME`, else `~/.bunker`. */
  readonly home?: string
  /**
   * Directory with the files of `bunker-sandbox-linux-x64` (agent, launcher, libraries), for programs that bring them along in a way of
   * their own. Default: `BUNKER_NATIVE`, else the installed package, or what a compiled program has embedded.
   */
  readonly nativeDir?: string
}

const settingsOf = ({ home, nativeDir }: LayerOptions): Settings =>
  readSettings(
    {
      ...process.env,
      ...(home === undefined ? {} : { BUNKER_HOME: home }),
      ...(nativeDir === undefined ? {} : { BUNKER_NATIVE: nativeDir })
    },
    process.cwd(),
    os.homedir()
  )

/** The home directory that options and environment name. */
export const homeOf = (options: LayerOptions): string => settingsOf(options).home

/** @internal The actors over one home directory, whose layer holds no event loop (see eventLoop.ts). */
export const actorsOf = (options: LayerOptions) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const { programOf } = yield* Effect.promise(() => import("#program"))
      const [program, settings] = yield* Effect.promise(() => programOf(settingsOf(options)))
      return bunkerLayer(settings, { ...program, ignoresConfig: true })
    })
  )

/**
 * Provides every actor over one home directory. Sandboxes that it starts without `detached` end when it closes; until then the program
 * goes on. What is logged goes to the program's own loggers.
 */
export const layer = (options: LayerOptions = {}) => Layer.merge(actorsOf(options), heldEventLoop)
