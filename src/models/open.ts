/** Chooses the source of a model by its scheme. Asks nobody anything. */
import type { Effect } from "effect"
import type { CredentialSource } from "../oci/registry/credentials.ts"
import { artifactSource } from "./artifact.ts"
import { directorySource } from "./directory.ts"
import { type HubOptions, hubSource } from "./hub.ts"
import type { ModelSource, SourceError, Wanted } from "./source.ts"
import { urlSource } from "./url.ts"

/** How sources are asked. */
export interface SourceOptions extends HubOptions {
  /** For registries; default: anonymous. */
  readonly registryCredentials?: CredentialSource
}

/** The source of a registry entry, whose form was checked when it was registered. */
export const openSource = (wanted: Wanted, options: SourceOptions): Effect.Effect<ModelSource, SourceError> => {
  const { source } = wanted
  if (source.startsWith("dir:")) return directorySource(source.slice("dir:".length), wanted)
  if (source.startsWith("hf:")) return hubSource(wanted, options)
  if (source.startsWith("oci:")) return artifactSource(wanted, options)
  return urlSource(wanted, options)
}
