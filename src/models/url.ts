/**
 * Takes a model that is one file at a URL. A revision `sha256:…` pins its content; any other is recorded as it is. Unpacks nothing.
 */
import { Clock, Effect } from "effect"
import { ModelSourceInvalid } from "../domain/errors/model.ts"
import * as Http from "../oci/registry/http.ts"
import { downloadFile, refusal } from "./download.ts"
import { isHidden, isSafePath } from "./manifest.ts"
import { FetchFailed, type ModelSource, type ResolvedModel, type Wanted } from "./source.ts"

/** Longest file in bytes. */
const fileBytesMax = 2 ** 44

const fileName = (url: URL): string | undefined => {
  try {
    const name = decodeURIComponent(url.pathname.split("/").at(-1) ?? "")
    return isSafePath(name) && !name.includes("/") && !isHidden(name) ? name : undefined
  } catch {
    return undefined
  }
}

export const urlSource = Effect.fn("Models.url")(function* (
  wanted: Wanted,
  options: { readonly retry?: Partial<Http.RetryPolicy> }
): Effect.fn.Return<ModelSource, ModelSourceInvalid> {
  const invalid = (reason: string) => new ModelSourceInvalid({ model: wanted.name, source: wanted.source, reason })
  const url = URL.parse(wanted.source)
  if (url === null || !Http.mayAsk(url, false)) return yield* invalid("it is no https:// address")
  if (url.username !== "" || url.password !== "") return yield* invalid("it carries a user name or password")
  const name = fileName(url)
  if (name === undefined) return yield* invalid("its path does not end in the name of a file")
  if (!wanted.takes(name)) return yield* invalid(`the patterns leave its one file "${name}" out`)
  const policy: Http.RetryPolicy = { ...Http.defaultRetryPolicy, ...options.retry }
  const pinned = /^sha256:([0-9a-f]{64})$/.exec(wanted.revision)?.[1]
  const what = `"${name}"`

  /** Asks for the file and hangs up after the headers: not every server answers HEAD. */
  const length = Http.retried(
    url.host,
    policy,
    Effect.gen(function* () {
      const { stallTimeoutMs } = policy
      const answer = yield* Http.send({ url, headers: {}, authorization: undefined, insecure: false, stallTimeoutMs })
      if (!answer.response.ok) return yield* refusal(answer, url.origin, what, yield* Clock.currentTimeMillis)
      const text = answer.response.headers.get("content-length")
      const size = text === null ? Number.NaN : Number(text)
      if (Number.isSafeInteger(size) && size >= 0 && size <= fileBytesMax) return size
      return yield* new FetchFailed({ reason: `${url.host} does not say how long ${what} is` })
    }).pipe(Effect.scoped)
  ).pipe(Effect.catchTag("RegistryUnavailable", (error) => Effect.fail(new FetchFailed({ reason: error.message }))))

  const resolve = Effect.map(length, (sizeBytes): ResolvedModel => {
    const fetch: ResolvedModel["fetch"] = Effect.fnUntraced(function* (payload, report) {
      const { sha256 } = yield* downloadFile(
        {
          url,
          authorization: undefined,
          insecure: false,
          target: `${payload}/${name}`,
          what,
          sizeBytes,
          check: () => undefined,
          gitBlob: false,
          report: (bytes) => report(0, bytes),
          policy
        },
        (content) =>
          pinned === undefined || content.sha256 === pinned
            ? undefined
            : `${what} has the sha256 ${content.sha256}, expected ${pinned}`
      )
      report(1, 0)
      return [{ path: name, sha256, sizeBytes }]
    })
    return {
      resolvedRevision: wanted.revision,
      immutable: pinned !== undefined,
      files: 1,
      totalSizeBytes: sizeBytes,
      fetch
    }
  })
  return { resolve }
})
