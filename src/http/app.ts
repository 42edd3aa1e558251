/**
 * Answers HTTP: health, version, and the routes of every plugin, each as decode → actor → encode. Keeps no state, knows no actor.
 * Formats: JSON, snake_case; errors are `{"ok": false, "code", "error", "details"}`; a message that streams answers server-sent
 * events (WHATWG HTML, "Server-sent events") to those who accept them, else a JSON array (or its last event) at its end.
 */
import { Cause, Effect, Exit, Option, Stream } from "effect"
import { type Context, Hono, type MiddlewareHandler } from "hono"
import { bodyLimit } from "hono/body-limit"
import { type SSEStreamingApi, streamSSE } from "hono/streaming"
import { saidBy } from "../domain/errors/terms.ts"
import { OutputTooLarge } from "../domain/errors/vm.ts"
import { outputBytesMax } from "../domain/sandbox/exec.ts"
import { snakeCase } from "../domain/wire.ts"
import type { PluginRoute } from "../plugin/Plugin.ts"
import type { PluginHost, Reply } from "../plugin/PluginHost.ts"
import { receiveBytes, type SpoolBody, sendBytes } from "./bytes.ts"
import { docsHeaders, docsPage } from "./docs.ts"
import { statusOf } from "./errors.ts"
import { type Failure, failure } from "./failure.ts"
import { RequestCounter, renderMetrics } from "./metrics.ts"
import { type OpenApi, openApi } from "./openapi.ts"

/** Most bytes in a request body. */
const bodyBytesMax = 1024 * 1024
/** Most events of a stream that is answered as one array. */
const eventsMax = 10_000

export interface HttpOptions {
  readonly version: string
  readonly host: PluginHost["Service"]
  /** Runs an effect for one request; interrupted when the client goes away. */
  readonly run: <A, E>(effect: Effect.Effect<A, E>, signal: AbortSignal) => Promise<Exit.Exit<A, E>>
  /** Where uploads wait until they are read. */
  readonly spool: SpoolBody
  /** True when the service can take work. */
  readonly ready: () => boolean
  /** Receives what clients must not see: defects. */
  readonly report: (cause: Cause.Cause<unknown>) => void
  /** Time between two comments in a stream of events, in milliseconds; default 15,000. */
  readonly keepAliveMs?: number
}

/** What a client sees of a cause, and with which status. A defect is ours: its text stays in the log. */
const describe = (cause: Cause.Cause<unknown>, options: HttpOptions): readonly [Failure, number] => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause)) as Readonly<Record<string, unknown>> | undefined
  if (typeof error?.["_tag"] === "string") {
    const { _tag: tag, message } = error
    const shown = typeof message === "string" && message !== "" ? message : tag
    return [failure(tag, saidBy("http", shown), detailsOf(error)), statusOf(tag)]
  }
  // Interrupted: the client is gone and sees none of this.
  if (!Cause.hasInterruptsOnly(cause)) options.report(cause)
  return [failure("InternalError", "internal error; see the server's log"), 500]
}

/** The fields that an error's schema names, under their names of the wire. */
const detailsOf = (error: Readonly<Record<string, unknown>>): Failure["details"] => {
  const { fields = {} } = error.constructor as { readonly fields?: object }
  const names = Object.keys(fields).filter((name) => name !== "_tag" && error[name] !== undefined)
  return Object.fromEntries(names.map((name) => [snakeCase(name.replace(/_$/, "")), error[name]]))
}

