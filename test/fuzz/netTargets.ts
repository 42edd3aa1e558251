/**
 * What of the network stack is fuzzed: a guest that sends what it likes while its upstreams, its card and its policy do as they like; and
 * its DNS questions. Whatever comes, nothing throws, what is held is bounded, and each frame that is sent is right to the checksum.
 */
import { Access } from "../../src/net/access.ts"
import { cardAddresses } from "../../src/net/addresses.ts"
import { NameTable } from "../../src/net/dns/names.ts"
import { DnsServer } from "../../src/net/dns/server.ts"
import { Events } from "../../src/net/events.ts"
import { frameBytesMax } from "../../src/net/link.ts"
import type { NetworkPolicy } from "../../src/net/types.ts"
import {
  allowAll,
  type ByHand,
  checksumsRight,
  ethernet,
  ip,
  makeByHand,
  question,
  type Seen,
  tcp,
  udp
} from "../support/frames.ts"
import { mutateBytes, type Random } from "./mutate.ts"
import type { Target } from "./targets.ts"

const [FIN, SYN, RST, PSH, ACK] = [1, 2, 4, 8, 16]
const far = "93.184.216.34"
const far6 = "2606:4700::1111"
const heldBytesMax = 68 * 1_048_576
const stepsMax = 200

/** One step of an input: what happens, and its bytes. */
const step = (kind: number, bytes: Uint8Array): Buffer => {
  const head = Buffer.from([kind, 0, 0])
  head.writeUInt16BE(bytes.length, 1)
  return Buffer.concat([head, bytes])
}

const frame = (bytes: Buffer): Buffer => step(0, bytes)

/** A segment of a conversation, its numbers relative to what would be right. */
const segment = (
  flags: number,
  data = 0,
  sequence = 0,
  acknowledgement = 0,
  window = 60_000,
  conversation = 0
): Buffer => {
  const bytes = Buffer.alloc(12)
  bytes[0] = conversation
  bytes[1] = flags
  bytes.writeInt32BE(sequence, 2)
  bytes.writeInt16BE(acknowledgement, 6)
  bytes.writeUInt16BE(window, 8)
  bytes.writeUInt16BE(data, 10)
  return step(1, bytes)
}

/** Something of the other side: 0 data, 1 end, 2 close, 3 reset, 4 room, 5 drain, 6 card full, 7 card free, 8 deny, 9 allow. */
const other = (what: number, amount = 0, conversation = 0): Buffer =>
  step(2, Buffer.from([what, amount >> 8, amount & 255, conversation]))

interface Conversation {
  sequence: number
  /** What the stack has sent so far. */
  theirs: number
}

const denyAll: NetworkPolicy = {
  ...allowAll,
  decideName: () => ({ allow: false }),
  decideFlow: () => ({ allow: false })
}

class Play {
  readonly hand: ByHand = makeByHand({ limits: { tcpFlows: 20, tcpHalfOpen: 10, udpFlows: 10, names: 5 } })
  readonly seen = new Set<string>()
  private readonly conversations = new Map<number, Conversation>()

  private conversation(number: number): Conversation {
    const found = this.conversations.get(number & 3) ?? { sequence: 1000, theirs: 0 }
    this.conversations.set(number & 3, found)
    return found
  }

  private note(sent: ReadonlyArray<Seen>): void {
    for (const each of sent) {
      if (each.frame.length > frameBytesMax) throw new Error(`a frame of ${each.frame.length} bytes`)
      if ([6, 17].includes(each.protocol) && !checksumsRight(each)) throw new Error("a wrong checksum")
      this.seen.add(each.protocol === 6 ? `tcp ${each.flags}` : `protocol ${each.protocol}`)
      if (each.protocol !== 6 || each.to < 40_000 || each.to > 40_003) continue
      const ends = each.flags & (SYN | FIN) ? 1 : 0
      const next = (each.sequence + each.body.length + ends) | 0
      this.conversation(each.to - 40_000).theirs = next
    }
    const { heldBytes, tcpFlows, udpFlows } = this.hand.stack.stats()
    if (heldBytes < 0 || heldBytes > heldBytesMax) throw new Error(`${heldBytes} bytes are held`)
    if (tcpFlows > 20 || udpFlows > 10) throw new Error(`${tcpFlows} and ${udpFlows} flows`)
  }

