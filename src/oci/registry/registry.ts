/**
 * Reads one repository of a registry over the OCI distribution API v1.1 (and Docker registry v2), mirrors first.
 * Pushes nothing and keeps nothing on disk: a cut blob goes on by Range inside its own stream.
 */
import { Clock, Effect, Stream } from "effect"
import { DigestMismatch, ImageNotFound, ManifestInvalid, RegistryAuth } from "../../domain/errors/image.ts"
import {
  type Descriptor,
  decodeDocument,
  Envelope,
  Manifest,
  manifestBytesMax,
  mediaTypes,
  parseJson
} from "../../domain/image/descriptor.ts"
import type { Platform } from "../../domain/image/platform.ts"
import { canonicalReference, manifestSelector, type Reference, registryHost } from "../../domain/image/reference.ts"
import { type DocumentStore, type RawDocument, resolveImage } from "../manifest/resolve.ts"
import type { ImageSource, ResolvedLayer, SourceError } from "../manifest/source.ts"
import { checkBytes, digestOf, verified } from "../manifest/verify.ts"
import { anonymous, type CredentialSource } from "./credentials.ts"
import * as Http from "./http.ts"
import { makeAuthorizer, parseChallenges } from "./token.ts"

/** How a registry is asked. */
export interface RegistryOptions {
  /** Plain HTTP to the registry, also when it is not loopback; default false. */
  readonly insecure?: boolean
  /** Registries and mirrors that are always asked over plain HTTP; default none. */
  readonly insecureHosts?: ReadonlyArray<string>
  /** Default: anonymous. */
  readonly credentials?: CredentialSource
  /** Hosts that hold copies of the registry's repositories, asked first and in order; default none. */
  readonly mirrors?: ReadonlyArray<string>
  readonly retry?: Partial<Http.RetryPolicy>
}

/** Connections that one blob may need, however much each of them brings. */
const connectionsMax = 256

const acceptManifest = [
  mediaTypes.ociIndex,
  mediaTypes.dockerIndex,
  mediaTypes.ociManifest,
  mediaTypes.dockerManifest
].join(", ")

type EndpointError = SourceError | Http.Transient

/** What a blob's stream has achieved so far, across connections and endpoints. */
interface Progress {
  received: number
  attempts: number
}

interface Endpoint {
  readonly host: string
  readonly store: DocumentStore
  readonly blob: (layer: ResolvedLayer, progress: Progress) => Stream.Stream<Uint8Array, SourceError>
}

