/** An HTTP proxy in front of a registry that spoils chosen answers: cuts, delays, statuses, lengths, bytes, redirects. Runs until the scope ends. */

import net from "node:net"
import { Effect } from "effect"

/** One request as the proxy saw it. */
export interface SeenRequest {
  readonly method: string
  /** Path with query. */
  readonly path: string
  /** Names are lower case. */
  readonly headers: Readonly<Record<string, string>>
}

/** What to do with a request; absent members leave the answer as it is. */
export interface Fault {
  /** Answers with this and does not ask the registry. */
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array
  /** Changes the registry's body before it is sent. */
  readonly change?: (body: Uint8Array) => Uint8Array
  /** Announced length, when it shall not be the body's own. */
  readonly contentLength?: number
  /** Sends no length: `chunked`, or `close` as HTTP/1.0 did. */
  readonly framing?: "chunked" | "close"
  /** Resets the connection after this many bytes of the body. */
  readonly cutAfter?: number
  /** Sends this many bytes of the body and then nothing more. */
  readonly stallAfter?: number
  /** Drops the Range header, so that the registry sends all. */
  readonly ignoreRange?: boolean
  /** Takes the request and never answers. */
  readonly silent?: boolean
  /** Closes before anything is answered. */
  readonly refuse?: boolean
}

/** Decides by request and by how many requests of that path came before it. */
export type FaultRule = (request: SeenRequest, earlier: number) => Fault | undefined

const parseRequest = (text: string): SeenRequest => {
  const [first = "", ...lines] = text.split("\r\n")
  const [method = "", path = ""] = first.split(" ")
  const headers = Object.fromEntries(
    lines
      .filter((line) => line.includes(":"))
      .map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()])
  )
  return { method, path, headers }
}

const upstreamAnswer = async (upstream: string | undefined, request: SeenRequest, fault: Fault) => {
  if (fault.status !== undefined || upstream === undefined) {
    return { status: fault.status ?? 404, headers: {}, body: Buffer.from(fault.body ?? "") }
  }
  const { host: _host, connection: _connection, range, ...rest } = request.headers
  const headers = range === undefined || fault.ignoreRange === true ? rest : { ...rest, range }
  const response = await fetch(`http://${upstream}${request.path}`, {
    method: request.method,
    headers,
    redirect: "manual"
  })
  const kept = ["content-type", "content-range", "www-authenticate", "location", "docker-content-digest"]
  const answered = Object.fromEntries(
    kept.flatMap((name) => (response.headers.has(name) ? [[name, response.headers.get(name)!]] : []))
  )
  return { status: response.status, headers: answered, body: new Uint8Array(await response.arrayBuffer()) }
}

const serve = async (socket: net.Socket, upstream: string | undefined, request: SeenRequest, fault: Fault) => {
  if (fault.silent === true) return
  if (fault.refuse === true) {
    socket.destroy()
    return
  }
  const answer = await upstreamAnswer(upstream, request, fault)
  const body = fault.change === undefined ? answer.body : fault.change(answer.body)
  const framing: Record<string, string> =
    fault.framing === "chunked"
      ? { "transfer-encoding": "chunked" }
      : fault.framing === "close"
        ? {}
        : { "content-length": String(fault.contentLength ?? body.length) }
  const headers = { ...answer.headers, ...framing, connection: "close", ...fault.headers }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.write(`HTTP/1.1 ${answer.status} Spoilt\r\n${lines.join("")}\r\n`)
  const part = body.subarray(0, fault.cutAfter ?? fault.stallAfter ?? body.length)
  if (fault.framing === "chunked" && part.length > 0) {
    socket.write(`${part.length.toString(16)}\r\n`)
    socket.write(part)
    socket.write("\r\n")
  } else socket.write(part)
  if (fault.stallAfter !== undefined) return
  // A reset takes along what the client has not read yet, so it is given time to, the more the more bytes there are.
  if (fault.cutAfter !== undefined) setTimeout(() => socket.resetAndDestroy(), 50 + part.length / 5_000)
  else if (fault.framing === "chunked") socket.end("0\r\n\r\n")
  else socket.end()
}

/** Starts a proxy for `upstream` (`host:port`; none answers 404) on a free loopback port. */
export const startFaultProxy = Effect.fn("test.faultProxy")(function* (upstream: string | undefined, rule: FaultRule) {
  const requests: Array<SeenRequest> = []
  const sockets = new Set<net.Socket>()
  const onConnection = (socket: net.Socket) => {
    sockets.add(socket)
    let text = ""
    socket.on("close", () => sockets.delete(socket))
    socket.on("error", () => undefined)
    socket.on("data", (data) => {
      text += data.toString("latin1")
      const end = text.indexOf("\r\n\r\n")
      if (end < 0) return
      const request = parseRequest(text.slice(0, end))
      text = text.slice(end + 4)
      const earlier = requests.filter((seen) => seen.path === request.path).length
      requests.push(request)
      serve(socket, upstream, request, rule(request, earlier) ?? {}).catch(() => socket.destroy())
    })
  }
  const server = yield* Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<net.Server>((resolve) => {
          const server = net.createServer(onConnection).listen(0, "127.0.0.1", () => resolve(server))
        })
    ),
    (server) =>
      Effect.sync(() => {
        server.close()
        for (const socket of sockets) socket.destroy()
      })
  )
  return { host: `127.0.0.1:${(server.address() as net.AddressInfo).port}`, requests, open: sockets }
})
