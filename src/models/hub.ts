/**
 * Takes a model from the Hugging Face Hub: a branch or tag is resolved to a commit once, every file is of that commit and checked
 * against what the Hub says of it. Lists through the Hub's own client library, over our transport: it never sees the token.
 * Wire: `/api/models/{repo}/revision/{rev}`, `/api/models/{repo}/tree/{rev}`, `/{repo}/resolve/{rev}/{path}`.
 */
import { Clock, Data, Effect, Redacted } from "effect"
import type { RegistryUnavailable } from "../domain/errors/image.ts"
import { ModelSourceInvalid } from "../domain/errors/model.ts"
import type { DiskFull } from "../domain/errors/store.ts"
import type { ModelFile } from "../domain/model/model.ts"
import * as Http from "../oci/registry/http.ts"
import { makeDirectories } from "./directory.ts"
import { downloadFile, refusal } from "./download.ts"
import { filesMax, isHidden, isSafePath } from "./manifest.ts"
import { FetchFailed, type ModelSource, type ResolvedModel, type Wanted } from "./source.ts"

export interface HubOptions {
  /** Like `https://huggingface.co`; plain HTTP is allowed to whom it names. */
  readonly hubEndpoint: string
  readonly hubOffline: boolean
  readonly retry?: Partial<Http.RetryPolicy>
}

/** Files that move at once. */
const concurrency = 6
/** Most bytes of one page of a list. */
const pageBytesMax = 32 * 1024 * 1024
/** Most pages of a list. */
const pagesMax = 10_000

/** One file as the Hub's tree lists it. */
interface HubFile {
  readonly path: string
  readonly sizeBytes: number
  /** Of a large file: the sha256 of its content. */
  readonly sha256: string | undefined
  /** Of any other: the git blob id of its content. */
  readonly gitBlob: string | undefined
}

class LibraryFailed extends Data.TaggedError("LibraryFailed")<{ readonly cause: unknown }> {}

const digits = (text: unknown, count: number): string | undefined =>
  typeof text === "string" && new RegExp(`^[0-9a-f]{${count}}$`).test(text) ? text : undefined