const endpoint = (reference: Reference, domain: string, options: RegistryOptions): Endpoint => {
  const policy = { ...Http.defaultRetryPolicy, ...options.retry }
  const insecure =
    (options.insecure === true && domain === reference.domain) || options.insecureHosts?.includes(domain) === true
  const host = registryHost(domain)
  const name = canonicalReference(reference)
  const rootName = `manifest of ${name}`
  const plain = insecure || Http.isLoopbackHost(URL.parse(`http://${host}`)?.hostname ?? "")
  const base = `${plain ? "http" : "https"}://${host}/v2/${reference.path}`
  const authorizer = makeAuthorizer({
    domain,
    host,
    registry: new URL(base),
    repository: reference.path,
    credentials: options.credentials ?? anonymous,
    insecure,
    stallTimeoutMs: policy.stallTimeoutMs
  })

  const refuse = Effect.fnUntraced(function* (
    answer: Http.HttpResponse,
    what: string
  ): Effect.fn.Return<never, EndpointError> {
    const { status, headers } = answer.response
    const away = answer.url.host !== host
    const from = away ? ` from ${answer.url.host}` : ""
    const passing = status === 408 || status === 425 || status === 429 || status >= 500
    // Storage behind a registry refuses a signed address that has run out; the registry hands out a new one.
    if (passing || (away && status >= 400)) {
      const wait = Http.retryAfterMs(headers, yield* Clock.currentTimeMillis)
      return yield* new Http.Transient({ reason: `HTTP ${status}${from} for ${what}`, retryAfterMs: wait })
    }
    if (status === 401 || status === 403) return yield* new RegistryAuth({ host, status, repository: reference.path })
    if (status === 404) {
      return yield* new ImageNotFound({ reference: name, host, ...(what === rootName ? {} : { part: what }) })
    }
    return yield* Http.unavailable(host, `HTTP ${status}${from} for ${what}`)
  })

  /** One request with one answer to a 401; statuses other than 2xx and those of `also` are failures. */
  const ask = Effect.fnUntraced(function* (
    path: string,
    what: string,
    headers: Readonly<Record<string, string>>,
    also: ReadonlyArray<number> = []
  ) {
    for (let challenged = false; ; challenged = true) {
      const authorization = yield* authorizer.header
      const url = new URL(`${base}/${path}`)
      const answer = yield* Http.send({ url, headers, authorization, insecure, stallTimeoutMs: policy.stallTimeoutMs })
      const { response } = answer
      if (response.ok || also.includes(response.status)) return answer
      if (response.status !== 401 || challenged || answer.url.host !== host) return yield* refuse(answer, what)
      yield* authorizer.answer(parseChallenges(response.headers.get("www-authenticate") ?? ""))
    }
  })

  const readDocument = (path: string, what: string, headers: Readonly<Record<string, string>>, maxBytes: number) =>
    Http.retried(
      host,
      policy,
      Effect.gen(function* () {
        const answer = yield* ask(path, what, headers)
        const bytes = yield* Http.readBounded(answer, maxBytes, policy.stallTimeoutMs)
        if (bytes === undefined)
          return yield* new ManifestInvalid({ what, field: "size", value: `more than ${maxBytes} bytes` })
        return { bytes, mediaType: answer.response.headers.get("content-type") ?? undefined } satisfies RawDocument
      }).pipe(Effect.scoped)
    )

  const root = Effect.gen(function* () {
    const what = rootName
    const path = `manifests/${manifestSelector(reference)}`
    const document = yield* readDocument(path, what, { accept: acceptManifest }, manifestBytesMax)
    const actual = digestOf(document.bytes)
    const expected = reference.digest ?? actual
    return actual === expected ? document : yield* new DigestMismatch({ what, expected, actual })
  })

  const store: DocumentStore = {
    name,
    root,
    document: Effect.fnUntraced(function* (kind, descriptor) {
      const what = `${kind} ${descriptor.digest} of ${name}`
      const path = `${kind === "config" ? "blobs" : "manifests"}/${descriptor.digest}`
      const accept = kind === "config" ? "*/*" : acceptManifest
      const { bytes } = yield* readDocument(path, what, { accept }, descriptor.size)
      return yield* checkBytes(what, { digest: descriptor.digest, sizeBytes: descriptor.size }, bytes)
    })
  }

  /** One connection's worth of a blob, from where the last one ended. */
  const connect = (layer: ResolvedLayer, what: string, progress: Progress) =>
    Stream.unwrap(
      Effect.gen(function* () {
        progress.attempts += 1
        if (progress.attempts > connectionsMax) {
          return yield* Http.unavailable(host, `${what} was cut ${connectionsMax} times`)
        }
        const from = progress.received
        if (from > 0 && from >= layer.sizeBytes) return Stream.empty
        const headers: Record<string, string> = from === 0 ? {} : { range: `bytes=${from}-` }
        const answer = yield* ask(`blobs/${layer.digest}`, what, headers, [416])
        const skip = yield* bytesToSkip(answer.response, from, layer, what)
        let skipped = 0
        return Http.bodyOf(answer, policy.stallTimeoutMs).pipe(
          Stream.map((chunk) => {
            const drop = Math.min(chunk.length, skip - skipped)
            skipped += drop
            progress.received += chunk.length - drop
            return chunk.subarray(drop)
          }),
          Stream.filter((chunk) => chunk.length > 0),
          Stream.concat(Stream.fromEffectDrain(Effect.suspend(() => ended(answer.response, layer, progress, what))))
        )
      })
    )

  const blob = (layer: ResolvedLayer, progress: Progress): Stream.Stream<Uint8Array, SourceError> => {
    const what = `layer ${layer.digest} of ${name}`
    return Stream.suspend(() => connect(layer, what, progress)).pipe(
      // The schedule starts over with every byte of progress.
      Stream.retry(Http.backoff(policy)),
      Stream.mapError((error) => Http.settle(host, progress.attempts, error))
    )
  }

  return { host, store, blob }
}

const sizeMismatch = (what: string, layer: ResolvedLayer, actual: number): DigestMismatch =>
  new DigestMismatch({ what, expected: `${layer.sizeBytes} bytes`, actual: `${actual} bytes` })

