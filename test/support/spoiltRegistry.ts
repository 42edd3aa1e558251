/** A small registry of one image, `app:1`, whose chosen answers are spoilt, and the client that asks it. */
import { Effect, Stream } from "effect"
import { mediaTypes } from "../../src/domain/image/descriptor.ts"
import { defaultPlatform } from "../../src/domain/image/platform.ts"
import { parseReference } from "../../src/domain/image/reference.ts"
import type { ImageSource, ResolvedLayer } from "../../src/oci/manifest/source.ts"
import { type RegistryOptions, registrySource } from "../../src/oci/registry/registry.ts"
import { type Fault, type FaultRule, type SeenRequest, startFaultProxy } from "./faultProxy.ts"
import { file, type ImageBlob, imageOf } from "./image.ts"

export const quick = { attemptsMax: 4, baseDelayMs: 5, stallTimeoutMs: 400 }
const content = crypto.getRandomValues(new Uint8Array(50_000))
export const image = imageOf([[file("a", content), file("b", content)]], { compression: "none" })
export const layerBlob = image.layers[0]!
export const layerPath = `/v2/app/blobs/${layerBlob.descriptor.digest}`
export const manifestPath = "/v2/app/manifests/1"
export const size = layerBlob.bytes.length
export const layer: ResolvedLayer = {
  mediaType: mediaTypes.ociLayer,
  digest: layerBlob.descriptor.digest,
  sizeBytes: size,
  diffId: image.diffIds[0]
}

/** Answers as a registry that holds these blobs under `app`, `1` being the first; understands Range. */
export const holding =
  (blobs: ReadonlyArray<ImageBlob>) =>
  (request: SeenRequest): Fault => {
    const selector = request.path.split("?")[0]?.split("/").at(-1)
    const blob = selector === "1" ? blobs[0] : blobs.find((candidate) => candidate.descriptor.digest === selector)
    if (blob === undefined) return { status: 404 }
    const headers = { "content-type": blob.descriptor.mediaType }
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers["range"] ?? "")?.[1] ?? 0)
    if (from === 0) return { status: 200, headers, body: blob.bytes }
    if (from >= blob.bytes.length) return { status: 416 }
    const range = `bytes ${from}-${blob.bytes.length - 1}/${blob.bytes.length}`
    return { status: 206, headers: { ...headers, "content-range": range }, body: blob.bytes.subarray(from) }
  }
export const registryOf = holding([image.manifest, image.config, layerBlob])

/** A registry that spoils what `rule` says. */
export const spoilt = (rule: FaultRule, answer: (request: SeenRequest) => Fault = registryOf) =>
  startFaultProxy(undefined, (request, earlier) => {
    const fault = rule(request, earlier)
    const { ignoreRange = false, ...rest } = fault ?? {}
    const { range: _range, ...headers } = request.headers
    return { ...answer(ignoreRange ? { ...request, headers } : request), ...rest }
  })

export const sourceAt = (host: string, options: RegistryOptions = {}, name = "app:1") =>
  Effect.map(parseReference(`${host}/${name}`), (parsed) => registrySource(parsed, { retry: quick, ...options }))
export const resolveAt = (host: string, options: RegistryOptions = {}) =>
  Effect.flatMap(sourceAt(host, options), (source) => source.resolve(defaultPlatform))
export const bytesOf = (source: ImageSource, wanted: ResolvedLayer = layer) =>
  Effect.map(Stream.runCollect(source.blob(wanted)), (chunks) => Buffer.concat(chunks))

export const onBlob =
  (fault: (request: SeenRequest, earlier: number) => Fault | undefined): FaultRule =>
  (request, earlier) =>
    request.path === layerPath ? fault(request, earlier) : undefined
export const onManifest =
  (fault: (earlier: number) => Fault | undefined): FaultRule =>
  (request, earlier) =>
    request.path === manifestPath ? fault(earlier) : undefined
