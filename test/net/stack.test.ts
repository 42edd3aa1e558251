import { describe, expect, test } from "bun:test"
import { cardAddresses } from "../../src/net/addresses.ts"
import type { DropReason } from "../../src/net/packet.ts"
import type { NetworkPolicy } from "../../src/net/types.ts"
import {
  allowAll,
  type ByHand,
  checksumsRight,
  ethernet,
  FakeUpstream,
  ip,
  makeByHand,
  question,
  type Seen,
  tcp,
  udp
} from "../support/frames.ts"

const [FIN, SYN, RST, ACK] = [1, 2, 4, 16]
const far = "93.184.216.34"
const far6 = "2606:4700::1111"
const guestMac = Buffer.from(cardAddresses.guestMac.split(":").map((byte) => Number.parseInt(byte, 16)))

const denyAll: NetworkPolicy = {
  decideName: () => ({ allow: false }),
  decideFlow: () => ({ allow: false, rule: "deny" }),
  dnsTypes: () => false
}

/** Opens a flow; the numbers that come next. */
const open = async (
  hand: ByHand,
  more: { readonly window?: number; readonly options?: ReadonlyArray<number>; readonly from?: number } = {}
) => {
  const [answer] = await hand.give(tcp(far, 80, { flags: SYN, sequence: 999, ...more }))
  if (answer === undefined || answer.flags !== (SYN | ACK)) throw new Error("no SYN-ACK")
  const { options: _, ...rest } = more
  await hand.give(tcp(far, 80, { flags: ACK, sequence: 1000, acknowledgement: answer.sequence + 1, ...rest }))
  return { mine: 1000, theirs: (answer.sequence + 1) | 0, upstream: hand.upstreams.at(-1)! }
}

describe("frames that nothing good comes of are dropped and counted", () => {
  const syn = tcp(far, 80, { flags: SYN })
  const patched = (frame: Buffer, at: number, ...bytes: ReadonlyArray<number>): Buffer => {
    const copy = Buffer.from(frame)
    copy.set(bytes, at)
    return copy
  }
  const six = (next: number, body: ReadonlyArray<number>) => ip(far6, Buffer.from(body), { protocol: next })
  const cases: ReadonlyArray<readonly [name: string, reason: DropReason, frame: Buffer]> = [
    ["no ether type that is known", "etherType", ethernet(0x88cc, Buffer.alloc(60))],
    ["a VLAN tag", "etherType", ethernet(0x8100, Buffer.alloc(60))],
    ["nothing behind the addresses", "short", ethernet(0x0800, Buffer.alloc(0))],
    ["IPv4 of 19 bytes", "short", ethernet(0x0800, Buffer.alloc(19, 0x45))],
    ["IPv4 with version 6", "short", patched(syn, 14, 0x65)],
    ["a header of 16 bytes", "short", patched(syn, 14, 0x44)],
    ["a header longer than the packet", "short", patched(syn, 14, 0x4f)],
    ["a length beyond the frame", "short", patched(syn, 16, 0xff, 0xff)],
    ["a length of 0", "short", patched(syn, 16, 0, 0)],
    ["a first fragment", "fragment", patched(syn, 20, 0x20, 0)],
    ["a later fragment", "fragment", patched(syn, 20, 0, 1)],
    ["another source", "source", ip(far, Buffer.alloc(20), { protocol: 6, from: "10.0.0.9" })],
    ["the gateway as the source", "source", ip(far, Buffer.alloc(20), { protocol: 6, from: cardAddresses.gateway4 })],
    ["another source of IPv6", "source", ip(far6, Buffer.alloc(20), { protocol: 6, from: "fe80::5" })],
    ["SCTP", "protocol", ip(far, Buffer.alloc(20), { protocol: 132 })],
    ["TCP of 19 bytes", "tcpHeader", ip(far, Buffer.alloc(19, 0x50), { protocol: 6 })],
    ["a TCP header of 16 bytes", "tcpHeader", patched(syn, 46, 0x40)],
    ["a TCP header longer than the packet", "tcpHeader", patched(syn, 46, 0xf0)],
    ["port 0", "tcpHeader", tcp(far, 0, { flags: SYN })],
    ["RST of no flow", "tcpReset", tcp(far, 80, { flags: RST })],
    ["UDP of 7 bytes", "udpHeader", ip(far, Buffer.alloc(7), { protocol: 17 })],
    ["a UDP length beyond the packet", "udpHeader", patched(udp(far, 9, "x"), 38, 0xff, 0xff)],
    ["a UDP length of 0", "udpHeader", patched(udp(far, 9, "x"), 38, 0, 0)],
    ["UDP to port 0", "udpHeader", udp(far, 0, "x")],
    ["ICMP redirect", "icmp", ip(far, Buffer.from([5, 0, 0, 0, 0, 0, 0, 0]), { protocol: 1 })],
    ["ICMP of one byte", "icmp", ip(far, Buffer.from([8]), { protocol: 1 })],
    ["ARP of 27 bytes", "short", ethernet(0x0806, Buffer.alloc(27))],
    ["ARP of another hardware", "arp", ethernet(0x0806, Buffer.alloc(28, 1))],
    ["IPv6 of 39 bytes", "short", ethernet(0x86dd, Buffer.alloc(39, 0x60))],
    ["a fragment of IPv6", "fragment", six(44, [6, 0, 0, 1, 0, 0, 0, 1])],
    ["a routing header", "options", six(43, [6, 0, 0, 1, 0, 0, 0, 1])],
    ["options beyond the packet", "short", six(0, [6, 255, 0, 0, 0, 0, 0, 0])],
    ["options without end", "options", six(0, Array.from({ length: 6 }, () => [0, 0, 0, 0, 0, 0, 0, 0]).flat())],
    [
      "router discovery over a router",
      "icmp",
      ip("ff02::2", Buffer.alloc(8, 133), { protocol: 58, patch: (packet) => void (packet[7] = 64) })
    ]
  ]
  for (const [name, reason, frame] of cases)
    test(name, async () => {
      const hand = makeByHand()
      expect(await hand.give(frame)).toEqual([])
      const { dropped } = hand.stack.stats()
      expect(Object.entries(dropped).filter(([, count]) => count > 0)).toEqual([[reason, 1]])
    })
})

