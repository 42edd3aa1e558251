/**
 * Sends one HTTP request at a time the way a registry client must: bounded redirects without leaking credentials,
 * stall timeouts, typed passing failures and their retry schedule. Knows nothing of registries' paths.
 */
import { Cause, Data, Duration, Effect, Redacted, Schedule, type Scope, Stream } from "effect"
import { RegistryUnavailable } from "../../domain/errors/image.ts"

/** How often and how patiently requests are repeated. */
export interface RetryPolicy {
  /** Tries in all without progress, default 5. */
  readonly attemptsMax: number
  /** Delay before the second try in milliseconds, doubled each time, default 250. */
  readonly baseDelayMs: number
  /** Longest delay of our own in milliseconds, default 10,000. */
  readonly delayMaxMs: number
  /** Longest `Retry-After` that is waited for in milliseconds, default 120,000; a longer one ends the attempts. */
  readonly retryAfterMaxMs: number
  /** Time without a byte after which a connection counts as lost, in milliseconds, default 30,000. */
  readonly stallTimeoutMs: number
}

export const defaultRetryPolicy: RetryPolicy = {
  attemptsMax: 5,
  baseDelayMs: 250,
  delayMaxMs: 10_000,
  retryAfterMaxMs: 120_000,
  stallTimeoutMs: 30_000
}

/** A failure that may be gone at the next try; never leaves this folder. */
export class Transient extends Data.TaggedError("Transient")<{
  readonly reason: string
  /** What the server asked for, in milliseconds. */
  readonly retryAfterMs: number | undefined
}> {}

const redirectsMax = 5
const redirectStatuses: ReadonlyArray<number> = [301, 302, 303, 307, 308]

/** Host names and addresses that never leave the machine. */
export const isLoopbackHost = (hostname: string): boolean =>
  hostname === "localhost" || hostname === "[::1]" || /^127(?:\.[0-9]{1,3}){3}$/.test(hostname)

/**
 * Names and addresses, as URLs normalize them, that mean this machine or services that only it reaches: loopback, the unspecified
 * address, link-local ones (metadata of clouds), also written as IPv6.
 */
