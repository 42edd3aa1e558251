import { describe, expect, test } from "bun:test"
import {
  carriedIpv4,
  formatAddress,
  parseAddress,
  type SpecialRange,
  samePrefix,
  specialRange,
  unmapped
} from "../../../src/domain/network/addressRanges.ts"

const rangeOf = (text: string): SpecialRange | undefined => specialRange(parseAddress(text)!)

describe("special ranges", () => {
  const cases: ReadonlyArray<readonly [SpecialRange | undefined, ...Array<string>]> = [
    [
      undefined,
      "8.8.8.8",
      "1.1.1.1",
      "172.15.255.255",
      "172.32.0.1",
      "100.63.255.255",
      "100.128.0.0",
      "223.255.255.255"
    ],
    [undefined, "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
    ["loopback", "127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"],
    [
      "private",
      "10.0.0.1",
      "172.16.0.1",
      "172.31.255.255",
      "192.168.1.1",
      "::ffff:10.1.2.3",
      "2002:a00:1::5",
      "::10.0.0.1"
    ],
    ["shared", "100.64.0.1", "100.127.255.255", "64:ff9b::100.64.0.1"],
    ["link-local", "169.254.0.1", "fe80::1", "febf::1", "fec0::1", "::ffff:169.254.1.1"],
    [
      "metadata",
      "169.254.169.254",
      "::ffff:169.254.169.254",
      "64:ff9b:1::169.254.169.254",
      "fd00:ec2::254",
      "168.63.129.16"
    ],
    ["unique-local", "fc00::1", "fdff::1"],
    ["multicast", "224.0.0.1", "239.255.255.255", "ff02::1", "64:ff9b::224.0.0.1"],
    ["broadcast", "255.255.255.255", "::ffff:255.255.255.255"],
    ["unspecified", "0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"],
    ["benchmarking", "198.18.0.1", "198.19.255.255", "2001:2::1"],
    ["documentation", "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    ["reserved", "240.0.0.1", "192.0.0.1", "192.88.99.1", "100::1", "2001::1", "4000::1", "5f00::1", "e000::1"]
  ]
  for (const [range, ...addresses] of cases)
    test(`${range ?? "public"}: ${addresses.join(", ")}`, () => {
      expect(addresses.map((address) => [address, rangeOf(address)])).toEqual(
        addresses.map((address) => [address, range])
      )
    })
})

test("addresses that only some programs read as such are none", () => {
  const wrong = [
    "",
    "1",
    "1.2.3",
    "1.2.3.4.5",
    "01.2.3.4",
    "0x7f.0.0.1",
    "256.1.1.1",
    "1.2.3.4 ",
    "2130706433",
    ":",
    ":::",
    "1::2::3"
  ]
  const wrong6 = [
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7:8::",
    "fe80::1%eth0",
    "[::1]",
    "12345::",
    "::1.2.3",
    "1.2.3.4::",
    "::1.2.3.4:1"
  ]
  for (const text of [...wrong, ...wrong6]) expect([text, parseAddress(text)]).toEqual([text, undefined])
})

test("addresses are written in the canonical form", () => {
  const cases = [
    ["1.2.3.4", "1.2.3.4"],
    ["0:0:0:0:0:0:0:0", "::"],
    ["2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["::ffff:1.2.3.4", "::ffff:102:304"],
    ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
    ["1::", "1::"],
    ["64:ff9b::1.2.3.4", "64:ff9b::102:304"]
  ]
  for (const [text, canonical] of cases) expect(formatAddress(parseAddress(text!)!)).toBe(canonical!)
})

test("an IPv4 address carried in IPv6 is found, and a v4-mapped one is the same peer", () => {
  const carried = (text: string) => {
    const found = carriedIpv4(parseAddress(text)!)
    return found === undefined ? undefined : formatAddress(found)
  }
  expect(carried("2002:a9fe:a9fe::1")).toBe("169.254.169.254")
  expect(carried("64:ff9b::7f00:1")).toBe("127.0.0.1")
  expect(carried("2606:4700::1")).toBeUndefined()
  expect(formatAddress(unmapped(parseAddress("::ffff:9.9.9.9")!))).toBe("9.9.9.9")
  expect(formatAddress(unmapped(parseAddress("::1")!))).toBe("::1")
})

test("prefixes are compared to the bit, within one family", () => {
  const same = (one: string, other: string, bits: number) => samePrefix(parseAddress(one)!, parseAddress(other)!, bits)
  expect(same("10.1.2.3", "10.1.2.0", 24)).toBe(true)
  expect(same("10.1.2.129", "10.1.2.0", 25)).toBe(false)
  expect(same("1.2.3.4", "9.9.9.9", 0)).toBe(true)
  expect(same("1.2.3.4", "1.2.3.5", 31)).toBe(true)
  expect(same("1.2.3.4", "1.2.3.5", 32)).toBe(false)
  expect(same("::1.2.3.4", "1.2.3.4", 0)).toBe(false)
})