test("ARP names the gateway's hardware for every address but the guest's own", async () => {
  const hand = makeByHand()
  const ask = (target: ReadonlyArray<number>) =>
    ethernet(0x0806, Buffer.from([0, 1, 8, 0, 6, 4, 0, 1, ...guestMac, 192, 0, 0, 2, 0, 0, 0, 0, 0, 0, ...target]))
  expect(await hand.give(ask([192, 0, 0, 2]))).toEqual([])
  for (const target of [
    [192, 0, 0, 1],
    [8, 8, 8, 8]
  ]) {
    const [answer] = await hand.give(ask(target))
    expect(answer!.frame.toString("hex", 14)).toBe(
      `0001080006040002${cardAddresses.gatewayMac.replaceAll(":", "")}${Buffer.from(target).toString("hex")}${guestMac.toString("hex")}c0000002`
    )
  }
})

test("an echo to the gateway comes back, by IPv4 and IPv6", async () => {
  const hand = makeByHand()
  const [four] = await hand.give(ip(cardAddresses.gateway4, Buffer.from([8, 0, 0, 0, 1, 2, 3, 4, 5]), { protocol: 1 }))
  expect([...four!.frame.subarray(34, 36), ...four!.frame.subarray(38)]).toEqual([0, 0, 1, 2, 3, 4, 5])
  const [six] = await hand.give(
    ip(cardAddresses.gateway6, Buffer.from([128, 0, 0, 0, 1, 2, 3, 4, 5]), { protocol: 58 })
  )
  expect([...six!.frame.subarray(54, 56), ...six!.frame.subarray(58)]).toEqual([129, 0, 1, 2, 3, 4, 5])
  expect(checksumsRight(six!)).toBe(true)
})

