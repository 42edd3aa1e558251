/** Presents the cache of models as a plugin. Adds no behaviour to it but what must be refused before anything is decoded. */

import { Schema } from "effect"
import type { Later } from "../actors/kit/Actor.ts"
import type { ModelSources } from "../actors/models/install.ts"
import { ModelCache } from "../actors/models/ModelCache.ts"
import { ModelProtocol } from "../actors/models/protocol.ts"
import { InvalidModelName, PlaintextCredential } from "../domain/errors/model.ts"
import { CredentialAlias, ModelName, plaintextCredential } from "../domain/model/model.ts"
import { modelNeeds } from "./needs.ts"
import { definePlugin, type Plugin, type PluginGuard } from "./Plugin.ts"

/** Where a secret is: the name of an environment variable, or a file that holds nothing else. */
const SecretReference = Schema.Union([
  Schema.Struct({ env: Schema.NonEmptyString }),
  Schema.Struct({ file: Schema.NonEmptyString })
])

/** Options of the models plugin in `bunker.config.ts`. */
export const ModelOptions = Schema.Struct({
  /** Where the secrets of credential aliases are, by alias. */
  credentials: Schema.optionalKey(Schema.Record(CredentialAlias, SecretReference))
})

const isModelName = Schema.is(ModelName)

/** A bad name in a pull's path comes first, then secrets in plain text, at any depth. */
const guard: PluginGuard = (payload, message) => {
  const { name } = payload
  if (message === "Pull" && typeof name === "string" && !isModelName(name)) return new InvalidModelName({ model: name })
  const field = plaintextCredential(payload)
  return field === undefined ? undefined : new PlaintextCredential({ field })
}

export const modelsPlugin = (sources: Later<ModelSources>): Plugin =>
  definePlugin({
    name: "models",
    deps: ["sweeper"],
    options: ModelOptions,
    address: ModelCache,
    protocol: ModelProtocol,
    permissions: {
      Add: "models:write",
      List: "models:read",
      Get: "models:read",
      Replace: "models:write",
      Remove: "models:remove",
      Pull: "models:pull",
      Status: "models:read",
      Drop: "models:remove",
      Ensure: "models:pull"
    },
    layer: () => ModelCache.layer(sources),
    guard,
    needs: modelNeeds,
    routes: [
      { method: "POST", path: "/ai/models", message: "Add", status: 201 },
      { method: "GET", path: "/ai/models", message: "List" },
      { method: "GET", path: "/ai/models/:name", message: "Get" },
      { method: "PUT", path: "/ai/models/:target", message: "Replace" },
      { method: "DELETE", path: "/ai/models/:name", message: "Remove" },
      { method: "POST", path: "/ai/models/:name/pull", message: "Pull", answers: "last" },
      { method: "GET", path: "/ai/models/:name/cache", message: "Status" },
      { method: "DELETE", path: "/ai/models/:name/cache", message: "Drop" }
    ]
  })
