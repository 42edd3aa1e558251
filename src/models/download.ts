/**
 * Downloads one file over HTTP into a new file: hashed as it comes, taken up again by Range where a connection was cut, never more
 * bytes than were announced. Follows redirects without the token (see oci/registry/http.ts). Knows no Hub and no paths of it.
 */

import fs from "node:fs"
import { Clock, Effect, type Redacted } from "effect"
import type { RegistryUnavailable } from "../domain/errors/image.ts"
import { DiskFull } from "../domain/errors/store.ts"
import * as Http from "../oci/registry/http.ts"
import { FetchFailed } from "./source.ts"

export interface Download {
  readonly url: URL
  readonly authorization: Redacted.Redacted<string> | undefined
  /** Plain HTTP also to hosts that are not loopback. */
  readonly insecure: boolean
  /** File to make; it must not exist. */
  readonly target: string
  /** What it is called in errors. */
  readonly what: string
  readonly sizeBytes: number
  /** Whether the content can be what is wanted, by each answer's headers: undefined, or why not. */
  readonly check: (headers: Headers) => string | undefined
  /** Also hash it as git does a blob. */
  readonly gitBlob: boolean
  readonly report: (bytes: number) => void
  readonly policy: Http.RetryPolicy
}

export interface Downloaded {
  readonly sha256: string
  /** Set when it was asked for. */
  readonly gitBlob: string | undefined
}

/** Connections that one file may need, however much each of them brings. */
const connectionsMax = 256

const passing = (status: number): boolean => status === 408 || status === 425 || status === 429 || status >= 500

/** What an answer that is no success means. `Transient` when it may be gone at the next try. */
export const refusal = (
  answer: Http.HttpResponse,
  origin: string,
  what: string,
  nowMs: number
): Http.Transient | FetchFailed => {
  const { status, headers } = answer.response
  const away = answer.url.origin !== origin
  const from = away ? ` from ${answer.url.host}` : ""
  // Storage refuses a signed address that has run out; the next try gets a new one.
  if (passing(status) || (away && status >= 400)) {
    return new Http.Transient({
      reason: `HTTP ${status}${from} for ${what}`,
      retryAfterMs: Http.retryAfterMs(headers, nowMs)
    })
  }
  const code = (headers.get("x-error-code") ?? "").replace(/[^A-Za-z]/g, "").slice(0, 40)
  const named = code === "" ? "" : `, ${code}`
  if (status === 401 || status === 403) {
    const advice = "it is gated, private or not there; name a credential_alias whose token may read it"
    return new FetchFailed({ reason: `${answer.url.host} refused ${what} (HTTP ${status}${named}): ${advice}` })
  }
  if (status === 404) return new FetchFailed({ reason: `${answer.url.host} has no ${what} (HTTP 404${named})` })
  return new FetchFailed({ reason: `HTTP ${status}${named}${from} for ${what}` })
}

/** One file in the making. */
class Part {
  readonly fd: number
  received = 0
  connections = 0
  #sha256 = new Bun.CryptoHasher("sha256")
  #git: Bun.CryptoHasher | undefined

  constructor(private readonly download: Download) {
    this.fd = fs.openSync(download.target, "wx", 0o644)
    this.#restart()
  }

  #restart(): void {
    this.received = 0
    this.#sha256 = new Bun.CryptoHasher("sha256")
    this.#git = this.download.gitBlob ? new Bun.CryptoHasher("sha1") : undefined
    this.#git?.update(`blob ${this.download.sizeBytes}\0`)
  }

  /** Forgets what came so far. */
  again(): void {
    this.download.report(-this.received)
    fs.ftruncateSync(this.fd, 0)
    this.#restart()
  }

  take(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      at += fs.writeSync(this.fd, chunk, at, chunk.length - at, this.received + at)
    }
    this.#sha256.update(chunk)
    this.#git?.update(chunk)
    this.received += chunk.length
    this.download.report(chunk.length)
  }

  finish(): Downloaded {
    fs.fchmodSync(this.fd, 0o444)
    return { sha256: this.#sha256.digest("hex"), gitBlob: this.#git?.digest("hex") }
  }
}

const wrongLength = (download: Download, found: string): FetchFailed =>
  new FetchFailed({ reason: `${download.what} has ${found} in place of ${download.sizeBytes} bytes` })

/** How many bytes of an answer are here already. */
const bytesToSkip = (part: Part, download: Download, response: Response): number | FetchFailed | Http.Transient => {
  if (response.status === 206) {
    const range = /^bytes ([0-9]{1,15})-[0-9]{1,15}\/([0-9]{1,15}|\*)$/.exec(
      response.headers.get("content-range") ?? ""
    )
    const [, start = "NaN", total = "*"] = range ?? []
    if (total !== "*" && Number(total) !== download.sizeBytes) return wrongLength(download, `${total} bytes`)
    if (Number(start) <= part.received) return part.received - Number(start)
    return new Http.Transient({ reason: `another range of ${download.what} was sent`, retryAfterMs: undefined })
  }
  const length = response.headers.get("content-length")
  if (length !== null && Number(length) !== download.sizeBytes) return wrongLength(download, `${length} bytes`)
  return part.received
}