describe("TCP", () => {
  for (const address of [far, far6])
    test(`a denied connect to ${address} is RST before any handshake, and one event`, async () => {
      const hand = makeByHand({ policy: denyAll })
      const [answer, ...more] = await hand.give(tcp(address, 443, { flags: SYN, sequence: 5 }))
      expect(more).toEqual([])
      expect(answer).toMatchObject({ flags: RST | ACK, sequence: 0, acknowledgement: 6, from: 443, to: 40_000 })
      expect(checksumsRight(answer!)).toBe(true)
      expect(hand.events).toEqual([{ kind: "denied", protocol: "tcp", address, port: 443, rule: "deny" }])
      expect(hand.upstreams).toEqual([])
    })

  test("an unreachable destination is refused in the same way", async () => {
    const hand = makeByHand({
      dialer: {
        tcp: async () => ({ _tag: "unreachable", reason: "ECONNREFUSED" }),
        udp: async () => ({ _tag: "unreachable", reason: "" }),
        icmp: async () => ({ _tag: "unreachable", reason: "" }),
        records: async () => undefined
      }
    })
    const [answer] = await hand.give(tcp(far, 443, { flags: SYN, sequence: 5 }))
    expect(answer).toMatchObject({ flags: RST | ACK, acknowledgement: 6 })
    expect(hand.events).toMatchObject([{ kind: "unreachable", reason: "ECONNREFUSED" }])
    expect(hand.stack.stats().tcpFlows).toBe(0)
  })

  test("segments out of order, doubled and overlapping arrive once and in order", async () => {
    const hand = makeByHand()
    const { mine, theirs, upstream } = await open(hand)
    const at = (offset: number, data: string) =>
      tcp(far, 80, { flags: ACK, sequence: mine + offset, acknowledgement: theirs, data })
    const [duplicate] = await hand.give(at(6, "ghi"))
    expect(duplicate).toMatchObject({ flags: ACK, acknowledgement: mine })
    await hand.give(at(4, "efgh"), at(9, "jkl"), at(9, "jkl"))
    expect(upstream.got.toString()).toBe("")
    const [all] = await hand.give(at(0, "abcdefg"), at(3, "defghijklm"))
    expect(upstream.got.toString()).toBe("abcdefghijklm")
    expect(all).toMatchObject({ flags: ACK, acknowledgement: mine + 13 })
    expect(hand.stack.stats().heldBytes).toBe(0)
  })

  test("what came out of order is told by range, the latest first", async () => {
    const hand = makeByHand()
    const [answer] = await hand.give(tcp(far, 80, { flags: SYN, sequence: 999, options: [1, 1, 4, 2] }))
    expect(answer!.frame.toString("hex", 54)).toBe("0204ffd701010402")
    const acknowledgement = (answer!.sequence + 1) | 0
    const at = (offset: number, data: string) =>
      tcp(far, 80, { flags: ACK, sequence: 1000 + offset, acknowledgement, data })
    const ranges = async (frame: Buffer) => {
      const [, ...answers] = await hand.give(at(-1, ""), frame)
      const options = answers[0]!.frame.subarray(54)
      expect(options.toString("hex", 0, 4)).toBe(`010105${(options.length - 2).toString(16).padStart(2, "0")}`)
      return Array.from({ length: (options.length - 4) / 4 }, (_, index) => options.readInt32BE(4 + index * 4) - 1000)
    }
    await hand.give(at(0, ""))
    expect(await ranges(at(10, "ab"))).toEqual([10, 12])
    expect(await ranges(at(20, "cd"))).toEqual([20, 22, 10, 12])
    expect(await ranges(at(12, "ef"))).toEqual([10, 14, 20, 22])
    const [all] = await hand.give(at(0, "x".repeat(20)))
    expect(all).toMatchObject({ acknowledgement: 1022 })
    expect(all!.frame.length).toBe(54)
  })

  test("one segment that is not acknowledged is sent again soon, then all are", async () => {
    const hand = makeByHand()
    const { mine, theirs, upstream } = await open(hand, { options: [2, 4, 3, 232], window: 60_000 })
    upstream.handler.data(Buffer.alloc(10, 1))
    await hand.sent()
    const more = { flags: ACK, sequence: mine, acknowledgement: theirs + 10, window: 60_000 }
    await hand.give(tcp(far, 80, more))
    upstream.handler.data(Buffer.alloc(3000, 2))
    expect((await hand.sent()).length).toBe(3)
    const again: Array<number> = []
    while (again.length < 3) {
      again.push(...(await hand.sent()).map(({ sequence }) => sequence - theirs))
      await Bun.sleep(5)
    }
    // The second time begins with the first segment again, and with one alone: more may be lost for the same reason.
    expect(again.slice(0, 2)).toEqual([10, 10])
    hand.stack.close()
  })

  test("sequence numbers wrap", async () => {
    const hand = makeByHand()
    const [answer] = await hand.give(tcp(far, 80, { flags: SYN, sequence: 0xffff_fffd }))
    const acknowledgement = answer!.sequence + 1
    await hand.give(tcp(far, 80, { flags: ACK, sequence: 0xffff_fffe, acknowledgement, data: "abcd" }))
    const [last] = await hand.give(tcp(far, 80, { flags: ACK | FIN, sequence: 2, acknowledgement, data: "ef" }))
    expect(hand.upstreams[0]!.got.toString()).toBe("abcdef")
    expect(last!.acknowledgement).toBe(5)
    expect(hand.upstreams[0]!.ended).toBe(true)
  })

  test("what the upstream does not take closes the window, and is held up to it", async () => {
    const hand = makeByHand()
    const { mine, theirs, upstream } = await open(hand, { options: [3, 3, 7, 0] })
    upstream.room = 1000
    const data = Buffer.alloc(60_000, 1)
    let next = mine
    let window = Number.POSITIVE_INFINITY
    for (let count = 0; count < 40; count++) {
      const [answer] = await hand.give(tcp(far, 80, { flags: ACK, sequence: next, acknowledgement: theirs, data }))
      next = answer!.acknowledgement
      window = answer!.window
    }
    expect(window).toBe(0)
    // The first bytes of a flow to a raw address are held beside it until a name in them is known.
    expect(next - mine).toBeLessThanOrEqual(1_048_576 + data.length)
    expect(hand.stack.stats().heldBytes).toBe(next - mine - data.length)
    upstream.room = Number.POSITIVE_INFINITY
    upstream.handler.drain()
    const [opened] = await hand.sent()
    expect(opened!.window << 7).toBe(1_048_576)
    expect(hand.stack.stats().heldBytes).toBe(0)
    expect(upstream.got.length).toBe(next - mine)
  })

  test("an upstream is stopped before much is held for a guest that does not read", async () => {
    const hand = makeByHand()
    const { mine, theirs, upstream } = await open(hand, { window: 1000 })
    for (let count = 0; !upstream.paused; count++) {
      expect(count).toBeLessThan(20)
      upstream.handler.data(Buffer.alloc(65_536))
    }
    const sent = await hand.sent()
    let acknowledgement = theirs + sent.reduce((sum, { body }) => sum + body.length, 0)
    expect(acknowledgement - theirs).toBeLessThanOrEqual(1000)
    let held = hand.stack.stats().heldBytes
    expect(held).toBeLessThanOrEqual(1_048_576)
    while (upstream.paused) {
      const segments = await hand.give(tcp(far, 80, { flags: ACK, sequence: mine, acknowledgement, window: 60_000 }))
      acknowledgement += segments.reduce((sum, { body }) => sum + body.length, 0)
      expect(hand.stack.stats().heldBytes).toBeLessThan(held)
      held = hand.stack.stats().heldBytes
    }
  })

  test("data to the guest is cut by its MSS and window, checksums are right at any length", async () => {
    const hand = makeByHand()
    const { upstream } = await open(hand, { options: [2, 4, 3, 233], window: 20_000 })
    upstream.handler.data(Buffer.from(Array.from({ length: 7001 }, (_, index) => index & 255)))
    const segments = await hand.sent()
    expect(segments.map(({ body }) => body.length)).toEqual([1001, 1001, 1001, 1001, 1001, 1001, 995])
    expect(segments.every(checksumsRight)).toBe(true)
    expect(Buffer.concat(segments.map(({ body }) => body)).every((byte, index) => byte === (index & 255))).toBe(true)
  })

  test("three duplicates send the missing segment again, a partial acknowledgement the next one", async () => {
    const hand = makeByHand()
    const { mine, theirs, upstream } = await open(hand, { options: [2, 4, 3, 232], window: 60_000 })
    upstream.handler.data(Buffer.alloc(8000, 1))
    expect((await hand.sent()).length).toBe(8)
    const ack = (acknowledgement: number) =>
      tcp(far, 80, { flags: ACK, sequence: mine, acknowledgement, window: 60_000 })
    expect(await hand.give(ack(theirs), ack(theirs))).toEqual([])
    expect(await hand.give(ack(theirs))).toMatchObject([{ sequence: theirs }])
    expect(await hand.give(ack(theirs + 3000))).toMatchObject([{ sequence: theirs + 3000 }])
    expect(await hand.give(ack(theirs + 8000))).toEqual([])
    expect(hand.stack.stats().heldBytes).toBe(0)
  })

  test("RST and SYN count only where they must: else they draw an acknowledgement", async () => {
    const hand = makeByHand()
    const { mine, theirs, upstream } = await open(hand)
    expect(await hand.give(tcp(far, 80, { flags: RST, sequence: mine + 5 }))).toMatchObject([
      { flags: ACK, acknowledgement: mine }
    ])
    expect(await hand.give(tcp(far, 80, { flags: RST, sequence: mine - 70_000 }))).toEqual([])
    expect(await hand.give(tcp(far, 80, { flags: SYN, sequence: mine + 5 }))).toMatchObject([
      { flags: ACK, acknowledgement: mine }
    ])
    expect(await hand.give(tcp(far, 80, { flags: ACK, sequence: mine, acknowledgement: theirs + 1 }))).toMatchObject([
      { flags: ACK }
    ])
    expect(upstream.wasReset).toBe(false)
    expect(await hand.give(tcp(far, 80, { flags: RST, sequence: mine }))).toEqual([])
    expect(upstream.wasReset).toBe(true)
    expect(hand.stack.stats().tcpFlows).toBe(0)
  })

  test("a reset upstream resets the guest, and a segment of no flow is reset with its own number", async () => {
    const hand = makeByHand()
    const { mine, theirs, upstream } = await open(hand)
    upstream.handler.closed(true)
    expect(await hand.sent()).toMatchObject([{ flags: RST | ACK, sequence: theirs }])
    expect(await hand.give(tcp(far, 80, { flags: ACK, sequence: mine, acknowledgement: theirs }))).toMatchObject([
      { flags: RST, sequence: theirs }
    ])
  })

  test("half-close: the guest ends first and goes on receiving, then the other way round", async () => {
    const hand = makeByHand()
    const { mine, theirs, upstream } = await open(hand)
    await hand.give(tcp(far, 80, { flags: ACK | FIN, sequence: mine, acknowledgement: theirs }))
    expect(upstream.ended).toBe(true)
    upstream.handler.data(Buffer.from("late"))
    expect(await hand.sent()).toMatchObject([{ body: Buffer.from("late") }])
    upstream.handler.closed(false)
    const [end1] = await hand.sent()
    expect([end1!.flags & FIN, end1!.sequence]).toEqual([FIN, theirs + 4])
    await hand.give(tcp(far, 80, { flags: ACK, sequence: mine + 1, acknowledgement: theirs + 5 }))
    expect(hand.stack.stats().tcpFlows).toBe(0)
    const other = await open(hand, { from: 40_001 })
    other.upstream.handler.end()
    expect((await hand.sent())[0]!.flags & FIN).toBe(FIN)
    const from = 40_001
    await hand.give(
      tcp(far, 80, { from, flags: ACK, sequence: other.mine, acknowledgement: other.theirs + 1, data: "still" })
    )
    expect(other.upstream.got.toString()).toBe("still")
    const end = tcp(far, 80, { from, flags: ACK | FIN, sequence: other.mine + 5, acknowledgement: other.theirs + 1 })
    expect(await hand.give(end)).toMatchObject([{ acknowledgement: other.mine + 6 }])
    // In TIME_WAIT the end is acknowledged again, and the ports may be used again.
    expect(await hand.give(end)).toMatchObject([{ flags: ACK, acknowledgement: other.mine + 6 }])
    expect(await hand.give(tcp(far, 80, { from, flags: SYN, sequence: 90_000 }))).toMatchObject([{ flags: SYN | ACK }])
  })

  test("while the card is full nothing is queued for it, and flows take turns afterwards", async () => {
    const hand = makeByHand()
    const one = await open(hand, { from: 1, options: [2, 4, 3, 232], window: 60_000 })
    const two = await open(hand, { from: 2, options: [2, 4, 3, 232], window: 60_000 })
    hand.block(true)
    one.upstream.handler.data(Buffer.alloc(4000, 1))
    await hand.sent()
    two.upstream.handler.data(Buffer.alloc(4000, 2))
    expect(await hand.sent()).toEqual([])
    hand.block(false)
    const segments = await hand.sent()
    expect(segments.length).toBe(8)
    expect(
      segments
        .slice(-4)
        .map(({ to }) => to)
        .toSorted()
    ).toEqual([2, 2, 2, 2])
  })
})

