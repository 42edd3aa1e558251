/**
 * Relays HTTP/2 between a guest and a server frame by frame: streams, windows, settings and pings are theirs. Only what a guest's
 * header blocks say goes through a gate, stream by stream, and is encoded anew. Holds no body, answers only what is not sent.
 *
 * Invariants: a stream that the gate refused is unknown to the server; what is put into the server's frames towards the guest lies
 * between whole frames and outside of header blocks.
 */
import type { Duplex } from "node:stream"
import type { Denied, Gate } from "../gate.ts"
import { ByteReader, write } from "../streams.ts"
import { encodeHeaders, type HeaderField, HpackDecoder, tableBytesMax } from "./hpack.ts"
import {
  errorCode,
  FrameError,
  type FrameHead,
  FrameReader,
  flag,
  frameType,
  makeFrame,
  number32,
  preface,
  settingHeaderTableSize,
  settingMaxFrameSize
} from "./http2Frames.ts"

/** Most bytes of a header block, most frames of it. */
const blockBytesMax = 128 * 1024
const blockFramesMax = 64
/** Most refused streams that are remembered; a guest that heard of it long ago sends nothing more on them. */
const refusedMax = 1000
/** Largest frame that every receiver takes (RFC 9113, 4.2). */
const frameBytes = 16_384

interface Block {
  readonly stream: number
  readonly endStream: boolean
  readonly parts: Array<Buffer>
  length: number
}

/** A header block without its padding and its priority (RFC 9113, 6.2). */
const fragmentOf = ({ flags }: FrameHead, payload: Buffer): Buffer => {
  const padded = (flags & flag.padded) !== 0
  const start = (padded ? 1 : 0) + ((flags & flag.priority) !== 0 ? 5 : 0)
  const end = payload.length - (padded ? (payload[0] ?? 0) : 0)
  if (start > end) throw new FrameError("the padding of a frame is longer than the frame")
  return payload.subarray(start, end)
}

const badField = /[\0\r\n]/

/** The fields of a request as the gate takes them; throws for what RFC 9113, 8.3 does not have. */
const requestOf = (fields: ReadonlyArray<HeaderField>) => {
  const pseudo = new Map<string, string>()
  const rest: Array<HeaderField> = []
  for (const field of fields) {
    if (badField.test(field.name) || badField.test(field.value)) throw new FrameError("a field has control characters")
    if (!field.name.startsWith(":")) rest.push(field)
    else if (rest.length > 0 || pseudo.has(field.name)) throw new FrameError("a pseudo-header field is out of place")
    else pseudo.set(field.name, field.value)
  }
  return { pseudo, rest }
}

class Relay {
  private readonly decoder = new HpackDecoder()
  private readonly towardsServer: Array<Buffer> = []
  private readonly towardsGuest: Array<Buffer> = []
  /** Our own frames for the guest, until the server's allow them. */
  private readonly between: Array<Buffer> = []
  private readonly refused = new Set<number>()
  private block: Block | undefined
  private lastStream = 0
  private firstBlock = true
  /** True before the server's first settings, and while it is within a frame or a header block. */
  private serverWithin = true
  private serverInBlock = false

  constructor(
    private readonly guest: Duplex,
    private readonly server: Duplex,
    private readonly gate: Gate
  ) {}

  async run(): Promise<void> {
    await Promise.all([this.requests(), this.responses()])
  }

  private async requests(): Promise<void> {
    const reader = new ByteReader(this.guest)
    const start = await reader.until(preface.toString("latin1"), preface.length)
    if (start === undefined || start === null) throw new FrameError("the guest does not speak HTTP/2")
    await write(this.server, preface)
    const frames = new FrameReader({
      wants: ({ type }) => type !== frameType.data,
      onFrame: (head, payload) => this.fromGuest(head, payload),
      onPiece: (head, bytes, first, last) => this.dataFromGuest(head, bytes, first, last)
    })
    for (;;) {
      const bytes = await reader.next()
      if (bytes === undefined) break
      frames.push(bytes)
      await this.flush()
    }
    this.server.end()
  }

