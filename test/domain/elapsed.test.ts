import { expect, test } from "bun:test"
import { hasPassed, isAhead } from "../../src/domain/elapsed.ts"

test("a span has passed once it is over, and for a time from a clock that ran ahead", () => {
  const now = 1_000_000
  const passed = (since: number) => hasPassed(since, 100, now)
  expect([now - 101, now - 100, now - 99, now, now + 99, now + 100, now + 101].map(passed)).toEqual([
    true,
    false,
    false,
    false,
    false,
    false,
    true
  ])
})

test("a deadline is ahead until it is reached, unless it is further off than one can be set", () => {
  const now = 1_000_000
  const ahead = (deadline: number) => isAhead(deadline, 100, now)
  expect([now - 1, now, now + 1, now + 99, now + 100, now + 101].map(ahead)).toEqual([
    false,
    false,
    true,
    true,
    true,
    false
  ])
  expect(isAhead(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, now)).toBe(true)
})
