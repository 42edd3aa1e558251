/**
 * Gives the actors of a `bunker serve` somewhere else the same addresses that they have here: each message goes over the route that its
 * plugin has, and comes back as the same values and the same errors. Keeps nothing; a message without a route fails with
 * `UnknownMessage`.
 *
 * Invariants: whoever stops waiting for an answer, or leaves a stream, ends the request, and the server what only it wanted; output is
 * read at the pace of its reader; the token goes to the one server and into no error; a name leads to no other route than its own; of an
 * answer that is no stream at most `answerBytesMax` are held.
 */
import { Context, Effect, Layer, Redacted, type Schema, SchemaAST, type Scope, Stream } from "effect"
import { type Rpc, RpcSchema } from "effect/rpc"
import type { ImageStore } from "../actors/images/ImageStore.ts"
import { checked } from "../actors/kit/Actor.ts"
import type { ModelCache } from "../actors/models/ModelCache.ts"
import type { Sweeper } from "../actors/sandboxes/Sweeper.ts"
import type { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import type { SessionStore } from "../actors/sessions/SessionStore.ts"
import { UnknownMessage } from "../domain/errors/plugin.ts"
import { ServerRefused, ServerUnreachable } from "../domain/errors/server.ts"
import { InvalidSpec } from "../domain/errors/vm.ts"
import { readWire, snakeCase, toWire } from "../domain/wire.ts"
import { type BuiltInOptions, builtInPlugins } from "../plugin/builtin.ts"
import type { Plugin, PluginRoute } from "../plugin/Plugin.ts"
import { errorOf, type TypedError } from "./serverErrors.ts"
import { serverEvents } from "./serverEvents.ts"

/** Where a server is. */
export interface ServerOptions {
  /** `http://HOST:PORT`, `https://…` through a proxy of yours, or `unix:/path/of/bunker.sock`. */
  readonly url: string
  /** What the server has in the file `token` of its home directory; a unix socket needs none. */
  readonly token?: string
}

/** The actors that programs use. */
export type Actors = ImageStore | ModelCache | SessionStore | Sweeper | VmSupervisor

type Wire = Readonly<Record<string, unknown>>

/** Longest answer that is no stream. */
const answerBytesMax = 64 * 1024 * 1024

/** A step `.` or `..` in a path, with whatever comes after the question mark passed over: URLs resolve it, `%2e` as well. */
const dotStep = /^[^?]*\/\.{1,2}(?=[/?]|$)/

/** How one server is asked. */
class Connection {
  private readonly base: string
  private readonly unix: string | undefined
  private readonly token: Redacted.Redacted<string> | undefined

  constructor({ url, token }: ServerOptions) {
    this.unix = url.startsWith("unix:") ? url.slice("unix:".length).replace(/^\/\/(?=\/)/, "") : undefined
    const parsed = this.unix === undefined ? URL.parse(url) : URL.parse("http://bunker")
    if (parsed === null || !/^https?:$/.test(parsed.protocol) || this.unix === "") {
      throw new InvalidSpec({
        field: "url",
        reason: `"${url.replace(/\/\/[^/]*@/, "//")}" is no server; write http://HOST:PORT or unix:/path/of/bunker.sock`
      })
    }
    this.base = `${parsed.origin}${parsed.pathname.replace(/\/$/, "")}`
    this.token = token === undefined ? undefined : Redacted.make(token)
  }

  readonly unreachable = (cause: unknown): ServerUnreachable => {
    const { code, message } = Object(cause) as { readonly code?: unknown; readonly message?: unknown }
    const words = typeof message === "string" ? message : String(cause)
    return new ServerUnreachable({
      // Without the user and the password that one may have in it.
      url: this.unix === undefined ? this.base : `unix:${this.unix}`,
      reason: typeof code === "string" ? `${code}: ${words}` : words
    })
  }

  /** A good answer; it ends with the scope. */
  ask(request: Question): Effect.Effect<Response, TypedError, Scope.Scope> {
    return Effect.gen({ self: this }, function* () {
      const stop = new AbortController()
      yield* Effect.addFinalizer(() => Effect.sync(() => stop.abort()))
      const { accept, body, contentType, method, path } = request
      if (dotStep.test(path)) {
        return yield* new InvalidSpec({ field: "name", reason: `no name has the step "." or "..", as in ${path}` })
      }
      const answer = yield* Effect.tryPromise({
        try: () =>
          fetch(`${this.base}${path}`, {
            method,
            headers: {
              ...(this.token === undefined ? {} : { authorization: `Bearer ${Redacted.value(this.token)}` }),
              ...(accept === undefined ? {} : { accept }),
              ...(body === undefined ? {} : { "content-type": contentType ?? "application/json" })
            },
            ...(body === undefined ? {} : { body }),
            ...(this.unix === undefined ? {} : { unix: this.unix }),
            // The token goes nowhere else.
            redirect: "manual",
            // Bun gives up on an answer after five minutes; a sandbox may say nothing for days.
            timeout: false,
            signal: stop.signal
          } as RequestInit),
        catch: this.unreachable
      })
      if (answer.ok) return answer
      return yield* Effect.fail(errorOf(answer.status, parsed(yield* this.textOf(answer))))
    })
  }

  /** The whole of an answer. */
  textOf(answer: Response): Effect.Effect<string, ServerUnreachable> {
    return Effect.tryPromise({
      try: async () => {
        const pieces: Array<Uint8Array> = []
        let held = 0
        for await (const bytes of answer.body ?? []) {
          held += bytes.length
          if (held > answerBytesMax) throw new Error(`its answer has more than ${answerBytesMax} bytes`)
          pieces.push(bytes)
        }
        return Buffer.concat(pieces).toString()
      },
      catch: this.unreachable
    })
  }
}

interface Question {
  readonly method: string
  readonly path: string
  readonly accept?: string
  readonly body?: RequestInit["body"]
  readonly contentType?: string
}

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const jsonOf = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value))