const toResponse = (c: Context, cause: Cause.Cause<unknown>, options: HttpOptions): Response => {
  const [body, status] = describe(cause, options)
  return c.json(body, status as 400)
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const merge = (
  below: Readonly<Record<string, unknown>>,
  above: Readonly<Record<string, unknown>>
): Readonly<Record<string, unknown>> => {
  // Entries, as assigning a key named __proto__ would set the prototype and lose it.
  const merged = Object.entries(above).map(([key, value]) => {
    const under = Object.hasOwn(below, key) ? below[key] : undefined
    return [key, isObject(under) && isObject(value) ? merge(under, value) : value] as const
  })
  return Object.fromEntries([...Object.entries(below), ...merged])
}

/** The JSON object in a body, `{}` when it is empty; undefined when it is anything else. */
const readBody = async (c: Context): Promise<Readonly<Record<string, unknown>> | undefined> => {
  const text = await c.req.text()
  if (text === "") return {}
  try {
    const body: unknown = JSON.parse(text)
    return isObject(body) ? body : undefined
  } catch {
    return undefined
  }
}

type Values = Extract<Reply, { readonly _tag: "Many" }>["values"]

/** Proxies give up after 30 s and more. */
const keepAliveMsDefault = 15_000

/** Time in which a message that may be silent can still fail with a status of its own, in milliseconds. */
const silentMs = 1000

/** Sends a comment now and then until it has ended, one at a time, so that no proxy takes a silent stream for a dead one. */
const keptAlive = async <A>(sse: SSEStreamingApi, ended: Promise<A>, everyMs = keepAliveMsDefault): Promise<A> => {
  let waiting = false
  const timer = setInterval(() => {
    if (waiting) return
    waiting = true
    void sse.write(":\n\n").finally(() => {
      waiting = false
    })
  }, everyMs)
  return ended.finally(() => clearInterval(timer))
}

/** Events as they come. A failure before the first one has its own status, as every other answer. */
const streamEvents = async (
  c: Context,
  values: Values,
  options: HttpOptions,
  mayBeSilent = false
): Promise<Response> => {
  const gone = new AbortController()
  const leave = () => gone.abort()
  c.req.raw.signal.addEventListener("abort", leave)
  const begun = Promise.withResolvers<"begun">()
  const opened = Promise.withResolvers<SSEStreamingApi>()
  const send = (data: unknown) =>
    Effect.promise(async () => {
      begun.resolve("begun")
      const sse = await opened.promise
      await sse.writeSSE({ event: "message", data: JSON.stringify(data) })
    })
  const ended = options.run(Stream.runForEach(values, send), gone.signal)
  const first = await Promise.race([begun.promise, ended, ...(mayBeSilent ? [Bun.sleep(silentMs)] : [])])
  if (typeof first === "object" && Exit.isFailure(first)) return toResponse(c, first.cause, options)
  return streamSSE(c, async (sse) => {
    sse.onAbort(leave)
    // A comment: Bun sends the head of an answer with the first bytes of its body.
    if (first === undefined) await sse.write(":\n\n")
    opened.resolve(sse)
    const exit = await keptAlive(sse, ended, options.keepAliveMs)
    if (gone.signal.aborted) return
    if (Exit.isSuccess(exit)) await sse.writeSSE({ event: "end", data: "{}" })
    else await sse.writeSSE({ event: "error", data: JSON.stringify(describe(exit.cause, options)[0]) })
  })
}

/** The last event alone. */
const lastEvent = async (c: Context, values: Values, options: HttpOptions): Promise<Response> => {
  const exit = await options.run(Stream.runLast(values), c.req.raw.signal)
  if (Exit.isFailure(exit)) return toResponse(c, exit.cause, options)
  if (Option.isNone(exit.value)) return c.body(null, 204)
  // Which event it was says nothing where there is but one.
  const { _tag, ...last } = exit.value.value as { readonly _tag?: string }
  return c.json(last)
}

/** Bytes that an event is counted with: those of its output, which is base64, else those of its text. */
const bytesOf = (event: unknown, text: string): number => {
  const { data } = Object(event) as { readonly data?: unknown }
  return typeof data === "string" ? Buffer.byteLength(data, "base64") : Buffer.byteLength(text)
}

/** All events at the end, as one array of at most `outputBytesMax` bytes; what has more is ended. */
const collectEvents = async (c: Context, values: Values, options: HttpOptions): Promise<Response> => {
  const advice = "ask for them as they come, with 'Accept: text/event-stream'"
  const texts: Array<string> = []
  let bytes = 0
  const take = (event: unknown) => {
    const text = JSON.stringify(event)
    bytes += bytesOf(event, text)
    if (bytes > outputBytesMax) return Effect.fail(new OutputTooLarge({ bytesMax: outputBytesMax, advice }))
    return Effect.sync(() => void texts.push(text))
  }
  const exit = await options.run(Stream.runForEach(Stream.take(values, eventsMax + 1), take), c.req.raw.signal)
  if (Exit.isFailure(exit)) return toResponse(c, exit.cause, options)
  if (texts.length <= eventsMax) return c.body(`[${texts.join(",")}]`, 200, { "content-type": "application/json" })
  return c.json(failure("TooManyEvents", `there are more than ${eventsMax} events; ${advice}`), 422)
}

/** RFC 8259 and RFC 6839; not lines of JSON. */
const jsonType = /^\s*(application\/json|[^;]+\+json)\s*(;|$)/i

/** True for a body that is to be kept as a file. */
const isUpload = (c: Context, route: PluginRoute): boolean =>
  route.upload !== undefined &&
  (route.uploadBytesMax !== undefined || !jsonType.test(c.req.header("content-type") ?? "application/json"))

/** What a route's path takes, as an expression over the path of a request. */
const pathPattern = (path: string): RegExp =>
  new RegExp(`^${path.replace(/:[a-z_]+(?:\{([^}]+)\})?/g, (_, pattern?: string) => pattern ?? "[^/]+")}$`)

const handler = (plugin: string, route: PluginRoute, options: HttpOptions) => async (c: Context) => {
  if (isUpload(c, route)) return upload(plugin, route, options, c)
  const body = await readBody(c)
  if (body === undefined) return c.json(failure("BadRequest", "the body is not a JSON object"), 400)
  return dispatch(plugin, route, options, c, body)
}

/** Keeps the body as a file until the message is answered whole. */
const upload = async (plugin: string, route: PluginRoute, options: HttpOptions, c: Context): Promise<Response> => {
  const { file, release, tooLong } = await receiveBytes(c.req.raw, options.spool, options.run, route.uploadBytesMax)
  if (tooLong) {
    Effect.runFork(release)
    return c.json(failure("BodyTooLarge", `the body has more than ${route.uploadBytesMax} bytes`), 413)
  }
  if (Exit.isSuccess(file))
    return dispatch(plugin, route, options, c, { [route.upload!]: file.value }, { release, spooled: route.upload! })
  Effect.runFork(release)
  return toResponse(c, file.cause, options)
}

const dispatch = async (
  plugin: string,
  route: PluginRoute,
  options: HttpOptions,
  c: Context,
  body: Readonly<Record<string, unknown>>,
  sent: { readonly release: Effect.Effect<void>; readonly spooled: string } | undefined = undefined
): Promise<Response> => {
  const release = sent?.release ?? Effect.void
  const inPath: Record<string, string> = { ...c.req.param() }
  const placed: Record<string, Readonly<Record<string, string>>> = {}
  for (const [name, field] of Object.entries(route.within ?? {})) {
    placed[field] = { ...placed[field], [name]: inPath[name]! }
    delete inPath[name]
  }
  const letter = {
    plugin,
    message: route.message,
    payload: merge(merge(route.defaults ?? {}, body), placed),
    text: { ...c.req.query(), ...inPath },
    ...(sent === undefined ? {} : { spooled: sent.spooled })
  }
  const exit = await options.run(
    options.host.send(letter).pipe(
      Effect.onError(() => release),
      Effect.tap((reply) => (reply._tag === "One" ? release : Effect.void)),
      Effect.map(
        (reply): Reply => (reply._tag === "Many" ? { ...reply, values: Stream.ensuring(reply.values, release) } : reply)
      )
    ),
    c.req.raw.signal
  )
  if (Exit.isFailure(exit)) return toResponse(c, exit.cause, options)
  const reply = exit.value
  if (reply._tag === "Many") {
    if (route.download !== undefined) {
      const bytes = reply.plain as Stream.Stream<Uint8Array, { readonly _tag: string }>
      const failed = (exit: Exit.Exit<void, unknown>) =>
        Exit.isFailure(exit) ? toResponse(c, exit.cause, options) : c.body(null)
      return sendBytes(bytes, route.download, options.run, c.req.raw.signal, failed)
    }
    const wantsEvents = (c.req.header("accept") ?? "").includes("text/event-stream")
    if (wantsEvents) return streamEvents(c, reply.values, options, route.mayBeSilent)
    return route.answers === "last" ? lastEvent(c, reply.values, options) : collectEvents(c, reply.values, options)
  }
  return reply.value === undefined ? c.body(null, 204) : c.json(reply.value as object, (route.status ?? 200) as 200)
}

const methods = ["GET", "POST", "PUT", "PATCH", "DELETE"] as const

/** Methods that a path answers to; more than the middleware's own match means a route. */
const methodsOf = (app: Hono, path: string, middlewares: number): ReadonlyArray<string> =>
  methods.filter((method) => app.router.match(method, path)[0].length > middlewares)

/** Builds the application. */
export const makeApp = (options: HttpOptions): Hono => {
  const app = new Hono()
  const limit: MiddlewareHandler = bodyLimit({
    maxSize: bodyBytesMax,
    onError: (c) => c.json(failure("BodyTooLarge", `the body has more than ${bodyBytesMax} bytes`), 413)
  })
  const uploads = options.host.plugins
    .flatMap((plugin) => plugin.routes.filter((route) => route.upload !== undefined))
    .map((route) => ({ route, pattern: pathPattern(route.path) }))
  const requests = new RequestCounter()
  const bounded: MiddlewareHandler = (c, next) =>
    uploads.some(
      ({ route, pattern }) => route.method === c.req.method && pattern.test(c.req.path) && isUpload(c, route)
    )
      ? next()
      : limit(c, next)
  app.use(async (c, next) => {
    const answer = await bounded(c, next)
    requests.add(c.req.method, answer instanceof Response ? answer.status : c.res.status)
    return answer
  })
  app.get("/healthz", (c) => c.json({ ok: true }))
  app.get("/readyz", (c) =>
    options.ready() ? c.json({ ok: true }) : c.json(failure("NotReady", "shutting down"), 503)
  )
  app.get("/metrics", async (c) => {
    const exit = await options.run(renderMetrics(options.host, requests), c.req.raw.signal)
    if (Exit.isFailure(exit)) return toResponse(c, exit.cause, options)
    return c.body(exit.value, 200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" })
  })
  app.get("/v1/version", (c) => c.json({ version: options.version, bun: Bun.version }))
  let described: OpenApi | undefined
  const description = () => (described ??= openApi(options.host.plugins, options.version))
  app.get("/openapi.json", (c) => c.json(description()))
  app.get("/docs", (c) => c.body(docsPage(description()), 200, docsHeaders))
  for (const plugin of options.host.plugins) {
    for (const route of plugin.routes) app.on(route.method, route.path, handler(plugin.name, route, options))
  }
  app.notFound((c) => {
    const allowed = methodsOf(app, c.req.path, 1)
    if (allowed.length === 0) return c.json(failure("NotFound", `there is no ${c.req.path}`), 404)
    const error = `${c.req.path} takes ${allowed.join(", ")}, not ${c.req.method}`
    return c.json(failure("MethodNotAllowed", error), 405, { allow: allowed.join(", ") })
  })
  app.onError((error, c) => {
    options.report(Cause.die(error))
    return c.json(failure("InternalError", "internal error; see the server's log"), 500)
  })
  return app
}
