import { expect, test } from "bun:test"
import { Checksum, finish } from "../../src/net/checksum.ts"
import { generator, seedOf } from "../support/random.ts"

/** RFC 1071, byte by byte. */
const slowly = (bytes: Uint8Array): number => {
  let sum = 0
  for (let at = 0; at < bytes.length; at += 2) sum += bytes[at]! * 256 + (bytes[at + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000)
  return ~sum & 0xffff
}

test("sums are those of RFC 1071 at any place and of any length", () => {
  const random = generator(seedOf("checksum"))
  const bytes = Buffer.alloc(65_554)
  for (let at = 0; at < bytes.length; at++) bytes[at] = random(256)
  const checksum = new Checksum(bytes)
  const equal = (start: number, end: number): void => {
    expect([start, end, finish(checksum.sum(start, end, 0))]).toEqual([start, end, slowly(bytes.subarray(start, end))])
  }
  for (let start = 0; start < 9; start++) for (let end = start; end < start + 70; end++) equal(start, end)
  for (let count = 0; count < 200; count++) {
    const start = random(bytes.length)
    equal(start, start + random(bytes.length - start + 1))
  }
  equal(0, bytes.length)
  bytes.fill(255)
  equal(1, bytes.length)
})

test("a pseudo header is added before the sum is folded", () => {
  const bytes = Buffer.from([0xff, 0xff, 0, 1, 0, 0, 0, 0])
  expect(finish(new Checksum(bytes).sum(0, 4, 0x1fffe))).toBe(
    slowly(Buffer.from([0xff, 0xff, 0, 1, 0xff, 0xff, 0xff, 0xff]))
  )
})
