/** Presents Bunker's own actors as plugins, the same way as anybody else's. Adds no behaviour to them. */
import { Layer, Schema } from "effect"
import { ImageStore } from "../actors/images/ImageStore.ts"
import type { ImageSources } from "../actors/images/install.ts"
import { ImageProtocol } from "../actors/images/protocol.ts"
import { AgentTimeoutMs } from "../actors/keeper/agentWatch.ts"
import type { Later } from "../actors/kit/Actor.ts"
import { LeaseManager, LeaseProtocol } from "../actors/leases/LeaseManager.ts"
import type { ModelSources } from "../actors/models/install.ts"
import type { KeeperOptions } from "../actors/sandboxes/keeperClient.ts"
import { VmProtocol } from "../actors/sandboxes/protocol.ts"
import { Sweeper, SweeperOptions, SweeperProtocol } from "../actors/sandboxes/Sweeper.ts"
import { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import { ImageOptions, mergeImageOptions } from "../domain/image/imageOptions.ts"
import { readAgentTimeout } from "../domain/settings.ts"
import { modelsPlugin } from "./models.ts"
import { imageNeeds, sandboxNeeds } from "./needs.ts"
import { definePlugin, type Plugin } from "./Plugin.ts"
import { secretsPlugin } from "./secrets.ts"
import { sessionsPlugin } from "./sessions.ts"

const noOptions = Schema.Struct({})

/** What a sandbox is unless its creator says otherwise: the defaults of `bunker create`. */
const newSandbox = {
  ephemeral: false,
  config: {
    env: [],
    cpus: 1,
    memory_mb: 512,
    disk_mb: 4096,
    ends_with_command: false,
    labels: {}
  }
}
const newCommand = { request: { env: [], tty: null, stdin: false } }

export interface BuiltInOptions {
  readonly sources: Later<ImageSources>
  /** Under what the plugin's own options say. */
  readonly images: ImageOptions
  readonly models: Later<ModelSources>
  readonly keepers: KeeperOptions
}

const SandboxOptions = Schema.Struct({
  /** How long the agent of a sandbox may be mute before the sandbox is ended, like `30s`. Default: `BUNKER_AGENT_TIMEOUT`, else 60s. */
  agentTimeout: Schema.optionalKey(Schema.String)
})

const supervisor = (keepers: KeeperOptions, agentTimeout: string | undefined) => {
  if (agentTimeout === undefined) return VmSupervisor.layer(keepers)
  const told = { ...keepers, keeperEnv: { ...keepers.keeperEnv, BUNKER_AGENT_TIMEOUT: agentTimeout } }
  return Layer.provide(
    VmSupervisor.layer(told),
    Layer.effect(AgentTimeoutMs, readAgentTimeout("options.sandboxes.agentTimeout", agentTimeout))
  )
}

/** All of them, in any order: the host sorts. */
export const builtInPlugins = (options: BuiltInOptions): ReadonlyArray<Plugin> => [
  definePlugin({
    name: "leases",
    options: noOptions,
    address: LeaseManager,
    protocol: LeaseProtocol,
    permissions: {
      TryAcquire: "leases:write",
      Renew: "leases:write",
      Complete: "leases:write",
      Release: "leases:write",
      InstallAcquire: "leases:install",
      InstallRenew: "leases:install",
      InstallClear: "leases:install",
      HoldContent: "leases:write",
      RenewContent: "leases:write",
      DropContent: "leases:write",
      List: "leases:read"
    },
    layer: () => LeaseManager.layer,
    routes: [
      { method: "GET", path: "/v1/leases", message: "List" },
      {
        method: "POST",
        path: "/v1/leases/:name/acquire",
        message: "TryAcquire",
        defaults: { duration_ms: 60_000, min_interval_ms: 0 }
      },
      {
        method: "POST",
        path: "/v1/leases/:name/renew",
        message: "Renew",
        within: { name: "lease" },
        defaults: { duration_ms: 60_000 }
      },
      { method: "POST", path: "/v1/leases/:name/complete", message: "Complete", within: { name: "lease" } },
      { method: "POST", path: "/v1/leases/:name/release", message: "Release", within: { name: "lease" } }
    ]
  }),
  definePlugin({
    name: "sweeper",
    deps: ["leases"],
    options: SweeperOptions,
    address: Sweeper,
    protocol: SweeperProtocol,
    permissions: {
      Sweep: "sandboxes:sweep",
      Reconcile: "sandboxes:sweep",
      Clean: "sandboxes:sweep",
      Active: "sandboxes:read"
    },
    layer: (options) => Sweeper.layer(options),
    routes: [{ method: "POST", path: "/v1/sweep", message: "Sweep", defaults: { force: true } }]
  }),
  definePlugin({
    name: "images",
    deps: ["leases"],
    options: ImageOptions,
    address: ImageStore,
    protocol: ImageProtocol,
    permissions: {
      Pull: "images:pull",
      Load: "images:load",
      Import: "images:load",
      Save: "images:save",
      Lease: "images:read",
      Get: "images:read",
      List: "images:read",
      Inspect: "images:read",
      Remove: "images:remove",
      Prune: "images:remove",
      Usage: "images:read",
      Login: "images:login",
      Logout: "images:login"
    },
    needs: imageNeeds,
    layer: (given) => ImageStore.layer(options.sources, mergeImageOptions(given, options.images)),
    routes: [
      { method: "GET", path: "/v1/images", message: "List" },
      { method: "GET", path: "/v1/images/:reference{.+}", message: "Inspect" },
      { method: "DELETE", path: "/v1/images/:reference{.+}", message: "Remove", defaults: { force: false } },
      {
        method: "POST",
        path: "/v1/images/pull",
        message: "Pull",
        defaults: { policy: "if-missing", insecure: false }
      },
      { method: "POST", path: "/v1/images/load", message: "Load", upload: "path" },
      { method: "POST", path: "/v1/images/import", message: "Import", upload: "path" },
      { method: "POST", path: "/v1/images/save", message: "Save", download: "application/x-tar" },
      { method: "POST", path: "/v1/images/prune", message: "Prune" },
      { method: "GET", path: "/v1/usage", message: "Usage" },
      { method: "POST", path: "/v1/registries/login", message: "Login" },
      { method: "POST", path: "/v1/registries/logout", message: "Logout" }
    ]
  }),
  modelsPlugin(options.models),
  definePlugin({
    name: "sandboxes",
    deps: ["leases", "sweeper", "images", "models"],
    options: SandboxOptions,
    address: VmSupervisor,
    protocol: VmProtocol,
    permissions: {
      Create: "sandboxes:create",
      Check: "sandboxes:create",
      Start: "sandboxes:start",
      Exec: "sandboxes:exec",
      RunMain: "sandboxes:exec",
      Attach: "sandboxes:exec",
      Logs: "sandboxes:logs",
      Stats: "sandboxes:read",
      Input: "sandboxes:exec",
      CloseInput: "sandboxes:exec",
      Signal: "sandboxes:exec",
      Resize: "sandboxes:exec",
      Stop: "sandboxes:stop",
      Kill: "sandboxes:stop",
      Restart: "sandboxes:start",
      Finish: "sandboxes:stop",
      Wait: "sandboxes:read",
      Remove: "sandboxes:remove",
      Inspect: "sandboxes:read",
      List: "sandboxes:read",
      Problems: "sandboxes:read",
      FileRead: "sandboxes:files:read",
      FileStat: "sandboxes:files:read",
      FileList: "sandboxes:files:read",
      FileWrite: "sandboxes:files:write",
      FilePut: "sandboxes:files:write",
      TreeRead: "sandboxes:files:read",
      TreePut: "sandboxes:files:write",
      FileInput: "sandboxes:files:write",
      FileEnd: "sandboxes:files:write",
      FileRemove: "sandboxes:files:write",
      FileMkdir: "sandboxes:files:write",
      Recover: "sandboxes:sweep",
      Pause: "sandboxes:pause",
      Unpause: "sandboxes:pause",
      Drain: "sandboxes:stop",
      Touch: "sandboxes:exec",
      NetworkUpdate: "sandboxes:network",
      PortAdd: "sandboxes:network",
      PortRemove: "sandboxes:network",
      NetworkEvents: "sandboxes:read",
      NetworkSuggest: "sandboxes:read"
    },
    needs: sandboxNeeds,
    layer: ({ agentTimeout }) => supervisor(options.keepers, agentTimeout),
    routes: [
      { method: "GET", path: "/v1/sandboxes", message: "List" },
      { method: "GET", path: "/v1/problems", message: "Problems" },
      { method: "POST", path: "/v1/sandboxes", message: "Create", status: 201, defaults: newSandbox },
      { method: "POST", path: "/v1/sandboxes/check", message: "Check", status: 204, defaults: newSandbox },
      { method: "GET", path: "/v1/sandboxes/:name", message: "Inspect" },
      { method: "DELETE", path: "/v1/sandboxes/:name", message: "Remove", defaults: { force: false } },
      { method: "POST", path: "/v1/sandboxes/:name/start", message: "Start", defaults: { detached: true } },
      { method: "POST", path: "/v1/sandboxes/:name/stop", message: "Stop", defaults: { timeout_ms: 10_000 } },
      { method: "POST", path: "/v1/sandboxes/:name/restart", message: "Restart", defaults: { timeout_ms: 10_000 } },
      { method: "POST", path: "/v1/sandboxes/:name/kill", message: "Kill" },
      { method: "POST", path: "/v1/sandboxes/:name/drain", message: "Drain", defaults: { timeout_ms: 10_000 } },
      { method: "POST", path: "/v1/sandboxes/:name/pause", message: "Pause" },
      { method: "POST", path: "/v1/sandboxes/:name/unpause", message: "Unpause" },
      { method: "POST", path: "/v1/sandboxes/:name/touch", message: "Touch" },
      { method: "POST", path: "/v1/sandboxes/:name/wait", message: "Wait" },
      {
        method: "PATCH",
        path: "/v1/sandboxes/:name/network",
        message: "NetworkUpdate",
        defaults: { replace: false, network: {} }
      },
      {
        method: "GET",
        path: "/v1/sandboxes/:name/network/events",
        message: "NetworkEvents",
        defaults: { follow: false },
        mayBeSilent: true
      },
      {
        method: "POST",
        path: "/v1/sandboxes/:name/ports",
        message: "PortAdd",
        status: 201,
        defaults: { host_port: 0 }
      },
      { method: "DELETE", path: "/v1/sandboxes/:name/ports/:guest_port", message: "PortRemove" },
      { method: "GET", path: "/v1/sandboxes/:name/network/suggest", message: "NetworkSuggest" },
      { method: "POST", path: "/v1/sandboxes/:name/exec", message: "Exec", defaults: newCommand },
      { method: "POST", path: "/v1/sandboxes/:name/execs/:exec/input", message: "Input" },
      { method: "POST", path: "/v1/sandboxes/:name/execs/:exec/eof", message: "CloseInput" },
      { method: "POST", path: "/v1/sandboxes/:name/execs/:exec/signal", message: "Signal" },
      { method: "POST", path: "/v1/sandboxes/:name/execs/:exec/resize", message: "Resize" },
      { method: "GET", path: "/v1/sandboxes/:name/attach", message: "Attach" },
      {
        method: "GET",
        path: "/v1/sandboxes/:name/files",
        message: "FileRead",
        download: "application/octet-stream"
      },
      {
        method: "PUT",
        path: "/v1/sandboxes/:name/files",
        message: "FilePut",
        upload: "source",
        // Any body is the file, JSON, too.
        uploadBytesMax: Number.MAX_SAFE_INTEGER
      },
      { method: "GET", path: "/v1/sandboxes/:name/tree", message: "TreeRead", download: "application/x-tar" },
      {
        method: "PUT",
        path: "/v1/sandboxes/:name/tree",
        message: "TreePut",
        upload: "source",
        uploadBytesMax: Number.MAX_SAFE_INTEGER
      },
      { method: "DELETE", path: "/v1/sandboxes/:name/files", message: "FileRemove", defaults: { recursive: false } },
      { method: "GET", path: "/v1/sandboxes/:name/files/stat", message: "FileStat" },
      { method: "GET", path: "/v1/sandboxes/:name/files/list", message: "FileList" },
      { method: "POST", path: "/v1/sandboxes/:name/files/mkdir", message: "FileMkdir", defaults: { recursive: true } },
      {
        method: "GET",
        path: "/v1/sandboxes/:name/logs",
        message: "Logs",
        defaults: { source: "main", follow: false },
        mayBeSilent: true
      },
      { method: "GET", path: "/v1/sandboxes/:name/stats", message: "Stats", defaults: { watch: false } }
    ]
  }),
  secretsPlugin,
  sessionsPlugin
]