/** A path with its parameters in it, and the fields that are left. */
const fill = (route: PluginRoute, fields: Wire): readonly [path: string, rest: Wire] => {
  const rest: Record<string, unknown> = { ...fields }
  for (const [name, field] of Object.entries(route.within ?? {})) {
    const { [name]: value, ...others } = Object(rest[field]) as Record<string, unknown>
    rest[name] = value
    rest[field] = others
  }
  const path = route.path.replace(/:([a-z_]+)(\{[^}]+\})?/g, (_, name: string, pattern?: string) => {
    const text = encodeURIComponent(jsonOf(rest[name] ?? ""))
    delete rest[name]
    // A pattern of its own may take in slashes.
    return pattern === undefined ? text : text.replaceAll("%2F", "/")
  })
  return [path, rest]
}

const query = (fields: Wire): string => {
  const text = new URLSearchParams(
    Object.entries(fields).flatMap(([key, value]) =>
      value === undefined ? [] : [[key, jsonOf(value)] as [string, string]]
    )
  ).toString()
  return text === "" ? "" : `?${text}`
}

/** A message as a request. */
const requestOf = (route: PluginRoute, fields: Wire, streams: boolean): Question => {
  const { method, upload, download } = route
  const [path, rest] = fill(route, fields)
  const accept = streams && download === undefined ? { accept: "text/event-stream" } : {}
  if (upload !== undefined) {
    const { [upload]: file, ...others } = rest
    const contentType = "application/octet-stream"
    return { method, path: `${path}${query(others)}`, body: Bun.file(String(file)), contentType, ...accept }
  }
  if (method === "GET" || method === "DELETE") return { method, path: `${path}${query(rest)}`, ...accept }
  return { method, path, body: JSON.stringify(rest), ...accept }
}

type Message = (payload?: unknown) => Effect.Effect<unknown, TypedError> | Stream.Stream<unknown, TypedError>

const odd = () =>
  new ServerRefused({ status: 200, code: "", reason: "its answer is not understood here; another version of Bunker?" })

const messageOf = (connection: Connection, route: PluginRoute, rpc: Rpc.AnyWithProps): Message => {
  const { payloadSchema, successSchema } = rpc
  const streams = RpcSchema.isStreamSchema(successSchema)
  const request = (payload: unknown) =>
    requestOf(route, SchemaAST.isVoid(payloadSchema.ast) ? {} : (toWire(payloadSchema, payload) as Wire), streams)
  const read = (schema: Schema.Top, value: unknown): Effect.Effect<unknown, TypedError> =>
    Effect.mapError(readWire(schema, value), odd)
  if (!streams) {
    return Effect.fnUntraced(function* (payload: unknown) {
      const answer = yield* connection.ask(request(payload))
      if (SchemaAST.isVoid(successSchema.ast) || answer.status === 204) return undefined
      return yield* read(successSchema, parsed(yield* connection.textOf(answer)))
    }, Effect.scoped)
  }
  const { success } = successSchema
  return (payload) =>
    Stream.unwrap(
      Effect.map(connection.ask(request(payload)), (answer) => {
        const body = answer.body ?? new Blob([]).stream()
        return route.download === undefined
          ? decodeEvents(connection, body, (value) => read(success, value))
          : Stream.fromAsyncIterable(body as unknown as AsyncIterable<Uint8Array>, connection.unreachable)
      })
    )
}

