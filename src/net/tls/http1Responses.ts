/**
 * Follows the responses of an HTTP/1.1 connection, so that it is known which request is answered and when the connection becomes
 * another protocol's. Changes and holds back nothing.
 */
import { BodyReader } from "./http1Body.ts"
import { headBytesMax, MessageError, parseResponse, responseFraming } from "./http1Message.ts"

/** A request that waits for its response. */
export interface Pending {
  readonly method: string
  readonly upgrade: boolean
}

/** Most bytes of a response's head. */
const responseHeadBytesMax = 4 * headBytesMax

export class ResponseTracker {
  private readonly pending: Array<Pending> = []
  private head: Buffer = Buffer.alloc(0)
  private body: BodyReader | undefined
  private waiting: Array<() => void> = []
  /** True when the connection speaks another protocol now. */
  upgraded = false
  /** True when no end of a response can be known any more but that of the connection. */
  lost = false

  get unanswered(): number {
    return this.pending.length
  }

  expect(request: Pending): void {
    this.pending.push(request)
  }

  /** Resolves when at most so many requests wait, or none will be answered any more. */
  async settled(most: number): Promise<void> {
    while (this.pending.length > most && !this.lost && !this.upgraded) {
      await new Promise<void>((resolve) => this.waiting.push(resolve))
    }
  }

  push(bytes: Buffer): void {
    if (this.upgraded || this.lost) return
    try {
      this.follow(bytes)
    } catch (error) {
      if (!(error instanceof MessageError)) throw error
      this.end()
    }
    this.wake()
  }

  /** The server sends nothing more. */
  end(): void {
    this.lost = true
    this.wake()
  }

  private wake(): void {
    const waiting = this.waiting
    this.waiting = []
    for (const resolve of waiting) resolve()
  }

  private follow(bytes: Buffer): void {
    let rest = bytes
    while (rest.length > 0 && !this.upgraded) {
      if (this.body !== undefined) {
        rest = this.body.push(rest).rest
        if (this.body.done) this.answered()
        continue
      }
      const joined = Buffer.concat([this.head, rest])
      const end = joined.indexOf("\r\n\r\n")
      if (end < 0) {
        if (joined.length > responseHeadBytesMax) throw new MessageError("the head of a response is too long")
        this.head = joined
        return
      }
      this.head = Buffer.alloc(0)
      rest = joined.subarray(end + 4)
      this.begin(joined.toString("latin1", 0, end))
    }
  }

  private begin(head: string): void {
    const response = parseResponse(head)
    const request = this.pending[0]
    if (request === undefined) throw new MessageError("nothing was asked")
    if (response.status === 101) {
      this.upgraded = true
      return
    }
    if (response.status < 200) return
    this.body = new BodyReader(responseFraming(response, request.method))
    if (this.body.done) this.answered()
  }

  private answered(): void {
    this.body = undefined
    this.pending.shift()
  }
}