/** An entity tag without quotes and without the mark of a weak one (RFC 9110, section 8.8.3). */
const entityTag = (headers: Headers, name: string): string | undefined =>
  headers.get(name)?.replace(/^W\//, "").replaceAll('"', "")

export const hubSource = Effect.fn("Models.hub")(function* (
  wanted: Wanted,
  options: HubOptions
): Effect.fn.Return<ModelSource, ModelSourceInvalid> {
  const invalid = (reason: string) => new ModelSourceInvalid({ model: wanted.name, source: wanted.source, reason })
  if (options.hubOffline) return yield* invalid("HF_HUB_OFFLINE is set; unset it")
  const endpoint = URL.parse(options.hubEndpoint)
  if (endpoint === null || !/^https?:$/.test(endpoint.protocol)) {
    return yield* invalid("HF_ENDPOINT is no http:// or https:// address; set it to one, or unset it")
  }
  const hub = makeHub(endpoint, wanted, options)
  return { resolve: hub.resolve }
})

const makeHub = (endpoint: URL, wanted: Wanted, options: HubOptions) => {
  const repository = wanted.source.slice("hf:".length)
  const base = endpoint.href.replace(/\/+$/, "")
  const policy: Http.RetryPolicy = { ...Http.defaultRetryPolicy, ...options.retry }
  const insecure = endpoint.protocol === "http:"
  const authorization = wanted.token === undefined ? undefined : Redacted.make(`Bearer ${Redacted.value(wanted.token)}`)

  /** One question of the client library: with the token for the Hub alone, bounded, retried. */
  const ask = (url: URL, what: string): Effect.Effect<Response, FetchFailed> =>
    Http.retried(
      url.host,
      policy,
      Effect.gen(function* () {
        if (url.origin !== endpoint.origin) {
          return yield* new FetchFailed({ reason: `the Hub sends us to ${url.host} for ${what}` })
        }
        const headers = { accept: "application/json" }
        const { stallTimeoutMs } = policy
        const answer = yield* Http.send({ url, headers, authorization, insecure, stallTimeoutMs })
        if (!answer.response.ok) return yield* refusal(answer, url.origin, what, yield* Clock.currentTimeMillis)
        const body = yield* Http.readBounded(answer, pageBytesMax, stallTimeoutMs)
        if (body === undefined) return yield* new FetchFailed({ reason: `${what} has more than ${pageBytesMax} bytes` })
        return new Response(body, { headers: answer.response.headers })
      }).pipe(Effect.scoped)
    ).pipe(
      Effect.catchTag("RegistryUnavailable", (error: RegistryUnavailable) =>
        Effect.fail(new FetchFailed({ reason: error.message }))
      )
    )

  /** Runs something of the client library. */
  const viaLibrary = <A>(what: string, use: (transport: typeof fetch) => Promise<A>): Effect.Effect<A, FetchFailed> =>
    Effect.tryPromise({
      try: (signal) => {
        const transport = (input: string | URL | Request) =>
          Effect.runPromise(
            Effect.mapError(ask(new URL(String(input)), what), (cause) => new LibraryFailed({ cause })),
            { signal }
          )
        return use(transport as typeof fetch)
      },
      catch: (cause) => {
        const inner = cause instanceof LibraryFailed ? cause.cause : cause
        if (inner instanceof FetchFailed) return inner
        return new FetchFailed({
          reason: `${what} can not be read: ${String((inner as Error)?.message ?? inner).slice(0, 300)}`
        })
      }
    })

  const commitOf = Effect.fn("Models.hub.commit")(function* () {
    const what = `revision "${wanted.revision}" of ${repository}`
    const info = yield* viaLibrary(what, async (transport) => {
      const { modelInfo } = await import("@huggingface/hub")
      const { revision } = wanted
      return modelInfo({ name: repository, revision, hubUrl: base, additionalFields: ["sha"], fetch: transport })
    })
    const commit = digits(info.sha, 40)
    if (commit === undefined) return yield* new FetchFailed({ reason: `the Hub names no commit for ${what}` })
    if (digits(wanted.revision, 40) !== undefined && wanted.revision !== commit) {
      return yield* new FetchFailed({ reason: `the Hub answers with commit ${commit} for ${what}` })
    }
    return commit
  })

  const list = Effect.fn("Models.hub.list")(function* (commit: string) {
    const what = `the files of ${repository}`
    const files: Array<HubFile> = []
    const wrong = yield* viaLibrary(what, async (transport) => {
      const { listFiles } = await import("@huggingface/hub")
      let pages = 0
      const bounded = ((input: string) => {
        pages += 1
        if (pages > pagesMax) throw new FetchFailed({ reason: `${what} fill more than ${pagesMax} pages` })
        return transport(input)
      }) as typeof fetch
      const repo = { type: "model", name: repository } as const
      for await (const each of listFiles({ repo, revision: commit, recursive: true, hubUrl: base, fetch: bounded })) {
        if (each.type !== "file") continue
        if (!isSafePath(each.path)) return `a file with the name ${JSON.stringify(each.path).slice(0, 200)}`
        if (isHidden(each.path) || !wanted.takes(each.path)) continue
        const sizeBytes = each.lfs?.size ?? each.size
        if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) return `"${each.path}" without a length`
        const sha256 = each.lfs === undefined ? undefined : digits(each.lfs.oid.replace(/^sha256:/, ""), 64)
        const gitBlob = each.lfs === undefined ? digits(each.oid, 40) : undefined
        if (sha256 === undefined && gitBlob === undefined) return `"${each.path}" without a hash`
        if (files.length === filesMax) return `more than ${filesMax} files`
        files.push({ path: each.path, sizeBytes, sha256, gitBlob })
      }
      return undefined
    })
    if (wrong !== undefined) return yield* new FetchFailed({ reason: `the Hub lists ${wrong}` })
    const twice = repeated(files)
    if (twice !== undefined) return yield* new FetchFailed({ reason: `the Hub lists "${twice}" twice` })
    if (files.length === 0) return yield* new FetchFailed({ reason: `${repository} contains no files to install` })
    return files
  })

  /** Why an answer can not be the file that was listed, by its first headers. */
  const checkHeaders = (file: HubFile, commit: string) => (headers: Headers) => {
    const what = `file "${file.path}" of ${repository}`
    const named = headers.get("x-repo-commit")
    if (named !== null && named !== commit) return `the Hub sends ${what} of commit ${named}, expected ${commit}`
    const length = headers.get("x-linked-size")
    if (length !== null && Number(length) !== file.sizeBytes) {
      return `the Hub announces ${length} bytes for ${what}, expected ${file.sizeBytes}`
    }
    const linked = entityTag(headers, "x-linked-etag") ?? entityTag(headers, "etag")
    const expected = file.sha256 ?? file.gitBlob
    const comparable = linked !== undefined && digits(linked, expected!.length) !== undefined
    return comparable && linked !== expected
      ? `the Hub announces the hash ${linked} for ${what}, expected ${expected}`
      : undefined
  }

  const fetchFile = Effect.fnUntraced(function* (
    file: HubFile,
    commit: string,
    payload: string,
    report: (files: number, bytes: number) => void
  ): Effect.fn.Return<ModelFile, FetchFailed | DiskFull> {
    const name = file.path.split("/").map(encodeURIComponent).join("/")
    const what = `file "${file.path}" of ${repository}`
    const { sha256 } = yield* downloadFile(
      {
        url: new URL(`${base}/${repository}/resolve/${commit}/${name}`),
        authorization,
        insecure,
        target: `${payload}/${file.path}`,
        what,
        sizeBytes: file.sizeBytes,
        check: checkHeaders(file, commit),
        gitBlob: file.gitBlob !== undefined,
        report: (bytes) => report(0, bytes),
        policy
      },
      (content) => {
        const [expected, actual] =
          file.sha256 === undefined ? [file.gitBlob, content.gitBlob] : [file.sha256, content.sha256]
        return expected === actual ? undefined : `${what} has the hash ${actual}, expected ${expected}`
      }
    )
    report(1, 0)
    return { path: file.path, sha256, sizeBytes: file.sizeBytes }
  })

  const resolve = Effect.gen(function* () {
    const commit = yield* commitOf()
    const files = yield* list(commit)
    return {
      resolvedRevision: commit,
      immutable: true,
      files: files.length,
      totalSizeBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0),
      fetch: Effect.fn("Models.hub.fetch")(function* (payload, report) {
        yield* makeDirectories(
          payload,
          files.map((file) => file.path)
        )
        // Large ones first, so that no one is left at the end.
        const order = files.toSorted((a, b) => b.sizeBytes - a.sizeBytes)
        return yield* Effect.forEach(order, (file) => fetchFile(file, commit, payload, report), { concurrency })
      })
    } satisfies ResolvedModel as ResolvedModel
  })

  return { resolve }
}

/** A path that is listed twice, or is also the directory of another; undefined when all can be on one disk. */
const repeated = (files: ReadonlyArray<HubFile>): string | undefined => {
  const paths = new Set<string>()
  const directories = new Set<string>()
  for (const { path } of files) {
    if (paths.has(path)) return path
    paths.add(path)
    for (let at = path.indexOf("/"); at > 0; at = path.indexOf("/", at + 1)) directories.add(path.slice(0, at))
  }
  return [...paths].find((path) => directories.has(path))
}