/** Values until the server says that there are no more; an answer that just stops is none. */
const decodeEvents = (
  connection: Connection,
  body: ReadableStream<Uint8Array>,
  read: (value: unknown) => Effect.Effect<unknown, TypedError>
): Stream.Stream<unknown, TypedError> => {
  const cut = Stream.fail(connection.unreachable("the connection ended before its answer did"))
  return Stream.concat(
    Stream.map(Stream.fromAsyncIterable(serverEvents(body), connection.unreachable), ({ event, data }) => ({
      event,
      value: parsed(data)
    })),
    Stream.map(cut, (never) => never)
  ).pipe(
    Stream.takeWhile(({ event }) => event !== "end"),
    Stream.mapEffect(({ event, value }) => (event === "error" ? Effect.fail(errorOf(200, value)) : read(value)))
  )
}

/** Every message of a plugin, over its first route that carries it. */
const addressOf = (connection: Connection, plugin: Plugin): Readonly<Record<string, Message>> =>
  Object.fromEntries(
    [...plugin.protocol.requests].map(([tag, erased]) => {
      const rpc = erased as unknown as Rpc.AnyWithProps
      const route = plugin.routes.find(({ message }) => message === tag)
      if (route !== undefined) return [tag, messageOf(connection, route, rpc)]
      const refused = () => new UnknownMessage({ plugin: plugin.name, message_: tag })
      const fail: Message = RpcSchema.isStreamSchema(rpc.successSchema)
        ? () => Stream.suspend(() => Stream.fail(refused()))
        : () => Effect.suspend(() => Effect.fail(refused()))
      return [tag, fail]
    })
  )

/** A file of a sandbox that is written from a stream. */
export interface PutFile {
  readonly name: string
  readonly path: string
  readonly user?: string
  readonly mode?: number
  /** The stream has records of a tree, which are made below a directory; see `FileWrite`. */
  readonly tree?: boolean
  readonly owners?: boolean
}

/** Writes a file with one request; a source that fails breaks it off, and the file stays what it was. */
const putFile =
  (connection: Connection) =>
  <E>(request: PutFile, source: Stream.Stream<Uint8Array, E>): Effect.Effect<void, E | TypedError> =>
    Effect.suspend(() => {
      const { name, ...fields } = request
      let broken: E | undefined
      const noted = Stream.tapError(source, (error) => Effect.sync(() => void (broken = error)))
      const body = Stream.toReadableStream(noted) as unknown as ReadableStream<Uint8Array>
      const wire = Object.fromEntries(Object.entries(fields).map(([key, value]) => [snakeCase(key), value]))
      const path = `/v1/sandboxes/${encodeURIComponent(name)}/files${query(wire)}`
      const asked = connection.ask({ method: "PUT", path, body, contentType: "application/octet-stream" })
      return Effect.asVoid(Effect.scoped(asked)).pipe(Effect.mapError((error) => broken ?? error))
    })

/** Stores a blob of a session with one request, and answers its hash. */
const putBlob =
  (connection: Connection) =>
  (sessionId: string, content: Uint8Array<ArrayBuffer>, fields: Wire): Effect.Effect<string, TypedError> =>
    Effect.suspend(() => {
      const hash = new Bun.CryptoHasher("sha256").update(content).digest("hex")
      const path = `/v1/sessions/${encodeURIComponent(sessionId)}/blobs/${hash}${query(fields)}`
      const asked = connection.ask({ method: "PUT", path, body: content, contentType: "application/octet-stream" })
      return Effect.as(Effect.scoped(asked), hash)
    })

/** How bytes become a blob of a session, where that is not done with a message that has them. */
export class RemoteBlobs extends Context.Reference<ReturnType<typeof putBlob> | undefined>("bunker/sdk/RemoteBlobs", {
  defaultValue: () => undefined
}) {}

/** How a stream becomes a file of a sandbox, where that is not done with messages to its keeper. */
export class RemoteFiles extends Context.Reference<ReturnType<typeof putFile> | undefined>("bunker/sdk/RemoteFiles", {
  defaultValue: () => undefined
}) {}

/** The actors of a server. Connects with the first message. Throws `InvalidSpec` for a URL that is none. */
export const remoteLayer = (options: ServerOptions): Layer.Layer<Actors> => {
  const connection = new Connection(options)
  // Only their protocols and routes are looked at: nothing of them is built here.
  const plugins = builtInPlugins({} as BuiltInOptions)
  const context = plugins.reduce(
    (made, plugin) =>
      Context.add(made, plugin.address, checked(plugin.protocol, addressOf(connection, plugin) as never) as never),
    Context.make(RemoteFiles, putFile(connection)).pipe(
      Context.add(RemoteBlobs, putBlob(connection))
    ) as Context.Context<never>
  )
  return Layer.succeedContext(context) as unknown as Layer.Layer<Actors>
}
