/**
 * Joins WebSockets (RFC 6455) to a sandbox's main command, `GET /v1/sandboxes/NAME/attach`. Sends each message through the plugin
 * host, with its permissions; keeps nothing of a command. Leaving the socket leaves the command alone.
 *
 * Binary frames: one byte that names the stream (0 stdin from the client, 1 stdout, 2 stderr), then its bytes. Text frames, JSON:
 * the client says `{"type":"resize","cols":80,"rows":24}`, `{"type":"signal","signal":2}` or `{"type":"eof"}`; the server says
 * `{"type":"started","pid":7}`, `{"type":"taken","bytes":n}` once input is on its way to the guest, and last
 * `{"type":"exit","code":0}`, `{"type":"exit","signal":9}` or `{"type":"error","code":"…","error":"…"}`.
 *
 * Invariant: input is passed on in order, one frame at a time; a client that is ahead of the guest by more than
 * `inputBytesMax` is cut off.
 */
import { Effect, Exit, Stream } from "effect"
import type { PluginHost } from "../plugin/PluginHost.ts"

/** Bytes of input that wait for the guest. */
const inputBytesMax = 4 * 1024 * 1024
/** Bytes of output that wait for the client; then the command's other readers go on without it. */
const outputBytesMax = 1024 * 1024
/** Longest frame, in bytes. */
const frameBytesMax = 1024 * 1024
/** Number of the main command among the execs. */
const mainExec = 0

const route = /^\/v1\/sandboxes\/([^/]+)\/attach$/

/** What a join needs of the server. */
interface JoinOptions {
  readonly host: PluginHost["Service"]
  readonly run: <A, E>(effect: Effect.Effect<A, E>, signal: AbortSignal) => Promise<Exit.Exit<A, E>>
  /** What a client sees of a failure. */
  readonly describe: (exit: Exit.Exit<unknown, unknown>) => { readonly code: string; readonly error: string }
}

type Socket = Bun.ServerWebSocket<Joined>
type Fields = Readonly<Record<string, unknown>>

/** One client. */
export class Joined {
  private readonly gone = new AbortController()
  private socket: Socket | undefined
  private turn: Promise<void> = Promise.resolve()
  private waiting = 0
  private drained: (() => void) | undefined

  constructor(
    private readonly name: string,
    private readonly options: JoinOptions
  ) {}

  async open(socket: Socket): Promise<void> {
    this.socket = socket
    const { host, run, describe } = this.options
    const letter = { plugin: "sandboxes", message: "Attach", text: { name: this.name } }
    const follow = Effect.flatMap(host.send(letter), (reply) =>
      reply._tag === "Many"
        ? Stream.runForEach(reply.values, (event) => Effect.promise(() => this.say(event as Fields)))
        : Effect.void
    )
    const exit = await run(follow, this.gone.signal)
    if (this.gone.signal.aborted) return
    if (Exit.isFailure(exit)) socket.send(JSON.stringify({ type: "error", ...describe(exit) }))
    socket.close(1000)
  }

  message(data: string | Uint8Array): void {
    const size = data.length
    this.waiting += size
    if (this.waiting > inputBytesMax) {
      this.socket?.close(1008, "input comes faster than the guest takes it")
      return
    }
    this.turn = this.turn.then(async () => {
      const understood = typeof data === "string" ? await this.control(data) : await this.input(data)
      this.waiting -= size
      if (!understood) this.socket?.close(1008, "not understood; see the documentation of attach")
    })
  }

  drain(): void {
    this.drained?.()
  }

  close(): void {
    this.gone.abort()
    this.drained?.()
  }

  private async input(frame: Uint8Array): Promise<boolean> {
    if (frame[0] !== 0) return false
    const data = Buffer.from(frame.subarray(1)).toString("base64")
    await this.tell("Input", { data })
    this.socket?.send(JSON.stringify({ type: "taken", bytes: frame.length - 1 }))
    return true
  }

  private async control(text: string): Promise<boolean> {
    let words: Fields
    try {
      words = Object(JSON.parse(text)) as Fields
    } catch {
      return false
    }
    if (words["type"] === "eof") return this.tell("CloseInput", {})
    if (words["type"] === "signal") return this.tell("Signal", { signal: words["signal"] })
    if (words["type"] !== "resize") return false
    return this.tell("Resize", { size: { cols: words["cols"], rows: words["rows"] } })
  }

  /** What the guest refuses (the command has ended) is no fault of the frame. */
  private async tell(message: string, fields: Fields): Promise<true> {
    const payload = { name: this.name, exec: mainExec, ...fields }
    await this.options.run(this.options.host.send({ plugin: "sandboxes", message, payload }), this.gone.signal)
    return true
  }

  private async say(event: Fields): Promise<void> {
    const { socket } = this
    if (socket === undefined || this.gone.signal.aborted) return
    switch (event["_tag"]) {
      case "Stdout":
      case "Stderr": {
        const stream = event["_tag"] === "Stdout" ? 1 : 2
        socket.send(Buffer.concat([Uint8Array.of(stream), Buffer.from(String(event["data"]), "base64")]))
        if (socket.getBufferedAmount() > outputBytesMax) await new Promise<void>((done) => void (this.drained = done))
        return
      }
      case "Started":
        socket.send(JSON.stringify({ type: "started", pid: event["pid"] }))
        return
      case "Exit":
        socket.send(JSON.stringify({ type: "exit", code: event["code"] }))
        return
      case "Signaled":
        socket.send(JSON.stringify({ type: "exit", signal: event["signal"] }))
        return
    }
  }
}

/** Handlers of every socket. */
export const joinHandlers: Bun.WebSocketHandler<Joined> = {
  maxPayloadLength: frameBytesMax,
  idleTimeout: 0,
  open: (socket) => void socket.data.open(socket),
  message: (socket, data) => socket.data.message(data),
  drain: (socket) => socket.data.drain(),
  close: (socket) => socket.data.close()
}

/** The client that a request wants to become; undefined for an ordinary request. */
export const joinOf = (request: Request, options: JoinOptions): Joined | undefined => {
  if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") return undefined
  const match = route.exec(new URL(request.url).pathname)
  const name = match === null ? undefined : decoded(match[1]!)
  return name === undefined ? undefined : new Joined(name, options)
}

/** A part of a path; undefined when it is not encoded as one. */
const decoded = (part: string): string | undefined => {
  try {
    return decodeURIComponent(part)
  } catch {
    return undefined
  }
}
