import { describe, expect, test } from "bun:test"
import { formatBlock, formatGroups, isInBlock, parseAddress, parseBlock } from "../../../src/domain/network/address.ts"
import { networkProblem } from "../../../src/domain/network/config.ts"
import { normalizeName } from "../../../src/domain/network/names.ts"
import { formatRule, parseRule, splitRules } from "../../../src/domain/network/rules.ts"

const shown = (text: string): string => {
  const rule = parseRule(text)
  return typeof rule === "string" ? `refused: ${rule}` : formatRule(rule)
}

import { generator, seedOf } from "../../support/random.ts"

describe("rules of a network policy", () => {
  test.each([
    ["example.com", "example.com"],
    ["Example.COM.", "example.com"],
    ["*.example.com", "*.example.com"],
    ["example.com:443", "example.com:443"],
    ["example.com:443,8443", "example.com:443,8443"],
    ["example.com:8000-8010", "example.com:8000-8010"],
    ["example.com:*/udp", "example.com/udp"],
    ["example.com:53/UDP", "example.com:53/udp"],
    ["localhost:80/tcp", "localhost:80/tcp"],
    ["bücher.example", "xn--bcher-kva.example"],
    ["BÜCHER.example:443", "xn--bcher-kva.example:443"],
    ["例え。テスト", "xn--r8jz45g.xn--zckzah"],
    ["10.0.0.1", "10.0.0.1"],
    ["10.0.0.0/8", "10.0.0.0/8"],
    ["10.0.0.0/8:5432", "10.0.0.0/8:5432"],
    ["0.0.0.0/0", "0.0.0.0/0"],
    ["2001:DB8::1", "2001:db8::1"],
    ["2001:db8::/32", "2001:db8::/32"],
    ["[2001:db8::1]:443", "[2001:db8::1]:443"],
    ["[2001:db8::/32]:443/udp", "[2001:db8::/32]:443/udp"],
    ["[2001:db8::]/32:443", "[2001:db8::/32]:443"],
    ["::ffff:10.0.0.1", "10.0.0.1"],
    ["dns:txt", "dns:TXT"],
    ["dns:53", "dns:53"],
    ["_sip._tcp.example.com", "_sip._tcp.example.com"]
  ])("%s is read as %s", (text, expected) => {
    expect(shown(text)).toBe(expected)
    // What is shown is a rule again, the same one.
    expect(shown(expected)).toBe(expected)
  })

  test.each([
    ["", "empty"],
    [" a.example", "space"],
    ["*", "everything"],
    ["*:443", "everything"],
    ["a..b", "empty label"],
    [".example.com", "empty label"],
    ["*.*.com", "first dot"],
    ["a*.example.com", "first dot"],
    ["example.*", "first dot"],
    ["http://x", "URL"],
    ["https://example.com/path", "URL"],
    ["example.com/path", "path"],
    ["x:0", "port"],
    ["x:70000", "port"],
    ["x:", "port"],
    ["x:http", "port"],
    ["x:80:90", "more than one"],
    ["x:90-80", "ends before"],
    ["x:1-2-3", "port"],
    ["10.0.0.1/8", "write 10.0.0.0/8"],
    ["2001:db8::1/32", "write 2001:db8::/32"],
    ["10.0.0.0/33", "0 to 32"],
    ["2001:db8::/129", "0 to 128"],
    ["10.0.0", "last label is a number"],
    ["256.1.1.1", "last label is a number"],
    ["0x7f000001", "last label is a number"],
    ["[::1", "brackets"],
    ["[example.com]:80", "brackets"],
    ["exa mple.com", "can not be in a name"],
    ["a%41.com", "can not be in a name"],
    ["user@example.com", "can not be in a name"],
    ["-a.example", "begins or ends"],
    [`${"a".repeat(64)}.example`, "63 bytes"],
    [`${"abcdefg.".repeat(40)}example`, "253 bytes"],
    ["xn--a.example", "IDNA"],
    ["dns:AXFR", "type of DNS"],
    ["a".repeat(600), "512 characters"]
  ])("%p is refused by its text, with the reason", (text, reason) => {
    const rule = parseRule(text)
    expect(typeof rule).toBe("string")
    expect(rule as string).toContain(reason)
    expect(rule as string).toContain(text.slice(0, 64))
  })

  test("a list keeps ports with the rule in front of them", () => {
    expect(splitRules("a.example,b.example:443,8443,c.example:1-2,5/udp,10.0.0.0/8")).toEqual([
      "a.example",
      "b.example:443,8443",
      "c.example:1-2,5/udp",
      "10.0.0.0/8"
    ])
    expect(splitRules("a.example,443")).toEqual(["a.example", "443"])
  })

  test("a definition names the field of the rule that is wrong", () => {
    expect(networkProblem({ allow: ["ok.example"], deny: ["a..b"] })).toMatchObject({ field: "deny" })
    expect(networkProblem({ hosts: { "ok.example": "10.0.0.300" } })).toMatchObject({ field: "hosts" })
    expect(networkProblem({ hosts: { "a..b": "10.0.0.3" } })).toMatchObject({ field: "hosts" })
    expect(networkProblem({ hosts: JSON.parse('{"__proto__":"10.0.0.3"}') })).toMatchObject({ field: "hosts" })
    expect(networkProblem({ public: true, allow: ["10.0.0.0/8"], hosts: { "ok.example": "::1" } })).toBeUndefined()
  })
})

