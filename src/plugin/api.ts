/**
 * What a third-party plugin imports as `bunker/plugin`: how to define one, how to run its actor, and the addresses of Bunker's own
 * actors, to send them messages. Adds nothing of its own.
 */

export { ImageStore } from "../actors/images/ImageStore.ts"
export { type Address, layerLocal } from "../actors/kit/Actor.ts"
export { LeaseManager } from "../actors/leases/LeaseManager.ts"
export { Sweeper } from "../actors/sandboxes/Sweeper.ts"
export { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
export { SessionStore } from "../actors/sessions/SessionStore.ts"
export { definePlugin, type Plugin, type PluginCommand, type PluginRoute } from "./Plugin.ts"
export { defineConfig, type UserConfig } from "./userConfig.ts"
