/** What a boot asks about a model's files, as one module to load. */

export { installIdOf } from "./installDirectory.ts"
export { readManifest, wrongSize } from "./manifest.ts"