  async take(kind: number, bytes: Buffer): Promise<void> {
    if (kind % 3 === 0) {
      if (bytes.length >= 14) this.note(await this.hand.give(bytes))
    } else if (kind % 3 === 1) {
      if (bytes.length >= 12) this.note(await this.hand.give(this.segment(bytes)))
    } else if (bytes.length >= 4) {
      this.other(bytes[0]! % 10, bytes.readUInt16BE(1), bytes[3]!)
      this.note(await this.hand.sent())
    }
  }

  private segment(bytes: Buffer): Buffer {
    const conversation = this.conversation(bytes[0]!)
    const flags = bytes[1]!
    const length = Math.min(bytes.readUInt16BE(10), 60_000)
    const sequence = conversation.sequence + bytes.readInt32BE(2)
    if (flags & (SYN | FIN)) conversation.sequence += 1
    conversation.sequence += length
    return tcp(bytes[0]! & 4 ? far6 : far, 80, {
      from: 40_000 + (bytes[0]! & 3),
      flags,
      sequence,
      acknowledgement: conversation.theirs + bytes.readInt16BE(6),
      window: bytes.readUInt16BE(8),
      ...(flags & SYN ? { options: [2, 4, 5, 0xb4, 3, 3, bytes[9]!, 0] } : {}),
      data: Buffer.alloc(length, 0x55)
    })
  }

  private other(what: number, amount: number, conversation: number): void {
    const { hand } = this
    const upstream = hand.upstreams.at(-1 - (conversation % Math.max(1, hand.upstreams.length)))
    if (what === 6 || what === 7) hand.block(what === 6)
    else if (what === 8) hand.stack.setPolicy(denyAll)
    else if (what === 9) hand.stack.setPolicy(allowAll)
    else if (upstream === undefined || upstream.wasReset) return
    else if (what === 0 && !upstream.paused) upstream.handler.data(Buffer.alloc(amount, 0x66))
    else if (what === 1) upstream.handler.end()
    else if (what === 2 || what === 3) upstream.handler.closed(what === 3)
    else if (what === 4) upstream.room = amount
    else if (what === 5) upstream.handler.drain()
  }

  async end(): Promise<void> {
    this.hand.block(false)
    this.hand.stack.close()
    await this.hand.sent()
    const { heldBytes, tcpFlows, udpFlows } = this.hand.stack.stats()
    if (heldBytes !== 0 || tcpFlows !== 0 || udpFlows !== 0)
      throw new Error(`left: ${heldBytes} ${tcpFlows} ${udpFlows}`)
  }
}

