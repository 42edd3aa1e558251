import { expect, test } from "bun:test"
import type { NetworkEvent } from "../../../src/domain/network/events.ts"
import { EventTeller } from "../../../src/net/process/eventTeller.ts"

const event = (more: Partial<NetworkEvent> = {}): NetworkEvent => ({
  at: 0,
  kind: "denied",
  name: "a.example",
  address: null,
  port: 443,
  protocol: "tcp",
  rule: null,
  reason: "no rule allows it",
  count: 1,
  ...more
})

const listening = () => {
  const told: Array<NetworkEvent> = []
  return { told, teller: new EventTeller((each) => told.push(each)) }
}

test("the first to a destination is told at once, more like it together with their number", () => {
  const { told, teller } = listening()
  for (let round = 0; round < 5; round += 1) teller.add(event())
  teller.add(event({ port: 80 }))
  expect(told).toEqual([event(), event({ port: 80 })])
  teller.flush()
  expect(told.slice(2)).toEqual([event({ count: 4 })])
  teller.flush()
  expect(told).toHaveLength(3)
})

test("what a destination was used for is told once", () => {
  const { told, teller } = listening()
  for (let round = 0; round < 5; round += 1) {
    teller.add(event({ kind: "used" }))
    teller.flush()
  }
  expect(told).toHaveLength(1)
})

test("a crowd of destinations is bounded, and what there is no room for is counted", () => {
  const { told, teller } = listening()
  const all = 100_000
  for (let port = 0; port < all; port += 1) teller.add(event({ name: `n${port}.example` }))
  teller.flush()
  expect(told.length).toBeLessThan(300)
  expect(told.reduce((sum, { count }) => sum + count, 0)).toBe(all)
})
