/**
 * What a third-party plugin imports as `bunker/plugin`: how to define one, how to run its actor, and the addresses of Bunker's own
 * actors, to send them messages. Adds nothing of its own.
 */
export { type Address, layerLocal } from "../actors/Actor.ts"
export { ImageStore } from "../actors/ImageStore.ts"
export { LeaseManager } from "../actors/LeaseManager.ts"
export { SessionStore } from "../actors/SessionStore.ts"
export { Sweeper } from "../actors/Sweeper.ts"
export { VmSupervisor } from "../actors/VmSupervisor.ts"
export { definePlugin, type Plugin, type PluginCommand, type PluginRoute } from "./Plugin.ts"
export { defineConfig, type UserConfig } from "./userConfig.ts"
