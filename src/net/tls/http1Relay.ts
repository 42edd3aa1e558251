/**
 * Relays HTTP/1.1 between a guest and a server, request by request through a gate, bodies and responses as they come. After an upgrade
 * (WebSocket) bytes go both ways unseen. Never holds a body; answers in the server's place only what is not sent to it.
 */
import type { Duplex } from "node:stream"
import type { Denied, Gate } from "./gate.ts"
import { BodyReader } from "./http1Body.ts"
import { formatHead, headBytesMax, MessageError, parseFields, parseRequest, type RequestHead } from "./http1Message.ts"
import { ResponseTracker } from "./http1Responses.ts"
import { ByteReader, finish, write } from "./streams.ts"

/** Most requests that are on their way without a response. */
const pipelinedMax = 32
/** How long, and how much, a guest may go on sending what is not sent on, until its connection is cut. */
const drainMs = 2000
const drainBytesMax = 16 * 1024 * 1024

const reasons: Readonly<Record<Denied["status"], string>> = {
  400: "Bad Request",
  403: "Forbidden",
  421: "Misdirected Request",
  431: "Request Header Fields Too Large",
  501: "Not Implemented",
  502: "Bad Gateway"
}

/** Ends the connection with an answer of our own, and reads on for a moment: a reset would take the answer away again. */
export const answerHttp1 = async (guest: Duplex, reader: ByteReader, denied: Denied): Promise<void> => {
  const body = Buffer.from(`bunker: ${denied.text}\n`, "utf8")
  const head = formatHead(`HTTP/1.1 ${denied.status} ${reasons[denied.status]}`, [
    ["content-type", "text/plain; charset=utf-8"],
    ["content-length", String(body.length)],
    ["connection", "close"]
  ])
  const timer = setTimeout(() => guest.destroy(), drainMs)
  guest.end(Buffer.concat([head, body]))
  try {
    for (let bytes = 0; bytes < drainBytesMax; ) {
      const piece = await reader.next()
      if (piece === undefined) break
      bytes += piece.length
    }
  } finally {
    clearTimeout(timer)
  }
  await finish(guest)
}

class Relay {
  private readonly tracker = new ResponseTracker()
  private readonly reader: ByteReader
  /** True when the last answer is ours. */
  private refusing = false

  constructor(
    private readonly guest: Duplex,
    private readonly server: Duplex,
    private readonly gate: Gate
  ) {
    this.reader = new ByteReader(guest)
  }

  async run(): Promise<void> {
    const responses = this.responses()
    // Its failure is that of the whole; it is awaited below.
    responses.catch(() => undefined)
    const denied = await this.requests()
    if (denied !== undefined) {
      await this.tracker.settled(0)
      this.refusing = true
      this.server.destroy()
      await responses.catch(() => undefined)
      if (!this.guest.writableEnded) await answerHttp1(this.guest, this.reader, denied)
      return
    }
    if (!this.tracker.upgraded) await this.tracker.settled(0)
    this.server.end()
    await responses
  }

  private async responses(): Promise<void> {
    const reader = new ByteReader(this.server)
    try {
      for (;;) {
        const bytes = await reader.next()
        if (bytes === undefined) break
        this.tracker.push(bytes)
        await write(this.guest, bytes)
      }
    } finally {
      this.tracker.end()
      if (!this.refusing) this.guest.end()
    }
  }

  /** Resolves at the end of the guest's requests, with what it is to be told where that is not its own end. */
  private async requests(): Promise<Denied | undefined> {
    for (;;) {
      await this.tracker.settled(pipelinedMax)
      const bytes = await this.reader.until("\r\n\r\n", headBytesMax)
      if (bytes === undefined) return undefined
      if (bytes === null) return { status: 431, text: "the head of the request is too long" }
      try {
        const head = parseRequest(bytes.toString("latin1").replace(/^(?:\r\n)+/, ""))
        const verdict = this.gate.pass(head)
        if ("denied" in verdict) return verdict.denied
        const { fields, target } = verdict.request
        this.tracker.expect(head)
        await write(this.server, formatHead(`${head.method} ${target} HTTP/${head.version}`, fields))
        const denied = await this.body(head)
        if (denied !== undefined) return denied
        if (head.close) return undefined
        if (head.upgrade && (await this.tunnel())) return undefined
      } catch (error) {
        if (error instanceof MessageError) return { status: 400, text: `the request can not be sent: ${error.message}` }
        throw error
      }
    }
  }

  private async body(head: RequestHead): Promise<Denied | undefined> {
    const body = new BodyReader(head.framing)
    while (!body.done) {
      const bytes = await this.reader.next()
      if (bytes === undefined) throw new Error("the guest ended within a body")
      const piece = body.push(bytes)
      this.reader.unread(piece.rest)
      await write(this.server, piece.body)
      if (piece.trailers === undefined) continue
      const denied = this.gate.trailers(parseFields(piece.trailers.toString("latin1")))
      if (denied !== undefined) {
        // Cut before its end: the server takes no part of a request for the whole.
        this.server.destroy()
        return denied
      }
      await write(this.server, piece.trailers)
    }
    return undefined
  }

  /** True when the connection became another protocol's and has ended. */
  private async tunnel(): Promise<boolean> {
    await this.tracker.settled(0)
    if (!this.tracker.upgraded) return false
    for (;;) {
      const bytes = await this.reader.next()
      if (bytes === undefined) return true
      await write(this.server, bytes)
    }
  }
}

/** Resolves when both sides have ended in order; rejects when one broke, or spoke something else. The caller destroys both then. */
export const relayHttp1 = (guest: Duplex, server: Duplex, gate: Gate): Promise<void> =>
  new Relay(guest, server, gate).run()
