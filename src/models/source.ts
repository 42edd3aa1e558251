/** The interface between where a model's files come from and who installs them. Holds no behaviour. */
import { Data, type Effect, type Redacted } from "effect"
import type { ModelDirectoryInvalid, ModelSourceInvalid } from "../domain/errors/model.ts"
import type { DiskFull } from "../domain/errors/store.ts"
import type { ModelFile } from "../domain/model/model.ts"

/** The files can not be had, or are not what they were announced to be. */
export class FetchFailed extends Data.TaggedError("FetchFailed")<{ readonly reason: string }> {}

/** What a source has, known before the first byte of a file. */
export interface ResolvedModel {
  /** Commit or digest that was resolved to; null where a source has none. */
  readonly resolvedRevision: string | null
  /** True when the same resolved revision always has the same files. */
  readonly immutable: boolean
  readonly files: number
  readonly totalSizeBytes: number
  /** Brings every file into an empty payload directory; `report` hears of files done and bytes moved. */
  readonly fetch: (
    payload: string,
    report: (files: number, bytes: number) => void
  ) => Effect.Effect<ReadonlyArray<ModelFile>, FetchFailed | DiskFull>
}

/** A source that was found usable; what it has is still to be asked. */
export interface ModelSource {
  readonly resolve: Effect.Effect<ResolvedModel, FetchFailed>
}

/** Why a source can not be used at all. */
export type SourceError = ModelSourceInvalid | ModelDirectoryInvalid

/** What is wanted of a source. */
export interface Wanted {
  /** The model. */
  readonly name: string
  readonly source: string
  readonly revision: string
  /** Sent to the Hub alone. */
  readonly token: Redacted.Redacted<string> | undefined
  /** Which of the source's files are taken. */
  readonly takes: (path: string) => boolean
}