const frames: Target = {
  name: "frames",
  seeds: async () => {
    const begin = [segment(SYN), segment(ACK)]
    return [
      [
        ...begin,
        segment(ACK | PSH, 100),
        segment(ACK, 60_000),
        other(0, 5000),
        segment(ACK),
        segment(ACK | FIN),
        other(1),
        segment(ACK)
      ],
      [
        ...begin,
        other(0, 60_000),
        other(6),
        other(0, 60_000),
        segment(ACK, 0, 0, -100),
        segment(ACK, 0, 0, -100),
        segment(ACK, 0, 0, -100),
        other(7),
        segment(ACK)
      ],
      [
        ...begin,
        segment(ACK, 100, 300),
        segment(ACK, 500, -200),
        other(4, 10),
        segment(ACK, 60_000),
        other(4, 65_535),
        other(5),
        segment(RST)
      ],
      [
        ...begin,
        segment(SYN, 0, 0, 0, 100, 1),
        segment(ACK, 0, 0, 0, 0, 1),
        other(0, 9000),
        segment(ACK, 0, 0, 0, 500, 1),
        other(8),
        other(9)
      ],
      [...begin, other(1), segment(ACK), segment(ACK | FIN), segment(SYN, 0, 500), segment(ACK), other(3)],
      [
        frame(udp(far, 9, "x".repeat(50))),
        frame(udp(far6, 9, "x")),
        frame(udp(far, 53, question("a.test", 1))),
        frame(udp(far6, 53, question("b.test", 28)))
      ],
      [
        frame(ip(cardAddresses.gateway4, Buffer.from([8, 0, 0, 0, 1, 2, 3, 4]), { protocol: 1 })),
        frame(ip("fe80::1", Buffer.alloc(24, 135), { protocol: 58 }))
      ],
      [
        frame(ethernet(0x0806, Buffer.from("0001080006040001024242000001c0000002000000000000c0000001", "hex"))),
        frame(tcp(far6, 53, { flags: SYN }))
      ]
    ].map((steps) => Buffer.concat(steps))
  },
  mutate: (random, input, another) => {
    if (random(4) === 0)
      return Buffer.concat([input.subarray(0, random(input.length + 1)), another.subarray(random(another.length + 1))])
    return mutateBytes(random, input)
  },
  run: async (input) => {
    const play = new Play()
    const bytes = Buffer.from(input)
    let at = 0
    for (let steps = 0; at + 3 <= bytes.length && steps < stepsMax; steps++) {
      const length = Math.min(bytes.readUInt16BE(at + 1), bytes.length - at - 3)
      await play.take(bytes[at]!, bytes.subarray(at + 3, at + 3 + length))
      at += 3 + length
    }
    const dropped = Object.entries(play.hand.stack.stats().dropped).filter(([, count]) => count > 0)
    await play.end()
    return [...play.seen, ...dropped.map(([reason]) => reason)].toSorted().join(" ")
  }
}

/** Answers that are no answers to the question, or too long, are findings. */
const checkAnswer = (asked: Buffer, answer: Buffer, overUdp: boolean): string => {
  if (answer.length < 12 || !answer.subarray(0, 2).equals(asked.subarray(0, 2)))
    throw new Error("another question's answer")
  if ((answer[2]! & 0x80) === 0) throw new Error("no answer")
  if (overUdp && answer.length > 4096) throw new Error(`${answer.length} bytes over UDP`)
  return `code ${answer[3]! & 15}, ${answer.readUInt16BE(6)} answers, ${answer.readUInt16BE(10)} more`
}

const dns: Target = {
  name: "dns",
  seeds: async () => {
    const edns = Buffer.concat([question("a.test", 1), Buffer.from([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0])])
    edns[11] = 1
    return [
      question("a.test", 1),
      question("some.where.else", 28),
      question("b.test", 16),
      question("refused.test", 1),
      edns
    ]
  },
  mutate: (random: Random, input) => mutateBytes(random, input),
  run: async (input) => {
    const policy: NetworkPolicy = {
      ...allowAll,
      decideName: (name) => ({ allow: !name.startsWith("refused") }),
      dnsTypes: (name) => name.startsWith("b")
    }
    const names = new NameTable(cardAddresses.names6, 100, [], (name) => {
      if (!/^[a-z0-9_.-]{1,253}$/.test(name)) throw new Error(`a name: ${JSON.stringify(name)}`)
    })
    const records = async () => [{ type: "TXT", texts: ["x".repeat(300), ""] } as const]
    const server = new DnsServer(names, new Access(policy), new Events(() => {}), { records })
    const bytes = Buffer.from(input)
    const heard: Array<string> = []
    const answer = server.answer(bytes, true, (later) => void heard.push(checkAnswer(bytes, later, true)))
    if (answer !== undefined) heard.push(checkAnswer(bytes, answer, true))
    const stream = server.stream({ data: () => {}, drain: () => {}, end: () => {}, closed: () => {} })
    const framed = Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes, bytes])
    for (let at = 0; at < framed.length; at += 7) stream.write(framed, at, Math.min(7, framed.length - at))
    stream.end()
    await new Promise(setImmediate)
    return heard.join()
  }
}

export const netTargets: ReadonlyArray<Target> = [frames, dns]
