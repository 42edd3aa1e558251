/**
 * Says what a payload of a built-in message reaches beyond its sandbox, image or session: paths of this machine, ports, networks. Each
 * has a permission of its own, so that a policy can allow the rest without it. Pure.
 */
import type { SandboxConfig } from "../domain/sandbox/sandbox.ts"
import type { PluginNeeds } from "./Plugin.ts"

/** Of a definition. */
export const sandboxNeeds: PluginNeeds = (payload, message) => {
  if (message !== "Create" && message !== "Check") return []
  const { config } = payload as { readonly config: SandboxConfig }
  return [
    ...((config.mounts?.length ?? 0) > 0 ? ["sandboxes:mount"] : []),
    ...((config.ports?.length ?? 0) > 0 ? ["sandboxes:publish"] : []),
    ...(config.network === undefined ? [] : ["sandboxes:network"])
  ]
}

/** A path in one of these fields is the client's choice, unless it names what was sent. */
const hostPaths =
  (permission: string, fields: ReadonlyArray<string>): PluginNeeds =>
  (payload, _, spooled) =>
    fields.some(
      (field) => field !== spooled && typeof (payload as Record<string, unknown> | undefined)?.[field] === "string"
    )
      ? [permission]
      : []

export const imageNeeds = hostPaths("images:host-paths", ["path"])
export const sessionNeeds = hostPaths("sessions:host-paths", ["file"])

const modelPaths = hostPaths("models:host-paths", ["fixtureDir", "sourceDir"])

export const modelNeeds: PluginNeeds = (payload, message, spooled) => {
  const source = (payload as { readonly source?: unknown } | undefined)?.source
  return typeof source === "string" && source.startsWith("dir:")
    ? ["models:host-paths"]
    : modelPaths(payload, message, spooled)
}
