/** The cache of models behind HTTP over a home of the test's own, and files for it to take. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Effect, type Exit, Layer, ManagedRuntime, Redacted, Schema } from "effect"
import { LeaseManager, LeaseProtocol } from "../../src/actors/leases/LeaseManager.ts"
import type { ModelSources } from "../../src/actors/models/install.ts"
import { Sweeper, SweeperProtocol } from "../../src/actors/sandboxes/Sweeper.ts"
import { makeApp } from "../../src/http/app.ts"
import { openSource, type SourceOptions } from "../../src/models/open.ts"
import { modelsPlugin } from "../../src/plugin/models.ts"
import { definePlugin } from "../../src/plugin/Plugin.ts"
import { PluginHost } from "../../src/plugin/PluginHost.ts"
import { Database } from "../../src/store/database/Database.ts"
import { builtIn } from "../../src/store/database/migrations.ts"
import { Paths } from "../../src/store/files/Paths.ts"

export const sourcesFor = (
  options: Partial<SourceOptions> = {},
  secrets: Readonly<Record<string, string>> = {}
): ModelSources => ({
  open: (wanted) =>
    openSource(wanted, {
      hubEndpoint: "http://127.0.0.1:9",
      hubOffline: false,
      retry: { attemptsMax: 3, baseDelayMs: 5, stallTimeoutMs: 3_000 },
      ...options
    }),
  secret: (alias) => Effect.succeed(Object.hasOwn(secrets, alias) ? Redacted.make(secrets[alias]!) : undefined)
})

/** Paths, database and the actors that models need. */
const placeOf = (home: string, models?: string) =>
  Layer.provideMerge(Database.layer(builtIn), Paths.layer(home, { models }))

const none = Schema.Struct({})
const plugins = (sources: ModelSources) => [
  definePlugin({
    name: "leases",
    options: none,
    address: LeaseManager,
    protocol: LeaseProtocol,
    permissions: Object.fromEntries([...LeaseProtocol.requests.keys()].map((tag) => [tag, "t:t"])) as never,
    layer: () => LeaseManager.layer
  }),
  definePlugin({
    name: "sweeper",
    deps: ["leases"],
    options: none,
    address: Sweeper,
    protocol: SweeperProtocol,
    permissions: Object.fromEntries([...SweeperProtocol.requests.keys()].map((tag) => [tag, "t:t"])) as never,
    layer: () => Sweeper.layer()
  }),
  modelsPlugin(() => Promise.resolve(sources))
]

export interface Answer {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: tests look into JSON of any shape
  readonly body: any
  readonly text: string
}

/** One process's worth of Bunker over `home`, reached by HTTP. */
export const startModels = async (home: string, sources: ModelSources = sourcesFor(), models?: string) => {
  const runtime = ManagedRuntime.make(
    PluginHost.layer(plugins(sources)).pipe(Layer.provideMerge(placeOf(home, models)))
  )
  const host = await runtime.runPromise(PluginHost)
  const reported: Array<string> = []
  const app = makeApp({
    version: "0",
    host,
    run: (effect, signal) => runtime.runPromiseExit(effect, { signal }) as Promise<Exit.Exit<never, never>>,
    ready: () => true,
    spool: () => Effect.die("unused"),
    report: (cause) => void reported.push(String(cause))
  })
  const ask = async (
    method: string,
    url: string,
    body?: unknown,
    headers: Record<string, string> = {}
  ): Promise<Answer> => {
    const sent = body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }
    const response = await app.request(url, { method, headers, ...sent })
    const text = await response.text()
    return { status: response.status, text, body: /^[[{]/.test(text) ? JSON.parse(text) : text }
  }
  return { ask, app, runtime, reported, dispose: () => runtime.dispose() }
}
export type Models = Awaited<ReturnType<typeof startModels>>

/** A home and a scratch directory, removed at the end. */
export const scratch = () => {
  const directory = mkdtempSync(path.join(tmpdir(), "bk-m-"))
  const home = path.join(directory, "home")
  return {
    home,
    at: (...parts: ReadonlyArray<string>) => path.join(directory, ...parts),
    /** Makes a directory with files. */
    tree: (name: string, files: Readonly<Record<string, string | Uint8Array>>) => {
      const root = path.join(directory, name)
      mkdirSync(root, { recursive: true })
      for (const [file, content] of Object.entries(files)) {
        mkdirSync(path.dirname(path.join(root, file)), { recursive: true })
        writeFileSync(path.join(root, file), content)
      }
      return root
    },
    dispose: () => rmSync(directory, { recursive: true, force: true })
  }
}

export const sha256 = (data: string | Uint8Array): string => new Bun.CryptoHasher("sha256").update(data).digest("hex")

/** Fields that register a model. */
export const entry = (name: string, extra: Readonly<Record<string, unknown>> = {}) => ({
  name,
  source: "hf:org/repo",
  revision: "main",
  task: "any",
  ...extra
})
