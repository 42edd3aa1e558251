/**
 * Takes a model from an OCI registry: each layer of an artifact that names its file (`org.opencontainers.image.title`, or CNCF
 * ModelPack's `org.cncf.model.filepath`) is that file. Unpacks no archives.
 */

import fs from "node:fs"
import { Effect, Stream } from "effect"
import { ModelSourceInvalid } from "../domain/errors/model.ts"
import { DiskFull } from "../domain/errors/store.ts"
import type { Descriptor } from "../domain/image/descriptor.ts"
import { parseReference } from "../domain/image/reference.ts"
import type { ModelFile } from "../domain/model/model.ts"
import type { SourceError } from "../oci/manifest/source.ts"
import type { CredentialSource } from "../oci/registry/credentials.ts"
import type { RetryPolicy } from "../oci/registry/http.ts"
import { registryArtifact } from "../oci/registry/registry.ts"
import { makeDirectories } from "./directory.ts"
import { isHidden, isSafePath } from "./manifest.ts"
import { FetchFailed, type ModelSource, type ResolvedModel, type Wanted } from "./source.ts"

/** Layers that move at once. */
const concurrency = 4

const nameKeys = ["org.opencontainers.image.title", "org.cncf.model.filepath"]

interface NamedLayer {
  readonly path: string
  readonly layer: Descriptor
}

const failed = (error: SourceError) => new FetchFailed({ reason: error.message })

export const artifactSource = Effect.fn("Models.artifact")(function* (
  wanted: Wanted,
  options: { readonly retry?: Partial<RetryPolicy>; readonly registryCredentials?: CredentialSource }
): Effect.fn.Return<ModelSource, ModelSourceInvalid> {
  const reference = yield* parseReference(wanted.source.slice("oci:".length)).pipe(
    Effect.mapError(
      (error) => new ModelSourceInvalid({ model: wanted.name, source: wanted.source, reason: error.message })
    )
  )
  const { retry, registryCredentials: credentials } = options
  const artifact = registryArtifact(reference, {
    ...(retry === undefined ? {} : { retry }),
    ...(credentials === undefined ? {} : { credentials })
  })

  const resolve = Effect.gen(function* () {
    const { digest, layers } = yield* Effect.mapError(artifact.resolve, failed)
    const taken: Array<NamedLayer> = []
    for (const layer of layers) {
      const path = nameKeys.map((key) => layer.annotations?.[key]).find((name) => name !== undefined)
      if (path === undefined || /[.+]tar\b/.test(layer.mediaType)) {
        const why = path === undefined ? "names no file" : "is an archive"
        return yield* new FetchFailed({
          reason: `layer ${layer.digest} (${layer.mediaType}) ${why}; only artifacts whose layers are files can be taken`
        })
      }
      if (!isSafePath(path) || taken.some((each) => each.path === path)) {
        return yield* new FetchFailed({ reason: `layer ${layer.digest} has a name that can not be stored: "${path}"` })
      }
      if (!isHidden(path) && wanted.takes(path)) taken.push({ path, layer })
    }
    if (taken.length === 0) return yield* new FetchFailed({ reason: `${wanted.source} contains no files to install` })
    return {
      resolvedRevision: digest,
      immutable: true,
      files: taken.length,
      totalSizeBytes: taken.reduce((sum, { layer }) => sum + layer.size, 0),
      fetch: Effect.fn("Models.artifact.fetch")(function* (payload, report) {
        yield* makeDirectories(
          payload,
          taken.map(({ path }) => path)
        )
        return yield* Effect.forEach(
          taken,
          (each) => writeLayer(each, artifact.layerBytes(each.layer), payload, report),
          {
            concurrency
          }
        )
      })
    } satisfies ResolvedModel as ResolvedModel
  })
  return { resolve }
})

/** The bytes are checked against the layer's digest on their way, which is the sha256 of the file. */
const writeLayer = Effect.fnUntraced(function* (
  { path, layer }: NamedLayer,
  bytes: Stream.Stream<Uint8Array, SourceError>,
  payload: string,
  report: (files: number, bytes: number) => void
): Effect.fn.Return<ModelFile, FetchFailed | DiskFull> {
  const file = `${payload}/${path}`
  const trouble = (cause: unknown) => {
    const { code = "", message } = cause as NodeJS.ErrnoException
    return code === "ENOSPC" || code === "EDQUOT"
      ? new DiskFull({ path: file })
      : new FetchFailed({ reason: `"${path}" can not be written: ${code || message}` })
  }
  yield* Effect.acquireUseRelease(
    Effect.try({ try: () => fs.openSync(file, "wx", 0o444), catch: trouble }),
    (fd) =>
      Stream.runForEach(Stream.mapError(bytes, failed), (chunk) =>
        Effect.try({
          try: () => {
            for (let at = 0; at < chunk.length; ) at += fs.writeSync(fd, chunk, at)
            report(0, chunk.length)
          },
          catch: trouble
        })
      ),
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )
  report(1, 0)
  return { path, sha256: layer.digest.slice("sha256:".length), sizeBytes: layer.size }
})