/** How many bytes of an answer were had before; fails when the answer can not be the announced blob. */
const bytesToSkip = (
  response: Response,
  from: number,
  layer: ResolvedLayer,
  what: string
): Effect.Effect<number, DigestMismatch | Http.Transient> => {
  if (response.status === 416) return Effect.fail(sizeMismatch(what, layer, from))
  const range = /^bytes ([0-9]{1,15})-[0-9]{1,15}\/([0-9]{1,15}|\*)$/.exec(response.headers.get("content-range") ?? "")
  if (response.status === 206) {
    const start = Number(range?.[1] ?? Number.NaN)
    const total = range?.[2] === undefined || range[2] === "*" ? layer.sizeBytes : Number(range[2])
    if (total !== layer.sizeBytes) return Effect.fail(sizeMismatch(what, layer, total))
    if (start <= from) return Effect.succeed(from - start)
    return Effect.fail(new Http.Transient({ reason: `it sent another range of ${what}`, retryAfterMs: undefined }))
  }
  const length = response.headers.get("content-length")
  if (length !== null && Number(length) !== layer.sizeBytes)
    return Effect.fail(sizeMismatch(what, layer, Number(length)))
  return Effect.succeed(from)
}

/** A chunked body that ends says that it is whole; one that just closes may have been cut. */
const ended = (
  response: Response,
  layer: ResolvedLayer,
  progress: Progress,
  what: string
): Effect.Effect<void, DigestMismatch | Http.Transient> => {
  if (progress.received >= layer.sizeBytes) return Effect.void
  return response.headers.has("transfer-encoding")
    ? Effect.fail(sizeMismatch(what, layer, progress.received))
    : Effect.fail(new Http.Transient({ reason: `${what} ended early`, retryAfterMs: undefined }))
}

/** Every layer of the one manifest that `reference` names, whatever it is: an artifact has no platform and no root file system. */
export const registryArtifact = (reference: Reference, options: RegistryOptions = {}) => {
  const { store, blob } = endpoint(reference, reference.domain, options)
  const what = `manifest of ${store.name}`
  const resolve = Effect.fn("oci.registry.artifact")(function* () {
    const { bytes } = yield* store.root
    const json = yield* parseJson(what, bytes)
    const { manifests } = yield* decodeDocument(Envelope, what, json)
    if (manifests !== undefined) {
      return yield* new ManifestInvalid({
        what,
        field: "$.manifests",
        value: "a list of images; name one by its digest"
      })
    }
    return { digest: digestOf(bytes), layers: (yield* decodeDocument(Manifest, what, json)).layers }
  })
  const layerBytes = ({ mediaType, digest, size }: Descriptor): Stream.Stream<Uint8Array, SourceError> =>
    Stream.suspend(() => {
      const layer: ResolvedLayer = { mediaType, digest, sizeBytes: size, diffId: undefined }
      return verified(`layer ${digest} of ${store.name}`, layer, blob(layer, { received: 0, attempts: 0 }))
    })
  return { resolve: resolve(), layerBytes }
}

/** The image that `reference` names at its registry, or at the first mirror that has it. */
export const registrySource = (reference: Reference, options: RegistryOptions = {}): ImageSource => {
  const domains = [...(options.mirrors ?? []), reference.domain]
  const endpoints = domains.map((domain) => endpoint(reference, domain, options))
  let preferred = 0
  const resolve = Effect.fn("oci.registry.resolve")(function* (platform: Platform) {
    const tries = endpoints.map((candidate, position) =>
      resolveImage(candidate.store, platform).pipe(
        Effect.tap(() => Effect.sync(() => void (preferred = position))),
        Effect.tapError((error) => Effect.logDebug(`${candidate.host}: ${error.message}`))
      )
    )
    // The last one is the registry itself, so its error is the one that people see.
    return yield* Effect.firstSuccessOf(tries)
  })
  const rest = (layer: ResolvedLayer, from: number): Stream.Stream<Uint8Array, SourceError> =>
    Stream.suspend(() => {
      const progress: Progress = { received: from, attempts: 0 }
      const [first, ...others] = [...endpoints.slice(preferred), ...endpoints.slice(0, preferred)].map((candidate) =>
        candidate.blob(layer, progress)
      )
      return others.reduce((sofar, next) => Stream.catch(sofar, () => next), first ?? Stream.empty)
    })
  const blob = (layer: ResolvedLayer): Stream.Stream<Uint8Array, SourceError> =>
    verified(`layer ${layer.digest} of ${canonicalReference(reference)}`, layer, rest(layer, 0))
  return { resolve, blob, rest }
}
