/** Presents the SecretStore as a plugin: its permissions and its routes. Adds no behaviour to it. */
import { Schema } from "effect"
import { SecretProtocol, SecretStore } from "../actors/secrets/SecretStore.ts"
import { definePlugin } from "./Plugin.ts"

export const secretsPlugin = definePlugin({
  name: "secrets",
  options: Schema.Struct({}),
  address: SecretStore,
  protocol: SecretProtocol,
  permissions: { Set: "secrets:write", List: "secrets:read", Remove: "secrets:write" },
  layer: () => SecretStore.layer,
  routes: [
    { method: "GET", path: "/v1/secrets", message: "List" },
    { method: "PUT", path: "/v1/secrets/:name", message: "Set", status: 204 },
    { method: "DELETE", path: "/v1/secrets/:name", message: "Remove", status: 204 }
  ]
})