describe("to the guest", () => {
  const to = cardAddresses.gateway4
  const connecting = async (hand: ByHand) => {
    const upstream = new FakeUpstream({ data: () => {}, drain: () => {}, end: () => {}, closed: () => {} })
    const connected = hand.stack.connectGuest(8080, upstream)
    const [syn] = await hand.sent()
    expect(syn).toMatchObject({ flags: SYN, to: 8080 })
    expect(syn!.frame.toString("hex", 54)).toBe("0204ffd70103030701010402")
    return { upstream, connected, from: syn!.from, theirs: (syn!.sequence + 1) | 0 }
  }

  test("a port that listens is connected to, bytes go both ways, ends too", async () => {
    const hand = makeByHand()
    const { connected, from, theirs, upstream } = await connecting(hand)
    const answer = { from: 8080, flags: SYN | ACK, sequence: 500, acknowledgement: theirs, options: [3, 3, 7, 0] }
    expect(await hand.give(tcp(to, from, answer))).toMatchObject([{ flags: ACK, acknowledgement: 501 }])
    const handler = await connected
    handler!.data(Buffer.from("hello"))
    expect(await hand.sent()).toMatchObject([{ sequence: theirs, body: Buffer.from("hello") }])
    const rest = { from: 8080, flags: ACK | FIN, sequence: 501, acknowledgement: theirs + 5, data: "hi" }
    await hand.give(tcp(to, from, rest))
    expect([upstream.got.toString(), upstream.ended]).toEqual(["hi", true])
    handler!.end()
    await hand.sent()
    await hand.give(tcp(to, from, { from: 8080, flags: ACK, sequence: 504, acknowledgement: theirs + 6 }))
    expect(hand.stack.stats().tcpFlows).toBe(0)
    // It is the stack's own doing, so nothing is told.
    expect(hand.events).toEqual([])
  })

  test("a port that nobody listens at is refused", async () => {
    const hand = makeByHand()
    const { connected, from, theirs, upstream } = await connecting(hand)
    await hand.give(tcp(to, from, { from: 8080, flags: RST | ACK, acknowledgement: theirs }))
    expect(await connected).toBeUndefined()
    expect(upstream.wasReset).toBe(true)
    const other = await connecting(hand)
    expect(other.from).not.toBe(from)
    hand.stack.close()
    expect(await other.connected).toBeUndefined()
  })
})

