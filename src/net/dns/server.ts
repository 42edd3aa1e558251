/**
 * Answers the guest's DNS, at port 53 of any address: an allowed name gets the addresses that stand for it, all else is refused at once.
 * Resolves no address: the host does when it connects.
 */
import type { Access } from "../access.ts"
import type { Events } from "../events.ts"
import type { Dialer, RecordType, Upstream, UpstreamHandler } from "../types.ts"
import {
  type Answer,
  noError,
  type Question,
  readQuestion,
  refused,
  serverFailure,
  types,
  writeAnswer,
  writeError
} from "./message.ts"
import type { NameTable } from "./names.ts"

/** Questions for other records that the host is asked at the same time. */
const recordsMax = 32
/** Questions of one TCP connection that are not whole yet, in bytes: the longest one. */
const streamBytesMax = 65_537

const recordTypes: ReadonlyMap<number, RecordType> = new Map([
  [types.TXT, "TXT"],
  [types.MX, "MX"],
  [types.SRV, "SRV"],
  [types.PTR, "PTR"]
])

export class DnsServer {
  private asking = 0
  constructor(
    private readonly names: NameTable,
    private readonly access: Access,
    private readonly events: Events,
    private readonly dialer: Pick<Dialer, "records">
  ) {}

  /** Answers now where it can: only other records than addresses take time. Undefined: no answer. */
  answer(bytes: Buffer, overUdp: boolean, later: (answer: Buffer) => void): Buffer | undefined {
    const question = readQuestion(bytes)
    if (question === undefined) return undefined
    if ("code" in question) return writeError(question.id, question.code)
    const { name, type } = question
    const reply = (code: number, answers: ReadonlyArray<Answer> = []) => writeAnswer(question, code, answers, overUdp)
    if (name === undefined) return reply(refused)
    const record = recordTypes.get(type)
    if (record !== undefined && this.access.policy.dnsTypes(name, record)) {
      return this.records(question, name, record, overUdp, later)
    }
    const decision = this.access.name(name)
    if (!decision.allow) {
      const rule = decision.rule === undefined ? {} : { rule: decision.rule }
      this.events.tell({ kind: "denied", protocol: "dns", name, port: 53, ...rule })
      return reply(refused)
    }
    if (type !== types.A && type !== types.AAAA) return reply(noError)
    const addresses = this.names.addressesOf(name)
    if (addresses === undefined) {
      this.events.tell({ kind: "limit", protocol: "dns", name, reason: `${this.names.size} names` })
      return reply(refused)
    }
    return reply(noError, [type === types.A ? addresses.ipv4 : addresses.ipv6])
  }

  private records(
    question: Question,
    name: string,
    type: RecordType,
    overUdp: boolean,
    later: (answer: Buffer) => void
  ): Buffer | undefined {
    if (this.asking >= recordsMax) return writeAnswer(question, serverFailure, [], overUdp)
    this.asking += 1
    // The question is in a frame that is gone by then.
    const kept = { ...question, echo: Buffer.from(question.echo) }
    void this.dialer.records(name, type).then((found) => {
      this.asking -= 1
      later(writeAnswer(kept, found === undefined ? serverFailure : noError, found ?? [], overUdp))
    })
    return undefined
  }

  /** Answers questions on a TCP flow (RFC 7766): two bytes of length before each. */
  stream(handler: UpstreamHandler): Upstream {
    let rest = Buffer.alloc(0)
    let ended = false
    // A guest that reads no answers is asked for no more questions.
    let paused = false
    const send = (answer: Buffer): void => {
      const head = Buffer.alloc(2)
      head.writeUInt16BE(answer.length)
      if (!ended) handler.data(Buffer.concat([head, answer]))
    }
    const finish = (): void => {
      ended = true
      handler.end()
    }
    return {
      write: (bytes, start, length) => {
        if (paused) return 0
        if (ended || rest.length + length > streamBytesMax * 2) return length
        rest = Buffer.concat([rest, bytes.subarray(start, start + length)])
        while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
          const size = 2 + rest.readUInt16BE(0)
          const answer = this.answer(rest.subarray(2, size), false, send)
          if (answer !== undefined) send(answer)
          rest = rest.subarray(size)
        }
        return length
      },
      end: finish,
      reset: () => {
        ended = true
      },
      pause: () => {
        paused = true
      },
      resume: () => {
        paused = false
        handler.drain()
      }
    }
  }
}
