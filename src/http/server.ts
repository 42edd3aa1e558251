/**
 * Listens on a unix socket that only its owner can open, or on a network address for whoever has the token (guard.ts), and answers
 * with the application.
 */

import fs from "node:fs"
import path from "node:path"
import { Cause, Effect, Exit, Option, Redacted } from "effect"
import { AlreadyServing, StoreFailed } from "../domain/errors/store.ts"
import { saidBy } from "../domain/errors/terms.ts"
import { harmless, harmlessLines } from "../domain/terminalText.ts"
import { PluginHost } from "../plugin/PluginHost.ts"
import { ensureDirectory, fileError } from "../store/files/files.ts"
import { tryFileLock } from "../store/files/lock.ts"
import { Paths } from "../store/files/Paths.ts"
import { spool } from "../store/files/tempFile.ts"
import { makeApp } from "./app.ts"
import { type Joined, joinHandlers, joinOf } from "./attachWebSocket.ts"
import { failure } from "./failure.ts"
import { openFront } from "./front.ts"
import { type Listen, makeGuard } from "./guard.ts"
import { serverToken } from "./token.ts"

export { parseListen } from "./guard.ts"

export interface ServeOptions {
  /** Path of a unix socket, or a network address. */
  readonly listen: { readonly socket: string } | Listen
  /** For a network address: HTTPS with these, in PEM. Default: plain HTTP. */
  readonly tls?: Tls | undefined
  readonly version: string
}

/** Certificate, with those between it and a root, and its private key. */
export interface Tls {
  readonly cert: string
  readonly key: string
}

/** Serves until the scope closes; answers where, in words. */
export const serveHttp = Effect.fn("Http.serve")(function* ({ listen, tls, version }: ServeOptions) {
  const host = yield* PluginHost
  const { temporary } = yield* Paths
  const run = Effect.runPromiseExitWith(yield* Effect.context<never>())
  let open = true
  const app = makeApp({
    version,
    host,
    run: (effect, signal) => run(effect, { signal }),
    spool: (body) => spool(temporary, body, { keepsRoom: true }),
    ready: () => open,
    report: (cause) => console.error(harmlessLines(`bunker: internal error: ${Cause.pretty(cause)}`))
  })
  yield* Effect.addFinalizer(() => Effect.sync(() => void (open = false)))
  const joining = {
    host,
    run: <A, E>(effect: Effect.Effect<A, E>, signal: AbortSignal) => run(effect, { signal }),
    describe: describeFailure
  }
  const answer: Answer = (request, server) => {
    const joined = joinOf(request, joining)
    if (joined !== undefined && server.upgrade(request, { data: joined })) return undefined
    return app.fetch(request)
  }
  return yield* "socket" in listen ? serveSocket(listen.socket, answer) : serveNetwork(listen, answer, tls)
})

type Answer = (request: Request, server: Bun.Server<Joined>) => Response | Promise<Response> | undefined

const describeFailure = (exit: Exit.Exit<unknown, unknown>) => {
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  const tag = (error as { readonly _tag?: unknown } | undefined)?._tag
  return error instanceof Error && typeof tag === "string"
    ? { code: tag, error: saidBy("http", error.message) }
    : { code: "InternalError", error: "internal error; see the server's log" }
}

/** A stale socket of a server that was killed is replaced; a living server's is not. */
const serveSocket = Effect.fnUntraced(function* (socket: string, answer: Answer) {
  yield* checkSocketPath(socket)
  if (!(yield* tryFileLock(`${socket}.lock`))) return yield* new AlreadyServing({ socket })
  yield* Effect.acquireRelease(
    Effect.try({ try: () => listenPrivately(socket, answer), catch: (cause) => fileError("listen on", socket, cause) }),
    (server) => closeServer(server, socket)
  )
  return socket
})

/** Every request has to pass the guard first, whatever it asks for. */
const serveNetwork = Effect.fnUntraced(function* (listen: Listen, answer: Answer, tls: Tls | undefined) {
  const paths = yield* Paths
  const token = yield* serverToken(paths.serverToken)
  let port = listen.port
  const guard = makeGuard(Redacted.value(token), listen, () => port, tls === undefined ? "http" : "https")
  const inner = path.join(paths.runs, `http-${process.pid}.sock`)
  yield* Effect.acquireRelease(
    Effect.try({
      try: () => {
        const fetch: Answer = (request, server) => guard(request) ?? answer(request, server)
        return listenPrivately(inner, fetch, tls)
      },
      catch: (cause) => fileError(tls === undefined ? "listen on" : "use the certificate for", inner, cause)
    }),
    (server) => closeServer(server, inner)
  )
  port = yield* openFront(listen, inner)
  const host = listen.host.includes(":") ? `[${listen.host}]` : listen.host
  return `${tls === undefined ? "http" : "https"}://${host}:${port}`
})

/** No instant at which others could connect: the socket is born with the mode that umask leaves. */
const listenPrivately = (socket: string, answer: Answer, tls?: Tls) => {
  fs.rmSync(socket, { force: true })
  const before = process.umask(0o177)
  try {
    const secured = tls === undefined ? {} : { tls }
    return Bun.serve(unlimited({ unix: socket, fetch: answer, websocket: joinHandlers, error: broken, ...secured }))
  } finally {
    process.umask(before)
  }
}

const closeServer = (server: Bun.Server<Joined>, socket: string) =>
  Effect.promise(async () => {
    await server.stop(true)
    fs.rmSync(socket, { force: true })
  })

/** What was thrown outside of the application: said here, and not to the client. */
const broken = (cause: Error): Response => {
  console.error(`bunker: internal error: ${harmless(cause.message)}`)
  return Response.json(failure("InternalError", "internal error; see the server's log"), { status: 500 })
}

/**
 * Bun's own limit of ten seconds would cut whoever waits for a sandbox to end. It holds for unix sockets, too,
 * though Bun's types leave the option out there.
 */
const unlimited = <Options extends object>(options: Options): Options => ({
  ...options,
  // No pages with our source and no route of Bun's own.
  development: false,
  idleTimeout: 0,
  // The application has bounds of its own; uploads go to the disk.
  maxRequestBodySize: Number.MAX_SAFE_INTEGER
})

/** Longest path of a socket, in bytes (unix(7)). */
const socketPathMax = 107

/** Makes the socket's directory; refuses a path that is too long, or that has something else than a socket. */
const checkSocketPath = Effect.fnUntraced(function* (socket: string) {
  const refused = (reason: string) => new StoreFailed({ operation: "listen on", path: socket, reason })
  if (Buffer.byteLength(socket) > socketPathMax) {
    return yield* refused(`it has more than ${socketPathMax} bytes; choose a shorter path`)
  }
  yield* ensureDirectory(path.dirname(socket))
  const found = fs.statSync(socket, { throwIfNoEntry: false })
  if (found !== undefined && !found.isSocket()) return yield* refused("it is there and no socket; choose another path")
})