describe("limits", () => {
  test("flows that are being opened, flows, and new ones a second", async () => {
    const never: Promise<never> = new Promise(() => {})
    const dialer = { ...{ udp: () => never, icmp: () => never, records: () => never }, tcp: () => never }
    const half = makeByHand({ dialer, limits: { tcpHalfOpen: 3 } })
    const syns = Array.from({ length: 5 }, (_, from) => tcp(far, 80, { flags: SYN, from: from + 1 }))
    expect((await half.give(...syns)).map(({ flags, to }) => [flags, to])).toEqual([
      [RST | ACK, 4],
      [RST | ACK, 5]
    ])
    expect(half.events.map(({ kind, reason }) => `${kind}: ${reason}`)).toEqual(
      Array(2).fill("limit: 3 TCP flows that are being opened")
    )

    const full = makeByHand({ limits: { tcpFlows: 2 } })
    for (const from of [1, 2]) await open(full, { from })
    expect(await full.give(tcp(far, 80, { flags: SYN, from: 3 }))).toMatchObject([{ flags: RST | ACK }])
    expect(full.events.at(-1)).toMatchObject({ kind: "limit", reason: "2 TCP flows" })

    const fast = makeByHand({ limits: { newFlowsPerSecond: 2 } })
    const answers = await fast.give(...syns)
    expect(answers.filter(({ flags }) => flags === (RST | ACK)).length).toBe(3)
  })

  test("a flood of SYN costs no memory, and events are bounded", async () => {
    const hand = makeByHand({ policy: denyAll })
    for (let turn = 0; turn < 20; turn++)
      await hand.give(
        ...Array.from({ length: 1000 }, (_, from) => tcp(`93.184.${turn}.34`, 80, { flags: SYN, from: from + 1 }))
      )
    const { events, tcpFlows } = hand.stack.stats()
    expect({ denied: events.denied, tcpFlows }).toEqual({ denied: 20_000, tcpFlows: 0 })
    expect(hand.events.length).toBeLessThan(2000)
  })
})

