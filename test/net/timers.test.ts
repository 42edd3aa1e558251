/** What the stack does by itself when time passes. Nothing here measures how long it takes: each case waits for what must come. */
import { expect, test } from "bun:test"
import { makeByHand, question, type Seen, tcp, udp } from "../support/frames.ts"

const [FIN, SYN, RST, ACK] = [1, 2, 4, 16]
const far = "93.184.216.34"

type Hand = ReturnType<typeof makeByHand>

const open = async (hand: Hand, window = 60_000) => {
  const [answer] = await hand.give(tcp(far, 80, { flags: SYN, sequence: 999, window }))
  const theirs = (answer!.sequence + 1) | 0
  const ack = (acknowledgement: number, more: { readonly window?: number; readonly flags?: number } = {}) =>
    tcp(far, 80, { flags: ACK, sequence: 1000, acknowledgement, window, ...more })
  await hand.give(ack(theirs))
  return { theirs, ack, upstream: hand.upstreams.at(-1)! }
}

/** Waits for segments until `enough` says so. */
const until = async (hand: Hand, enough: (seen: ReadonlyArray<Seen>) => boolean): Promise<ReadonlyArray<Seen>> => {
  const all: Array<Seen> = []
  while (!enough(all)) {
    all.push(...(await hand.sent()))
    await Bun.sleep(5)
  }
  return all
}

test("a guest that gives no window is asked by one byte, for as long as it answers", async () => {
  const hand = makeByHand()
  const { ack, theirs, upstream } = await open(hand, 0)
  upstream.handler.data(Buffer.from("abc"))
  expect(await hand.sent()).toEqual([])
  const [probe] = await until(hand, ({ length }) => length > 0)
  expect(probe).toMatchObject({ sequence: theirs, body: Buffer.from("a") })
  // It was thrown away; then there is room.
  expect(await hand.give(ack(theirs))).toEqual([])
  expect(await hand.give(ack(theirs, { window: 100 }))).toMatchObject([{ sequence: theirs, body: Buffer.from("abc") }])
  await hand.give(ack(theirs + 3, { window: 100 }))
  expect(hand.stack.stats().heldBytes).toBe(0)
  hand.stack.close()
})

test("a guest that took the probe's byte gets the rest from there", async () => {
  const hand = makeByHand()
  const { ack, theirs, upstream } = await open(hand, 0)
  upstream.handler.data(Buffer.from("abc"))
  await until(hand, ({ length }) => length > 0)
  expect(await hand.give(ack(theirs + 1, { window: 100 }))).toMatchObject([
    { sequence: theirs + 1, body: Buffer.from("bc") }
  ])
  hand.stack.close()
})

test("a SYN-ACK that is not acknowledged goes again, and one asked for again at once", async () => {
  const hand = makeByHand()
  const syn = tcp(far, 80, { flags: SYN, sequence: 999 })
  const [first] = await hand.give(syn)
  expect(await hand.give(syn)).toMatchObject([{ flags: SYN | ACK, sequence: first!.sequence, acknowledgement: 1000 }])
  expect(await until(hand, ({ length }) => length > 0)).toMatchObject([{ flags: SYN | ACK, sequence: first!.sequence }])
  hand.stack.close()
})

test("a guest that no longer knows of a flow loses it: both sides are reset", async () => {
  const hand = makeByHand({ limits: { tcpKeepAliveMs: 20 } })
  const { theirs, upstream } = await open(hand)
  const seen = await until(hand, (all) => all.some(({ flags }) => flags & RST))
  // Each probe is an acknowledgement of one byte before what comes next.
  expect(seen.filter(({ flags }) => flags === ACK).every(({ sequence }) => sequence === theirs - 1)).toBe(true)
  expect(seen.length).toBe(10)
  expect(upstream.wasReset).toBe(true)
  expect(hand.stack.stats().tcpFlows).toBe(0)
})

test("a guest that answers its probes keeps a quiet flow", async () => {
  const hand = makeByHand({ limits: { tcpKeepAliveMs: 20 } })
  const { ack, theirs, upstream } = await open(hand)
  for (let answered = 0; answered < 12; answered++) {
    await until(hand, ({ length }) => length > 0)
    await hand.give(ack(theirs))
  }
  expect(upstream.wasReset).toBe(false)
  expect(hand.stack.stats().tcpFlows).toBe(1)
  hand.stack.close()
})

test("TIME_WAIT ends, and then the ports mean nothing", async () => {
  const hand = makeByHand()
  const { ack, theirs, upstream } = await open(hand)
  upstream.handler.end()
  await hand.sent()
  await hand.give(ack(theirs + 1, { flags: ACK | FIN }))
  const end = ack(theirs + 1, { flags: ACK | FIN })
  for (;;) {
    const [answer] = await hand.give(end)
    if (answer!.flags === RST) break
    expect(answer).toMatchObject({ flags: ACK, acknowledgement: 1001 })
    await Bun.sleep(100)
  }
}, 30_000)

test("bytes to the guest keep to their rate, acknowledgements do not wait for it", async () => {
  const hand = makeByHand({ limits: { bytesDownPerSecond: 20_000 } })
  const { ack, theirs, upstream } = await open(hand)
  upstream.handler.data(Buffer.alloc(60_000))
  const sent = (await hand.sent()).reduce((sum, { body }) => sum + body.length, 0)
  expect(sent).toBeGreaterThan(0)
  expect(sent).toBeLessThanOrEqual(20_000 + 16_384)
  const [answer] = await hand.give(tcp(far, 80, { flags: ACK, sequence: 1000, acknowledgement: theirs, data: "x" }))
  expect(answer).toMatchObject({ flags: ACK, acknowledgement: 1001 })
  await hand.give(ack(theirs + sent))
  await until(hand, (all) => all.length > 0)
  hand.stack.close()
})

test("a UDP flow that is idle ends, and is told with its bytes", async () => {
  const hand = makeByHand({ limits: { udpIdleMs: 20 } })
  await hand.give(udp(far, 9, "hello"), udp(far, 53, question("a.test", 1)))
  while (hand.stack.stats().udpFlows > 0) await Bun.sleep(5)
  expect(hand.events.at(-1)).toMatchObject({ kind: "closed", protocol: "udp", port: 9, bytesUp: 5, bytesDown: 5 })
})
