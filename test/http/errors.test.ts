import { expect, test } from "bun:test"
import { type Statuses, statusOf } from "../../src/http/errors.ts"

test("an error has its status; one of a plugin's own is 422", () => {
  expect(statusOf("InvalidInput")).toBe(400)
  expect(statusOf("ImageNotFound")).toBe(404)
  expect(statusOf("DiskFull")).toBe(507)
  expect(statusOf("SomebodyElses")).toBe(422)
  expect(statusOf("toString")).toBe(422)
})

test("a new error does not compile until it is mapped", () => {
  const rest: Omit<Statuses, "DiskFull"> = {} as Statuses
  // @ts-expect-error DiskFull has no status
  const statuses: Statuses = rest
  expect(statuses).toBeDefined()
})