describe("policy", () => {
  test("a swap resets exactly the flows that are denied now", async () => {
    const hand = makeByHand()
    const kept = await open(hand, { from: 1 })
    const lost = await open(hand, { from: 2 })
    const policy = { ...allowAll, decideFlow: ({ port }: { readonly port: number }) => ({ allow: port === 80 }) }
    hand.stack.setPolicy(policy)
    expect(await hand.sent()).toEqual([])
    await hand.give(tcp(far, 81, { flags: SYN, from: 3 }))
    expect(hand.events.at(-1)).toMatchObject({ kind: "denied", port: 81 })
    hand.stack.setPolicy({ ...allowAll, decideFlow: () => ({ allow: false, rule: "deny 93.184.216.34" }) })
    expect((await hand.sent()).map(({ flags, to }) => [flags, to])).toEqual([
      [RST | ACK, 1],
      [RST | ACK, 2]
    ])
    expect([kept.upstream.wasReset, lost.upstream.wasReset]).toEqual([true, true])
  })

  test("an IPv4 address in an IPv6 address is decided about, too", async () => {
    const asked: Array<string> = []
    const policy: NetworkPolicy = { ...allowAll, decideFlow: ({ address }) => ({ allow: asked.push(address) < 3 }) }
    const hand = makeByHand({ policy })
    await hand.give(tcp("64:ff9b::7f00:1", 80, { flags: SYN }), tcp("::ffff:10.0.0.1", 80, { flags: SYN }))
    expect(asked.slice(0, 3)).toEqual(["64:ff9b::7f00:1", "127.0.0.1", "10.0.0.1"])
  })

  test("a rule for a name bites on a raw address when the guest says that name", async () => {
    const policy: NetworkPolicy = {
      ...allowAll,
      decideName: (name) => (name === "evil.test" ? { allow: false, rule: "deny evil.test" } : { allow: false })
    }
    const hand = makeByHand({ policy })
    const { mine, theirs, upstream } = await open(hand)
    const say = (data: string) => tcp(far, 80, { flags: ACK, sequence: mine, acknowledgement: theirs, data })
    const answers = await hand.give(say("GET / HTTP/1.1\r\nHost: Evil.test:80\r\n\r\n"))
    expect(answers.at(-1)!.flags & RST).toBe(RST)
    expect(upstream.got.length).toBe(0)
    expect(upstream.wasReset).toBe(true)
    expect(hand.events.at(-2)).toMatchObject({ kind: "denied", name: "evil.test", rule: "deny evil.test" })
    const other = await open(hand, { from: 7 })
    await hand.give(
      tcp(far, 80, {
        from: 7,
        flags: ACK,
        sequence: other.mine,
        acknowledgement: other.theirs,
        data: "GET / HTTP/1.1\r\nHost: fine.test\r\n\r\n"
      })
    )
    expect(other.upstream.got.toString()).toContain("fine.test")
  })
})