describe("addresses", () => {
  test.each([
    ["127.0.0.1", "127.0.0.1"],
    ["::ffff:127.0.0.1", "127.0.0.1"],
    ["::", "::"],
    ["::1", "::1"],
    ["1::", "1::"],
    ["2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"],
    ["fe80::1", "fe80::1"]
  ])("%s is written %s", (text, expected) => {
    expect(formatGroups(parseAddress(text)!)).toBe(expected)
  })

  test.each([
    ["10.0.0.0/8", "10.255.255.255", true],
    ["10.0.0.0/8", "11.0.0.0", false],
    ["10.0.0.0/8", "::ffff:10.1.2.3", true],
    ["0.0.0.0/0", "8.8.8.8", true],
    ["0.0.0.0/0", "::1", false],
    ["::/0", "8.8.8.8", false],
    ["::/0", "2001:db8::1", true],
    ["172.16.0.0/12", "172.31.255.255", true],
    ["172.16.0.0/12", "172.32.0.0", false],
    ["2001:db8::/33", "2001:db8:7fff::1", true],
    ["2001:db8::/33", "2001:db8:8000::1", false],
    ["192.0.2.1", "192.0.2.1", true],
    ["192.0.2.1", "192.0.2.2", false]
  ])("%s holds %s: %p", (block, address, expected) => {
    const parsed = parseBlock(block)
    if (typeof parsed === "string") throw new Error(parsed)
    expect(formatBlock(parsed)).toBe(block)
    expect(isInBlock(parsed, parseAddress(address)!)).toBe(expected)
  })
})

test("names are compared without case, dot and script", () => {
  expect(normalizeName("EXAMPLE.com.")).toEqual({ name: "example.com" })
  expect(normalizeName("straße.example")).toEqual(normalizeName("xn--strae-oqa.example"))
})

test("no text makes the reader of rules throw, and what it reads is read again from what is shown", () => {
  const seed = seedOf("rules of networks")
  const below = generator(seed)
  const pieces = [
    "*",
    ".",
    ":",
    "/",
    "-",
    "[",
    "]",
    ",",
    "::",
    "udp",
    "tcp",
    "dns",
    "a",
    "example.com",
    "10.0.0.0",
    "8",
    "443",
    "65536",
    "ü",
    "xn--",
    "%",
    "@",
    " ",
    "\0",
    "_",
    "0x7f",
    "ffff"
  ]
  for (let round = 0; round < 20_000; round += 1) {
    const text = Array.from({ length: 1 + below(7) }, () => pieces[below(pieces.length)]).join("")
    const rule = parseRule(text)
    if (typeof rule === "string") expect(rule.length).toBeLessThan(400)
    else expect({ seed, text, again: parseRule(formatRule(rule)) }).toEqual({ seed, text, again: rule })
  }
})
