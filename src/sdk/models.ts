/**
 * Keeps models of a home directory from a Bun program: promises over the same actor that the CLI uses. Runs no model (see Sandbox
 * for mounting one).
 */
import { Effect, Stream } from "effect"
import { ModelCache } from "../actors/models/ModelCache.ts"
import { InvalidInput } from "../domain/errors/plugin.ts"
import {
  type ModelCacheReport,
  type ModelDropped,
  type ModelEntry,
  type ModelEvent,
  type ModelManifest,
  type ModelRemoved,
  ModelReplacement,
  ModelSpec
} from "../domain/model/model.ts"
import { fromWire, snakeCase, wireIssues } from "../domain/wire.ts"
import { holding } from "./program/eventLoop.ts"
import { type PlaceOptions, type Runtime, run, runtimeOf } from "./runtime.ts"

/** What registers a model; defaults as in docs/models.md. */
export type NewModel = Omit<typeof ModelSpec.Encoded, "name"> & { readonly name: string }

export interface ModelPullOptions {
  /** Absolute path of a directory that takes the place of the model's source. */
  readonly fixtureDir?: string
  /** Alias of the secret, in place of the entry's. */
  readonly credentialAlias?: string
  /** Told of each step. */
  readonly onEvent?: (event: ModelEvent) => void
  /** Ends the work; what it brought so far is removed. */
  readonly signal?: AbortSignal
}

type Cache = ModelCache["Service"]

const wired = (fields: object): Readonly<Record<string, unknown>> =>
  Object.fromEntries(Object.entries(fields).map(([key, value]) => [snakeCase(key), value]))

const invalid = Effect.mapError(
  (error: Parameters<typeof wireIssues>[0]) => new InvalidInput({ issues: wireIssues(error) })
)

/** The models of a home directory. Dispose it when done. */
export class Models implements AsyncDisposable {
  private readonly runtime: Runtime

  constructor(options: PlaceOptions = {}) {
    this.runtime = runtimeOf(options)
  }

  /** Registers a model; `pull` fetches its files. */
  add(model: NewModel): Promise<ModelEntry> {
    return this.ask((cache) => Effect.flatMap(invalid(fromWire(ModelSpec, wired(model))), cache.Add))
  }

  /** Changes an entry; its files stay until the next pull. */
  replace({ name, ...fields }: NewModel): Promise<ModelEntry> {
    const given = { ...wired(fields), target: name }
    return this.ask((cache) => Effect.flatMap(invalid(fromWire(ModelReplacement, given)), cache.Replace))
  }

  /** By name. */
  async list(): Promise<ReadonlyArray<ModelEntry>> {
    return (await this.ask((cache) => cache.List())).models
  }

  get(name: string): Promise<ModelEntry> {
    return this.ask((cache) => cache.Get({ name }))
  }

  /** Fetches the files and answers what was installed. */
  async pull(name: string, options: ModelPullOptions = {}): Promise<ModelManifest> {
    const { onEvent, signal, ...request } = options
    let manifest: ModelManifest | undefined
    const work = Effect.flatMap(ModelCache, (cache) =>
      Stream.runForEach(cache.Pull({ name, ...request }), (event) =>
        Effect.sync(() => {
          onEvent?.(event)
          if (event._tag === "Done") manifest = event.manifest
        })
      )
    )
    await run(this.runtime, work, signal)
    return manifest!
  }

  /** What is in the cache; `full` reads every byte. */
  status(name: string, verify: "quick" | "full" = "quick"): Promise<ModelCacheReport> {
    return this.ask((cache) => cache.Status({ name, verify }))
  }

  /** Removes the files and keeps the entry. */
  drop(name: string): Promise<ModelDropped> {
    return this.ask((cache) => cache.Drop({ name }))
  }

  /** Removes files and entry; rejects with `ModelInUse` while a sandbox mounts them. */
  remove(name: string): Promise<ModelRemoved> {
    return this.ask((cache) => cache.Remove({ name }))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await holding(this.runtime.dispose())
  }

  private ask<A, E>(question: (cache: Cache) => Effect.Effect<A, E>): Promise<A> {
    return run(this.runtime, Effect.flatMap(ModelCache, question))
  }
}