describe("UDP and DNS", () => {
  test("datagrams go and come with right checksums; a denied one is unreachable", async () => {
    const hand = makeByHand()
    for (const address of [far, far6]) {
      const [echo] = await hand.give(udp(address, 9, "hello!!"))
      expect(echo).toMatchObject({ protocol: 17, from: 9, to: 50_000, body: Buffer.from("hello!!") })
      expect(checksumsRight(echo!)).toBe(true)
    }
    expect(hand.stack.stats()).toMatchObject({ udpFlows: 2, bytesUp: 14, bytesDown: 14 })
    hand.stack.setPolicy(denyAll)
    expect(hand.stack.stats().udpFlows).toBe(0)
    await hand.sent()
    const [four] = await hand.give(udp(far, 9, "x"))
    expect([four!.protocol, ...four!.frame.subarray(34, 36)]).toEqual([1, 3, 3])
    const [six] = await hand.give(udp(far6, 9, "x"))
    expect([six!.protocol, ...six!.frame.subarray(54, 56)]).toEqual([58, 1, 4])
    hand.stack.close()
  })

  test("names: allowed ones get addresses of their own for ever, all else is refused at once", async () => {
    let allowed = ["a.test", "b.test"]
    const policy: NetworkPolicy = { ...allowAll, decideName: (name) => ({ allow: allowed.includes(name) }) }
    const added: Array<string> = []
    const hand = makeByHand({ policy, names: { initial: ["old.test"], added: (name) => void added.push(name) } })
    const ask = async (name: string, type: number) => {
      const [answer] = await hand.give(udp("8.8.8.8", 53, question(name, type)))
      return {
        code: answer!.body[3]! & 15,
        data: answer!.body.subarray(12 + question(name, type).length - 12 + 12).toString("hex")
      }
    }
    expect(await ask("A.Test", 1)).toEqual({ code: 0, data: "c6120002" })
    expect(await ask("b.test", 1)).toEqual({ code: 0, data: "c6120003" })
    expect(await ask("a.test", 28)).toEqual({ code: 0, data: "fd42756e6b6500020000000000000002" })
    expect(await ask("a.test", 65)).toEqual({ code: 0, data: "" })
    expect(await ask("c.test", 1)).toEqual({ code: 5, data: "" })
    expect(await ask("a\0b.test", 1)).toEqual({ code: 5, data: "" })
    allowed = ["b.test", "old.test"]
    expect(await ask("a.test", 1)).toEqual({ code: 5, data: "" })
    expect(await ask("old.test", 1)).toEqual({ code: 0, data: "c6120001" })
    expect(added).toEqual(["a.test", "b.test"])
    expect(hand.events.filter(({ kind }) => kind === "denied").map(({ name }) => name)).toEqual(["c.test", "a.test"])
    expect(await hand.give(tcp("198.18.0.2", 80, { flags: SYN }))).toMatchObject([{ flags: RST | ACK }])
  })

  test("a guest that asks by TCP and reads no answers is asked for no more, and answered once it reads", async () => {
    const hand = makeByHand()
    const [answer] = await hand.give(tcp(far, 53, { flags: SYN, sequence: 999, window: 1000 }))
    const acknowledgement = (answer!.sequence + 1) | 0
    const asked = question("a.test", 1)
    const piece = Buffer.concat(
      Array.from({ length: 1000 }, () => Buffer.concat([Buffer.from([0, asked.length]), asked]))
    )
    let sequence = 1000
    let next = acknowledgement
    const take = (segments: ReadonlyArray<Seen>): void => {
      for (const segment of segments) if (segment.sequence === next) next = (next + segment.body.length) | 0
    }
    for (let count = 0; count < 200; count++) {
      const segments = await hand.give(
        tcp(far, 53, { flags: ACK, sequence, acknowledgement, window: 1000, data: piece })
      )
      sequence = segments.at(-1)?.acknowledgement ?? sequence
      take(segments)
    }
    expect(hand.stack.stats().heldBytes).toBeLessThan(3 * 1_048_576)
    for (let quiet = 0; quiet < 3; ) {
      const segments = await hand.give(tcp(far, 53, { flags: ACK, sequence, acknowledgement: next, window: 60_000 }))
      quiet = segments.some(({ body }) => body.length > 0) ? 0 : quiet + 1
      take(segments)
    }
    const answerBytes = 2 + asked.length + 16
    expect(Math.floor((next - acknowledgement) / answerBytes)).toBe(Math.floor((sequence - 1000) / (asked.length + 2)))
    expect(hand.stack.stats().heldBytes).toBe(0)
    hand.stack.close()
  })

  test("questions that are none are refused or get no answer", async () => {
    const hand = makeByHand()
    const good = question("a.test", 1)
    const patched = (at: number, ...bytes: ReadonlyArray<number>) => {
      const copy = Buffer.from(good)
      copy.set(bytes, at)
      return copy
    }
    const cases: ReadonlyArray<readonly [name: string, bytes: Buffer, code: number | undefined]> = [
      ["an answer", patched(2, 0x80), undefined],
      ["11 bytes", good.subarray(0, 11), undefined],
      ["another operation", patched(2, 0x28), 4],
      ["no question", patched(4, 0, 0), 1],
      ["10,000 questions", patched(4, 0x27, 0x10), 1],
      ["a pointer to itself", patched(12, 0xc0, 12), 1],
      ["a label beyond the end", patched(12, 60), 1],
      ["no end", good.subarray(0, -5), 1],
      ["another class", patched(good.length - 1, 3), 5],
      ["labels of 255 bytes", question(Array(5).fill("a".repeat(60)).join("."), 1), 1]
    ]
    for (const [name, bytes, code] of cases) {
      const [answer] = await hand.give(udp("1.1.1.1", 53, bytes))
      expect([name, answer === undefined ? undefined : answer.body[3]! & 15]).toEqual([name, code])
    }
  })

  test("more names than there may be are refused, with an event", async () => {
    const hand = makeByHand({ limits: { names: 1 } })
    await hand.give(udp("1.1.1.1", 53, question("a.test", 1)))
    const [answer] = await hand.give(udp("1.1.1.1", 53, question("b.test", 1)))
    expect(answer!.body[3]! & 15).toBe(5)
    expect(hand.events.at(-1)).toMatchObject({ kind: "limit", name: "b.test" })
  })
})

test("flows of an earlier process are provoked, and their answers reset", async () => {
  const hand = makeByHand({
    previous: [
      { guestPort: 4242, address: "198.18.0.1", port: 443 },
      { guestPort: 1, address: "nonsense", port: 1 }
    ]
  })
  expect(await hand.sent()).toMatchObject([{ flags: ACK, from: 443, to: 4242 }])
  const challenge = tcp("198.18.0.1", 443, { from: 4242, flags: ACK, sequence: 77, acknowledgement: 88 })
  expect(await hand.give(challenge)).toMatchObject([{ flags: RST, sequence: 88 }])
})
