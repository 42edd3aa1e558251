/** Offers Bunker to Effect programs: the actors' addresses, their errors, and one layer that provides them. Adds nothing. */
import os from "node:os"
import path from "node:path"
import { readSettings } from "../domain/settings.ts"
import { bunkerLayer, type Program } from "../plugin/bunker.ts"

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

/** This checkout as the program that runners and keepers are started from. */
const program: Program = {
  ignoresConfig: true,
  command: [process.execPath, path.join(import.meta.dirname, "../cli/main.ts")],
  agentPath: path.join(import.meta.dirname, "../../native/guest/build/agent"),
  mountHelperPath: path.join(import.meta.dirname, "../../native/mount-helper/build/mount-helper"),
  launcherPath: path.join(import.meta.dirname, "../../native/launcher/build/launcher")
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