  private async responses(): Promise<void> {
    const reader = new ByteReader(this.server)
    const frames = new FrameReader({
      wants: ({ type }) => type === frameType.settings,
      onFrame: (head, payload) => this.settingsFromServer(head, payload),
      onPiece: (head, bytes, _first, last) => {
        this.towardsGuest.push(bytes)
        this.serverWithin = !last
        if (last && head.type !== frameType.data && head.type <= frameType.continuation) {
          const heads = [frameType.headers, frameType.pushPromise, frameType.continuation] as ReadonlyArray<number>
          if (heads.includes(head.type)) this.serverInBlock = (head.flags & flag.endHeaders) === 0
        }
        this.release()
      }
    })
    for (;;) {
      const bytes = await reader.next()
      if (bytes === undefined) break
      frames.push(bytes)
      await this.flush()
    }
    this.guest.end()
  }

  private async flush(): Promise<void> {
    const [server, guest] = [this.towardsServer.splice(0), this.towardsGuest.splice(0)]
    // Both are written before either is waited for: their order is that in which they were made.
    const waits = [
      server.length === 0 ? undefined : write(this.server, server.length === 1 ? server[0]! : Buffer.concat(server)),
      guest.length === 0 ? undefined : write(this.guest, guest.length === 1 ? guest[0]! : Buffer.concat(guest))
    ]
    for (const wait of waits) if (wait !== undefined) await wait
  }

  private release(): void {
    if (!this.serverWithin && !this.serverInBlock) this.towardsGuest.push(...this.between.splice(0))
  }

  private tellGuest(...frames: ReadonlyArray<Buffer>): void {
    this.between.push(...frames)
    this.release()
  }

  /** The guest's encoder is not to use a larger table than ours. */
  private settingsFromServer(head: FrameHead, payload: Buffer): void {
    const own = Buffer.from(payload)
    for (let at = 0; at + 6 <= own.length; at += 6) {
      if (own.readUInt16BE(at) === settingHeaderTableSize && own.readUInt32BE(at + 2) > tableBytesMax) {
        own.writeUInt32BE(tableBytesMax, at + 2)
      }
      // Frames of the guest other than DATA are held whole.
      if (own.readUInt16BE(at) === settingMaxFrameSize) own.writeUInt32BE(frameBytes, at + 2)
    }
    this.towardsGuest.push(makeFrame(head.type, head.flags, head.stream, own))
    this.serverWithin = false
    this.release()
  }

  private dataFromGuest(head: FrameHead, bytes: Buffer, first: boolean, last: boolean): void {
    if (this.block !== undefined) throw new FrameError("a frame is within a header block")
    if (!this.refused.has(head.stream)) {
      this.towardsServer.push(bytes)
      return
    }
    // The server never sees these, so the room that they take in the connection's window is given back here.
    if (first && head.length > 0) this.tellGuest(makeFrame(frameType.windowUpdate, 0, 0, number32(head.length)))
    if (last && (head.flags & flag.endStream) !== 0) this.refused.delete(head.stream)
  }

  private fromGuest(head: FrameHead, payload: Buffer): void {
    if (head.type === frameType.continuation) {
      if (this.block === undefined || this.block.stream !== head.stream) {
        throw new FrameError("a continuation continues nothing")
      }
      this.addToBlock(this.block, head, payload)
      return
    }
    if (this.block !== undefined) throw new FrameError("a frame is within a header block")
    if (head.type === frameType.pushPromise) throw new FrameError("a client can not promise")
    if (head.type === frameType.headers) {
      const endStream = (head.flags & flag.endStream) !== 0
      this.block = { stream: head.stream, endStream, parts: [], length: 0 }
      this.addToBlock(this.block, head, fragmentOf(head, payload))
      return
    }
    if (this.refused.has(head.stream)) {
      if (head.type === frameType.rstStream) this.refused.delete(head.stream)
      return
    }
    this.towardsServer.push(makeFrame(head.type, head.flags, head.stream, payload))
  }