/** Reads a body into the part; rejects when the connection breaks or nothing arrives for too long. */
const drain = async (
  part: Part,
  download: Download,
  response: Response,
  skip: number,
  signal: AbortSignal
): Promise<FetchFailed | undefined> => {
  const reader = response.body?.getReader()
  if (reader === undefined) return undefined
  const stall = download.policy.stallTimeoutMs
  let left = skip
  let timer: Timer | undefined
  let stalled = false
  const cancel = (): void => void reader.cancel().catch(() => undefined)
  signal.addEventListener("abort", cancel)
  const arm = (): void => {
    clearTimeout(timer)
    timer = setTimeout(() => {
      stalled = true
      cancel()
    }, stall)
  }
  try {
    let armedAt = performance.now()
    arm()
    for (;;) {
      const { done, value } = await reader.read()
      if (stalled) throw new Error(`nothing arrived for ${stall / 1000} s`)
      if (done || signal.aborted) return undefined
      // A timer for each chunk would cost more than the chunk.
      if (performance.now() - armedAt > 250) {
        armedAt = performance.now()
        arm()
      }
      const drop = Math.min(value.length, left)
      left -= drop
      const chunk = drop === 0 ? value : value.subarray(drop)
      if (part.received + chunk.length > download.sizeBytes) return wrongLength(download, "more")
      if (chunk.length > 0) part.take(chunk)
    }
  } finally {
    clearTimeout(timer)
    signal.removeEventListener("abort", cancel)
    cancel()
  }
}

type AttemptError = FetchFailed | DiskFull | Http.Transient | RegistryUnavailable

/** One connection's worth of the file, from where the last one ended. */
const attempt = (part: Part, download: Download): Effect.Effect<void, AttemptError> =>
  Effect.scoped(
    Effect.gen(function* () {
      part.connections += 1
      const { what, policy, sizeBytes } = download
      const headers: Record<string, string> = part.received === 0 ? {} : { range: `bytes=${part.received}-` }
      const answer = yield* Http.send({
        url: download.url,
        headers,
        authorization: download.authorization,
        insecure: download.insecure,
        stallTimeoutMs: policy.stallTimeoutMs
      })
      const { response, first } = answer
      if (!response.ok) {
        const error = refusal(answer, download.url.origin, what, yield* Clock.currentTimeMillis)
        if (response.status === 416) part.again()
        return yield* error
      }
      const wrong = download.check(first)
      if (wrong !== undefined) return yield* new FetchFailed({ reason: wrong })
      const skip = bytesToSkip(part, download, response)
      if (typeof skip !== "number") return yield* skip
      const failed = yield* Effect.tryPromise({
        try: (signal) => drain(part, download, response, skip, signal),
        catch: (cause): AttemptError => {
          const { code, message } = cause as NodeJS.ErrnoException
          if (code === "ENOSPC" || code === "EDQUOT") return new DiskFull({ path: download.target })
          return new Http.Transient({
            reason: `${what}: ${message.split(". For more")[0] || "the connection broke"}`,
            retryAfterMs: undefined
          })
        }
      })
      if (failed !== undefined) return yield* failed
      if (part.received < sizeBytes) {
        return yield* new Http.Transient({
          reason: `${what} ended after ${part.received} of ${sizeBytes} bytes`,
          retryAfterMs: undefined
        })
      }
    })
  )

const delayMs = (policy: Http.RetryPolicy, failures: number, asked: number): number => {
  const own = Math.min(policy.baseDelayMs * 2 ** (failures - 1), policy.delayMaxMs)
  return Math.max(asked, Math.round(own * (0.8 + 0.4 * Math.random())))
}

/** Brings the whole file. Tries are counted anew with every byte of progress. */
const bring = Effect.fnUntraced(function* (part: Part, download: Download) {
  const { policy } = download
  for (let failures = 0; ; ) {
    const before = part.received
    const done = yield* attempt(part, download).pipe(
      Effect.as(undefined),
      Effect.catchTag("Transient", (error) => Effect.succeed(error)),
      Effect.catchTag("RegistryUnavailable", (error) => Effect.fail(new FetchFailed({ reason: error.message })))
    )
    if (done === undefined) return
    failures = part.received > before ? 1 : failures + 1
    const asked = done.retryAfterMs ?? 0
    if (failures >= policy.attemptsMax || asked > policy.retryAfterMaxMs || part.connections >= connectionsMax) {
      const wait = asked > 0 ? `, it asks to wait ${Math.ceil(asked / 1000)} s` : ""
      return yield* new FetchFailed({ reason: `${done.reason}${wait}, after ${part.connections} attempt(s)` })
    }
    yield* Effect.sleep(delayMs(policy, failures, asked))
  }
})

/**
 * Downloads and hashes. `wrong` says why the content is not what was wanted: then it is fetched once more from its beginning, for
 * it may have been spoilt on the way, and then given up.
 */
export const downloadFile = Effect.fn("Models.download")(function* (
  download: Download,
  wrong: (content: Downloaded) => string | undefined
): Effect.fn.Return<Downloaded, FetchFailed | DiskFull> {
  const open = Effect.try({
    try: () => new Part(download),
    catch: (cause) => new FetchFailed({ reason: `${download.target} can not be made: ${(cause as Error).message}` })
  })
  return yield* Effect.acquireUseRelease(
    open,
    (part) =>
      Effect.gen(function* () {
        for (let tries = 1; ; tries++) {
          yield* bring(part, download)
          const content = part.finish()
          const reason = wrong(content)
          if (reason === undefined) return content
          if (tries === 2) return yield* new FetchFailed({ reason })
          part.again()
        }
      }),
    (part) => Effect.sync(() => fs.closeSync(part.fd))
  )
})
