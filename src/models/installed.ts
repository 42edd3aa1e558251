/** What a boot asks about a model's files, as one module to load. */
export { readManifest, wrongSize } from "./manifest.ts"
export { installIdOf } from "./tree.ts"