  private addToBlock(block: Block, { flags }: FrameHead, fragment: Buffer): void {
    block.parts.push(fragment)
    block.length += fragment.length
    if (block.length > blockBytesMax || block.parts.length > blockFramesMax)
      throw new FrameError("a header is too long")
    if ((flags & flag.endHeaders) === 0) return
    this.block = undefined
    const fields = this.decoder.decode(Buffer.concat(block.parts))
    if (block.stream > this.lastStream) this.begin(block, fields)
    else this.trailers(block, fields)
  }

  private begin(block: Block, fields: ReadonlyArray<HeaderField>): void {
    this.lastStream = block.stream
    const { pseudo, rest } = requestOf(fields)
    const method = pseudo.get(":method") ?? ""
    const hosts = rest.filter(({ name }) => name === "host").map(({ value }) => value)
    const authority = pseudo.get(":authority") ?? hosts[0]
    if (method === "CONNECT" && !pseudo.has(":protocol")) {
      this.refuse(block, { status: 501, text: "CONNECT is for proxies" })
      return
    }
    if (hosts.some((host) => host !== authority)) {
      this.refuse(block, { status: 400, text: ":authority and host differ" })
      return
    }
    const verdict = this.gate.pass({
      method,
      authority,
      target: pseudo.get(":path") ?? "",
      fields: rest.map(({ name, value }) => [name, value])
    })
    if ("denied" in verdict) {
      this.refuse(block, verdict.denied)
      return
    }
    const heads = [...pseudo].map(([name, value]) => {
      const own = name === ":path" ? verdict.request.target : value
      return { name, value: own, sensitive: own !== value }
    })
    const others = verdict.request.fields.map(([name, value], index) => {
      const before = rest[index]
      return { name, value, sensitive: before?.sensitive === true || before?.value !== value }
    })
    this.sendBlock(block, [...heads, ...others])
  }

  private trailers(block: Block, fields: ReadonlyArray<HeaderField>): void {
    if (this.refused.has(block.stream)) {
      if (block.endStream) this.refused.delete(block.stream)
      return
    }
    const { pseudo, rest } = requestOf(fields)
    if (pseudo.size > 0) throw new FrameError("a pseudo-header field is behind a body")
    if (this.gate.trailers(rest.map(({ name, value }) => [name, value])) === undefined) {
      this.sendBlock(block, rest)
      return
    }
    const reset = makeFrame(frameType.rstStream, 0, block.stream, number32(errorCode.cancel))
    this.towardsServer.push(reset)
    this.tellGuest(reset)
  }

  private sendBlock(block: Block, fields: ReadonlyArray<HeaderField>): void {
    const bytes = encodeHeaders(fields, this.firstBlock)
    this.firstBlock = false
    for (let at = 0; at === 0 || at < bytes.length; at += frameBytes) {
      const part = bytes.subarray(at, at + frameBytes)
      const end = at + frameBytes >= bytes.length ? flag.endHeaders : 0
      const flags = end | (at === 0 && block.endStream ? flag.endStream : 0)
      this.towardsServer.push(
        makeFrame(at === 0 ? frameType.headers : frameType.continuation, flags, block.stream, part)
      )
    }
  }

  /** Answers with a header alone: a body would take room in a window of which the server knows nothing. */
  private refuse(block: Block, { status, text }: Denied): void {
    const fields = [
      { name: ":status", value: String(status), sensitive: false },
      { name: "content-length", value: "0", sensitive: false },
      { name: "bunker-refused", value: text, sensitive: false }
    ]
    const flags = flag.endHeaders | flag.endStream
    this.tellGuest(makeFrame(frameType.headers, flags, block.stream, encodeHeaders(fields)))
    if (block.endStream) return
    this.tellGuest(makeFrame(frameType.rstStream, 0, block.stream, number32(errorCode.none)))
    this.refused.add(block.stream)
    if (this.refused.size > refusedMax) for (const oldest of [...this.refused].slice(0, 1)) this.refused.delete(oldest)
  }
}

/** Resolves when both sides have ended; rejects when one broke or spoke something else. The caller destroys both then. */
export const relayHttp2 = (guest: Duplex, server: Duplex, gate: Gate): Promise<void> =>
  new Relay(guest, server, gate).run()
