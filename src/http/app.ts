/**
 * Answers HTTP: health, version, and the routes of every plugin, each as decode → actor → encode. Keeps no state, knows no actor.
 * Formats: JSON, snake_case where Bunker's own; errors are `{"ok": false, "code", "error"}`; a message that streams answers
 * server-sent events (WHATWG HTML, "Server-sent events").
 */
import { Cause, Effect, Exit, Option, Stream } from "effect"
import { type Context, Hono } from "hono"
import { bodyLimit } from "hono/body-limit"
import { streamSSE } from "hono/streaming"
import type { PluginRoute } from "../plugin/Plugin.ts"
import type { PluginHost, Reply } from "../plugin/PluginHost.ts"
import { statusOf } from "./errors.ts"

/** Most bytes in a request body. */
const bodyBytesMax = 1024 * 1024

export interface HttpOptions {
  readonly version: string
  readonly host: PluginHost["Service"]
  /** Runs an effect for one request; interrupted when the client goes away. */
  readonly run: <A, E>(effect: Effect.Effect<A, E>, signal: AbortSignal) => Promise<Exit.Exit<A, E>>
  /** True when the service can take work. */
  readonly ready: () => boolean
}

interface Failure {
  readonly ok: false
  readonly code: string
  readonly error: string
}

const failure = (code: string, error: string): Failure => ({ ok: false, code, error })

const toResponse = (c: Context, cause: Cause.Cause<unknown>): Response => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause)) as
    | { readonly _tag?: string; readonly message?: string }
    | undefined
  // A defect is ours: its text stays in the log.
  if (error?._tag === undefined) return c.json(failure("InternalError", "internal error; see the server's log"), 500)
  return c.json(failure(error._tag, error.message ?? error._tag), statusOf(error._tag) as 400)
}

/** The payload of a message: path parameters over the query over the JSON body. Undefined when the body is no JSON object. */
const payloadOf = async (c: Context): Promise<Record<string, unknown> | undefined> => {
  const text = await c.req.text()
  let body: unknown = {}
  if (text !== "") {
    try {
      body = JSON.parse(text)
    } catch {
      return undefined
    }
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) return undefined
  return { ...(body as Record<string, unknown>), ...c.req.query(), ...c.req.param() }
}

const events = (
  c: Context,
  values: Extract<Reply, { readonly _tag: "Many" }>["values"],
  options: HttpOptions
): Response =>
  streamSSE(c, async (sse) => {
    const aborted = new AbortController()
    sse.onAbort(() => aborted.abort())
    const send = (event: string, data: unknown) =>
      Effect.promise(() => sse.writeSSE({ event, data: JSON.stringify(data) }))
    const exit = await options.run(
      Stream.runForEach(values, (value) => send("message", value)),
      aborted.signal
    )
    if (Exit.isSuccess(exit)) return
    const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause)) as
      | { readonly _tag: string; readonly message?: string }
      | undefined
    const shown =
      error === undefined
        ? failure("InternalError", "internal error")
        : failure(error._tag, error.message ?? error._tag)
    await options.run(send("error", shown), aborted.signal)
  })

const handler = (plugin: string, route: PluginRoute, options: HttpOptions) => async (c: Context) => {
  const payload = await payloadOf(c)
  if (payload === undefined) return c.json(failure("BadRequest", "the body is not a JSON object"), 400)
  const exit = await options.run(options.host.send(plugin, route.message, payload), c.req.raw.signal)
  if (Exit.isFailure(exit)) return toResponse(c, exit.cause)
  const reply = exit.value
  if (reply._tag === "Many") return events(c, reply.values, options)
  return reply.value === undefined ? c.body(null, 204) : c.json(reply.value as object, (route.status ?? 200) as 200)
}

/** Builds the application. */
export const makeApp = (options: HttpOptions): Hono => {
  const app = new Hono()
  app.use(
    bodyLimit({
      maxSize: bodyBytesMax,
      onError: (c) => c.json(failure("BodyTooLarge", `the body has more than ${bodyBytesMax} bytes`), 413)
    })
  )
  app.get("/healthz", (c) => c.json({ ok: true }))
  app.get("/readyz", (c) =>
    options.ready() ? c.json({ ok: true }) : c.json(failure("NotReady", "shutting down"), 503)
  )
  app.get("/v1/version", (c) => c.json({ version: options.version, bun: Bun.version }))
  for (const plugin of options.host.plugins) {
    for (const route of plugin.routes) app.on(route.method, route.path, handler(plugin.name, route, options))
  }
  app.notFound((c) => c.json(failure("NotFound", `there is no ${c.req.method} ${c.req.path}`), 404))
  app.onError((error, c) => {
    console.error(error)
    return c.json(failure("InternalError", "internal error; see the server's log"), 500)
  })
  return app
}