const isLocalHost = (hostname: string): boolean =>
  isLoopbackHost(hostname) ||
  /^(localhost|.+\.localhost)\.?$/.test(hostname) ||
  /^(0|169\.254)\./.test(hostname) ||
  hostname === "[::]" ||
  /^\[fe[89ab][0-9a-f]:/.test(hostname) ||
  // IPv4 within IPv6, in hexadecimal: 0.0.0.0/8, 127.0.0.0/8 and 169.254.0.0/16.
  /^\[::(?:ffff:)?(?:0|7f[0-9a-f]{2}|a9fe|[0-9a-f]{1,2}):[0-9a-f]{1,4}\]$/.test(hostname)

/** Whether a URL may be asked: HTTPS always, plain HTTP on loopback or when the user allowed it. */
export const mayAsk = (url: URL, insecure: boolean): boolean =>
  url.protocol === "https:" || (url.protocol === "http:" && (insecure || isLoopbackHost(url.hostname)))

/**
 * Whether one server may send us to another, by a redirect, as its token server or as a place to upload to. A remote server must not
 * make us talk plainly without being told to, and never to services of this machine.
 */
export const mayFollow = (from: URL, to: URL, insecure: boolean): boolean =>
  mayAsk(to, insecure) && (isLocalHost(from.hostname) || !isLocalHost(to.hostname))

/** Why `mayFollow` refuses, to go on after the name of who sends us there. */
export const whyNot = (to: URL): string =>
  isLocalHost(to.hostname)
    ? `${to.protocol}//${to.host}, a service of this machine`
    : `${to.protocol}//${to.host}, which is not HTTPS`

export interface HttpRequest {
  readonly url: URL
  readonly method?: "GET" | "POST"
  readonly headers: Readonly<Record<string, string>>
  /** Sent to the URL's own origin only, never after a redirect away from it. */
  readonly authorization: Redacted.Redacted<string> | undefined
  readonly body?: Redacted.Redacted<string>
  readonly insecure: boolean
  readonly stallTimeoutMs: number
}

export interface HttpResponse {
  readonly response: Response
  /** Where the answer came from after redirects. */
  readonly url: URL
  /** Headers of the first answer, which may have been a redirect. */
  readonly first: Headers
}

const codeOf = (cause: unknown): string => String((cause as { readonly code?: unknown })?.code ?? "")

/** Says in words what fetch threw; certificate and name errors will not change within seconds and are final. */
const failure = (host: string, cause: unknown): Transient | RegistryUnavailable => {
  const code = codeOf(cause)
  const message = cause instanceof Error ? (cause.message.split(". For more")[0] ?? "") : ""
  // A certificate's names are in the message of its refusal, and the server chose them.
  const text = message.slice(0, 200).replace(/[^\x20-\x7e]/g, "?")
  if (code === "ENOTFOUND") return unavailable(host, "its name is not known to DNS")
  if (/CERT|TLS|SSL|VERIFY|ALTNAME/i.test(code)) return unavailable(host, `TLS: ${text || code}`)
  if (code === "ECONNREFUSED") return new Transient({ reason: "nothing listens there", retryAfterMs: undefined })
  return new Transient({ reason: text || code || "the connection failed", retryAfterMs: undefined })
}

export const unavailable = (host: string, reason: string): RegistryUnavailable =>
  new RegistryUnavailable({ host, attempts: 1, reason })

const stalled = (ms: number): Transient =>
  new Transient({ reason: `nothing arrived for ${ms / 1000} s`, retryAfterMs: undefined })

/** Sends a request and follows redirects. The connection ends with the scope; the body is the caller's to read in time. */
export const send: (request: HttpRequest) => Effect.Effect<HttpResponse, Transient | RegistryUnavailable, Scope.Scope> =
  Effect.fn("oci.http")(function* (request: HttpRequest) {
    const controller = yield* Effect.acquireRelease(
      Effect.sync(() => new AbortController()),
      (controller) => Effect.sync(() => controller.abort())
    )
    const origin = request.url.origin
    let url = request.url
    let away = false
    let first: Headers | undefined
    for (let hop = 0; hop <= redirectsMax; hop++) {
      const headers: Record<string, string> = {
        "user-agent": "bunker",
        "accept-encoding": "identity",
        ...request.headers
      }
      if (request.authorization !== undefined && !away) headers["authorization"] = Redacted.value(request.authorization)
      const target = url
      const options = {
        method: request.method ?? "GET",
        headers,
        redirect: "manual",
        signal: controller.signal,
        // Stored bytes are what the digest is of: a server's content encoding must not be undone on the way.
        decompress: false,
        timeout: false,
        ...(request.body === undefined ? {} : { body: Redacted.value(request.body) })
      } as const
      const response = yield* Effect.tryPromise({
        try: () => fetch(target.href, options),
        catch: (cause) => failure(target.host, cause)
      }).pipe(
        Effect.timeoutOrElse({
          duration: request.stallTimeoutMs,
          orElse: () => Effect.fail(stalled(request.stallTimeoutMs))
        })
      )
      first ??= response.headers
      if (!redirectStatuses.includes(response.status)) return { response, url, first }
      const location = response.headers.get("location")
      yield* Effect.promise(() => response.body?.cancel().catch(() => undefined) ?? Promise.resolve())
      const next = location === null ? null : URL.parse(location, url.href)
      if (next === null) return yield* unavailable(url.host, `it redirects (HTTP ${response.status}) to no address`)
      if (!mayFollow(url, next, request.insecure)) {
        return yield* unavailable(url.host, `it redirects to ${whyNot(next)}`)
      }
      if (request.body !== undefined && next.origin !== origin) {
        return yield* unavailable(url.host, `it redirects what holds a secret to ${next.host}`)
      }
      away = away || next.origin !== origin
      url = next
    }
    return yield* unavailable(request.url.host, `it redirects more than ${redirectsMax} times`)
  })

/**
 * The body, failing with `Transient` when the connection breaks or stalls. Reads by itself: a timeout of the stream would start and
 * interrupt a fiber for each piece, which took as long as hashing it.
 */
export const bodyOf = (
  { response, url }: HttpResponse,
  stallTimeoutMs: number
): Stream.Stream<Uint8Array, Transient | RegistryUnavailable> => {
  const body = response.body
  if (body === null) return Stream.empty
  const open = Effect.gen(function* () {
    const reader = body.getReader()
    // Also while a read goes on: then that one ends.
    yield* Effect.addFinalizer(() => Effect.promise(() => reader.cancel().catch(() => undefined)))
    return Stream.fromPull(Effect.succeed(pieceOf(reader, url, stallTimeoutMs)))
  })
  return Stream.unwrap(open)
}

type Piece = readonly [Uint8Array]

const pieceOf = (reader: Pick<ReadableStreamDefaultReader<Uint8Array>, "read">, url: URL, stallTimeoutMs: number) =>
  Effect.callback<Piece, Transient | RegistryUnavailable | Cause.Done<void>>((resume) => {
    const timer = setTimeout(() => resume(Effect.fail(stalled(stallTimeoutMs))), stallTimeoutMs)
    const settle = (outcome: Effect.Effect<Piece, Transient | RegistryUnavailable | Cause.Done<void>>) => {
      clearTimeout(timer)
      resume(outcome)
    }
    reader.read().then(
      ({ done, value }) => settle(done ? Cause.done() : Effect.succeed([value])),
      (cause) => settle(Effect.fail(failure(url.host, cause)))
    )
    return Effect.sync(() => clearTimeout(timer))
  })

/** Reads a small body whole; undefined when it has more than `maxBytes`. */
export const readBounded = Effect.fnUntraced(function* (
  answer: HttpResponse,
  maxBytes: number,
  stallTimeoutMs: number
) {
  const chunks: Array<Uint8Array> = []
  let length = 0
  const whole = yield* bodyOf(answer, stallTimeoutMs).pipe(
    Stream.takeWhile((chunk) => {
      length += chunk.length
      return length <= maxBytes
    }),
    Stream.runForEach((chunk) => Effect.sync(() => void chunks.push(chunk))),
    Effect.map(() => length <= maxBytes)
  )
  return whole ? new Uint8Array(Buffer.concat(chunks, length)) : undefined
})

/** `Retry-After` in milliseconds: seconds or an HTTP date (RFC 9110, section 10.2.3). */
export const retryAfterMs = (headers: Headers, nowMs: number): number | undefined => {
  const text = headers.get("retry-after")?.trim()
  if (!text) return undefined
  if (/^[0-9]{1,9}$/.test(text)) return Number(text) * 1000
  const at = Date.parse(text)
  return Number.isNaN(at) ? undefined : Math.max(0, at - nowMs)
}

/** Exponential backoff with jitter that waits at least as long as the server asked, and ends at what is no `Transient`. */
export const backoff = (policy: RetryPolicy): Schedule.Schedule<unknown, unknown> =>
  Schedule.exponential(policy.baseDelayMs).pipe(
    Schedule.jittered,
    Schedule.setInputType<unknown>(),
    Schedule.modifyDelay(({ duration, input }) => {
      const asked = input instanceof Transient ? (input.retryAfterMs ?? 0) : 0
      return Effect.succeed(Math.max(asked, Math.min(Duration.toMillis(duration), policy.delayMaxMs)))
    }),
    Schedule.upTo({ times: policy.attemptsMax - 1 }),
    Schedule.while(({ input }) => Effect.succeed(isRetryable(policy, input)))
  )

/** Whether trying again makes sense under the policy. */
const isRetryable = (policy: RetryPolicy, error: unknown): error is Transient =>
  error instanceof Transient && (error.retryAfterMs ?? 0) <= policy.retryAfterMaxMs

/** What is left of a passing failure once no more tries are made. */
export const settle = <E>(host: string, attempts: number, error: E | Transient): E | RegistryUnavailable => {
  if (!(error instanceof Transient)) return error
  const asked = error.retryAfterMs === undefined ? "" : `, it asks to wait ${Math.ceil(error.retryAfterMs / 1000)} s`
  return new RegistryUnavailable({ host, attempts, reason: error.reason + asked })
}

/** Repeats an effect while it fails with `Transient`, then turns that into `RegistryUnavailable`. */
export const retried = <A, E, R>(
  host: string,
  policy: RetryPolicy,
  effect: Effect.Effect<A, E | Transient, R>
): Effect.Effect<A, Exclude<E, Transient> | RegistryUnavailable, R> =>
  Effect.suspend(() => {
    let attempts = 0
    return Effect.suspend(() => {
      attempts += 1
      return effect
    }).pipe(
      Effect.retry(backoff(policy)),
      Effect.mapError((error) => settle(host, attempts, error as Exclude<E, Transient> | Transient))
    )
  })
