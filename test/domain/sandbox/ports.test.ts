import { describe, expect, test } from "bun:test"
import net from "node:net"
import { isAddress } from "../../../src/domain/network/address.ts"
import { addressesOverlap, formatPort, parsePort, parsePorts, portProblem } from "../../../src/domain/sandbox/ports.ts"
import { mergeLimits, parseRlimit } from "../../../src/domain/sandbox/rlimits.ts"

describe("published ports", () => {
  test.each([
    ["8080:80", "127.0.0.1:8080->80"],
    ["8080:80/tcp", "127.0.0.1:8080->80"],
    ["0.0.0.0:8080:80", "0.0.0.0:8080->80"],
    ["[::1]:8080:80", "[::1]:8080->80"],
    ["0:80", "127.0.0.1:0->80"],
    [":80", "127.0.0.1:0->80"],
    ["80", "127.0.0.1:0->80"],
    ["127.0.0.1::80", "127.0.0.1:0->80"],
    ["[::]::80", "[::]:0->80"]
  ])("%s is %s", (text, shown) => {
    const found = parsePort(text)
    expect(typeof found === "string" ? found : formatPort(found)).toBe(shown)
  })

  test.each([
    "",
    ":",
    "80:",
    "a:80",
    "80:a",
    "65536:80",
    "80:0",
    "80:65536",
    "-1:80",
    "1:2:3:4",
    "::1:80:80",
    "80:80/udp",
    "256.1.1.1:80:80",
    "host:80:80",
    "cafe:80:80",
    "[cafe]:80:80",
    "[::1::]:80:80",
    "[1:2:3:4:5:6:7]:80:80",
    "80:80/tcp/x",
    "8 0:80"
  ])("refuses %p with the reason", (text) => {
    const found = parsePort(text)
    expect(typeof found).toBe("string")
    if (text !== "") expect(found).toContain(text)
  })

  test.each([
    ["8080:80", ["127.0.0.1:8080->80"]],
    ["8000-8002:80-82", ["127.0.0.1:8000->80", "127.0.0.1:8001->81", "127.0.0.1:8002->82"]],
    ["0.0.0.0:8000-8001:80-81/tcp", ["0.0.0.0:8000->80", "0.0.0.0:8001->81"]],
    ["[::1]:8000-8001:80-81", ["[::1]:8000->80", "[::1]:8001->81"]],
    ["80-81", ["127.0.0.1:0->80", "127.0.0.1:0->81"]]
  ])("%s is %j", (text, shown) => {
    const found = parsePorts(text)
    expect(typeof found === "string" ? found : found.map(formatPort)).toEqual(shown)
  })

  test.each([
    "8000-8002:80-81",
    "82-80",
    "8000-8001:80",
    "1-1000",
    "65535-65536",
    "host:80-81:80-81",
    "80-81/udp",
    "a-b"
  ])("refuses the range %p with the reason", (text) => {
    const found = parsePorts(text)
    expect(typeof found).toBe("string")
    expect(found).toContain(text)
  })

  test("two on the same address are seen, two free ones are not", () => {
    const one = { hostIp: "127.0.0.1", hostPort: 80, guestPort: 1 }
    expect(portProblem([one, { ...one, guestPort: 2 }])).toContain("127.0.0.1:80")
    expect(portProblem([one, { ...one, hostIp: "0.0.0.0" }])).toContain("0.0.0.0:80")
    expect(portProblem([one, { ...one, hostIp: "127.0.0.2" }])).toBeUndefined()
    expect(
      portProblem([
        { ...one, hostPort: 0 },
        { ...one, hostPort: 0 }
      ])
    ).toBeUndefined()
  })
})

describe("addresses", () => {
  const seed = Number(process.env["BUNKER_TEST_SEED"] ?? Date.now() % 1_000_000)

  test(`are what the system takes for one (seed ${seed})`, () => {
    let state = seed
    const next = (below: number) => {
      state = (state * 1_103_515_245 + 12_345) % 2 ** 31
      return Math.floor((state / 2 ** 31) * below)
    }
    const parts = ["0", "1", "01", "255", "256", "ffff", "g", ":", "::", ".", "", "127.0.0.1", "1.2.3.4", ":0", "a:"]
    let addresses = 0
    for (let round = 0; round < 200_000; round += 1) {
      const text = Array.from({ length: 1 + next(9) }, () => parts[next(parts.length)]).join(next(3) === 0 ? ":" : "")
      if (net.isIP(text) !== 0) addresses += 1
      if (isAddress(text) !== (net.isIP(text) !== 0)) expect({ text, isAddress: isAddress(text) }).toBeUndefined()
    }
    expect(addresses).toBeGreaterThan(500)
  })

  test("overlap where only one of them can be listened on", () => {
    const both = (one: string, other: string) => [addressesOverlap(one, other), addressesOverlap(other, one)]
    for (const [one, other] of [
      ["127.0.0.1", "127.0.0.1"],
      ["0.0.0.0", "127.0.0.1"],
      ["::", "127.0.0.1"],
      ["::", "0.0.0.0"],
      ["::", "::1"],
      ["::1", "0:0:0:0:0:0:0:1"],
      ["::ffff:127.0.0.1", "127.0.0.1"]
    ] as const)
      expect({ one, other, overlap: both(one, other) }).toEqual({ one, other, overlap: [true, true] })
    for (const [one, other] of [
      ["127.0.0.1", "127.0.0.2"],
      ["::1", "127.0.0.1"],
      ["0.0.0.0", "::1"],
      ["", "127.0.0.1"],
      ["", ""]
    ] as const)
      expect({ one, other, overlap: both(one, other) }).toEqual({ one, other, overlap: [false, false] })
  })
})

describe("limits", () => {
  test.each([
    ["nofile=1024", { resource: "nofile", soft: 1024, hard: 1024 }],
    ["nofile=1024:2048", { resource: "nofile", soft: 1024, hard: 2048 }],
    ["core=unlimited", { resource: "core", soft: -1, hard: -1 }],
    ["stack=0:-1", { resource: "stack", soft: 0, hard: -1 }]
  ])("%s", (text, limit) => {
    expect(parseRlimit(text)).toEqual(limit as never)
  })

  test.each(["nofile", "nofile=", "nofile=a", "files=1", "nofile=2:1", "nofile=-1:1", "nofile=1:2:3", "nofile=1=2"])(
    "refuses %s",
    (text) => expect(typeof parseRlimit(text)).toBe("string")
  )

  test("the later of two of a name counts", () => {
    const limit = (soft: number) => ({ resource: "cpu", soft, hard: 9 }) as const
    expect(mergeLimits([limit(1)], undefined, [limit(2)])).toEqual([["cpu", 2, 9]])
  })
})
