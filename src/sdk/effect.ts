/** Offers Bunker to Effect programs: the actors' addresses, their errors, and one layer that provides them. Adds nothing. */
import os from "node:os"
import path from "node:path"
import { readSettings } from "../domain/settings.ts"
import { bunkerLayer, type Program } from "../plugin/bunker.ts"

export { ImageStore } from "../actors/ImageStore.ts"
export { LeaseManager } from "../actors/LeaseManager.ts"
export { ModelCache } from "../actors/ModelCache.ts"
export { SessionStore } from "../actors/SessionStore.ts"
export { Sweeper } from "../actors/Sweeper.ts"
export { VmSupervisor } from "../actors/VmSupervisor.ts"
export * from "../domain/errors.ts"
export { ExecEvent, ExecRequest } from "../domain/exec.ts"
export { ImageEvent, ImageHandle, ImageInspection } from "../domain/image.ts"
export { MachineProblem } from "../domain/machine.ts"
export {
  ModelCacheReport,
  ModelEntry,
  ModelEvent,
  ModelManifest,
  ModelReplacement,
  ModelSpec
} from "../domain/model.ts"
export { SandboxConfig, SandboxInfo } from "../domain/sandbox.ts"
export {
  CollectionReport,
  SessionGraph,
  SessionHead,
  SessionInfo,
  SessionNode,
  SessionSummary,
  VacuumReport
} from "../domain/session.ts"

/** This checkout as the program that runners and keepers are started from. */
const program: Program = {
  ignoresConfig: true,
  command: [process.execPath, path.join(import.meta.dirname, "../cli/main.ts")],
  agentPath: path.join(import.meta.dirname, "../../guest/build/agent"),
  stagePath: path.join(import.meta.dirname, "../../stage/build/stage"),
  launcherPath: path.join(import.meta.dirname, "../../launcher/build/launcher")
}

export interface LayerOptions {
  /** Home directory; default: `BUNKER_HOME`, else `~/.bunker`. */
  readonly home?: string
}

const settingsOf = (options: LayerOptions) => {
  const env = options.home === undefined ? process.env : { ...process.env, BUNKER_HOME: options.home }
  return readSettings(env, process.cwd(), os.homedir())
}

/** The home directory that options and environment name. */
export const homeOf = (options: LayerOptions): string => settingsOf(options).home

/**
 * Provides every actor over one home directory. Sandboxes that it starts without `detached` end when it closes. What is logged goes to the
 * program's own loggers.
 */
export const layer = (options: LayerOptions = {}) => bunkerLayer(settingsOf(options), program)
