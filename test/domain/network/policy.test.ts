import { describe, expect, test } from "bun:test"
import { parseAddress } from "../../../src/domain/network/address.ts"
import type { NetworkConfig } from "../../../src/domain/network/config.ts"
import type { NetworkEvent } from "../../../src/domain/network/events.ts"
import { formatEvent } from "../../../src/domain/network/events.ts"
import {
  compilePolicy,
  decideAddress,
  decideLookup,
  decideName,
  decidePeeked,
  type Protocol
} from "../../../src/domain/network/policy.ts"
import { suggestRules } from "../../../src/domain/network/suggest.ts"

const name = (config: NetworkConfig, host: string, port = 443, protocol: Protocol = "tcp") =>
  decideName(compilePolicy(config), { name: host, port, protocol })
const address = (
  config: NetworkConfig,
  text: string,
  range = "public",
  more: { port?: number; protocol?: Protocol; name?: string } = {}
) =>
  decideAddress(compilePolicy(config), {
    address: parseAddress(text)!,
    port: more.port ?? 443,
    protocol: more.protocol ?? "tcp",
    range,
    name: more.name
  })

describe("names", () => {
  test.each<[NetworkConfig, string, number, Protocol, boolean, string | null]>([
    [{}, "a.example", 443, "tcp", false, null],
    [{ allow: ["a.example"] }, "a.example", 443, "tcp", true, "a.example"],
    [{ allow: ["a.example"] }, "a.example", 53, "udp", true, "a.example"],
    [{ allow: ["a.example"] }, "a.example", 0, "icmp", true, "a.example"],
    [{ allow: ["a.example"] }, "b.example", 443, "tcp", false, null],
    [{ allow: ["a.example"] }, "x.a.example", 443, "tcp", false, null],
    [{ allow: ["*.a.example"] }, "a.example", 443, "tcp", false, null],
    [{ allow: ["*.a.example"] }, "x.a.example", 443, "tcp", true, "*.a.example"],
    [{ allow: ["*.a.example"] }, "y.x.a.example", 443, "tcp", true, "*.a.example"],
    [{ allow: ["*.a.example"] }, "xa.example", 443, "tcp", false, null],
    [{ allow: ["a.example:443"] }, "a.example", 80, "tcp", false, null],
    [{ allow: ["a.example:443"] }, "a.example", 443, "udp", false, null],
    [{ allow: ["a.example:443/udp"] }, "a.example", 443, "udp", true, "a.example:443/udp"],
    [{ allow: ["a.example:443/udp"] }, "a.example", 443, "tcp", false, null],
    [{ allow: ["a.example:*/udp"] }, "a.example", 443, "tcp", false, null],
    [{ allow: ["a.example:80-90"] }, "a.example", 85, "tcp", true, "a.example:80-90"],
    [{ public: true }, "a.example", 443, "tcp", true, "public"],
    [{ public: true, deny: ["a.example"] }, "a.example", 443, "tcp", false, "a.example"],
    [{ public: true, deny: ["a.example:443"] }, "a.example", 443, "udp", false, "a.example:443"],
    [{ public: true, deny: ["a.example:443"] }, "a.example", 80, "tcp", true, "public"],
    [{ allow: ["x.a.example"], deny: ["*.a.example"] }, "x.a.example", 443, "tcp", false, "*.a.example"],
    [{ allow: ["10.0.0.0/8"] }, "a.example", 443, "tcp", false, null],
    [{ hostPorts: [8080] }, "host.bunker.internal", 8080, "tcp", true, "host ports"],
    [{ hostPorts: [8080] }, "host.bunker.internal", 8080, "udp", false, null],
    [{ public: true, hostPorts: [8080] }, "host.bunker.internal", 22, "tcp", false, null],
    [{ public: true }, "host.bunker.internal", 8080, "tcp", false, null]
  ])("with %j, %s port %i over %s: %p by %p", (config, host, port, protocol, allowed, rule) => {
    const decision = name(config, host, port, protocol)
    expect([decision.allowed, decision.rule]).toEqual([allowed, rule])
    expect(decision.reason === "").toBe(allowed)
  })
})

describe("addresses", () => {
  test.each<[NetworkConfig, string, string, { port?: number; protocol?: Protocol; name?: string }, boolean]>([
    [{}, "8.8.8.8", "public", {}, false],
    [{ public: true }, "8.8.8.8", "public", {}, true],
    [{ public: true }, "2001:4860::1", "public", { protocol: "icmp", port: 0 }, true],
    [{ public: true }, "127.0.0.1", "loopback", {}, false],
    [{ public: true }, "169.254.169.254", "link-local", { port: 80 }, false],
    [{ public: true, allow: ["127.0.0.1:80"] }, "127.0.0.1", "loopback", { port: 80 }, true],
    [{ public: true, allow: ["127.0.0.1:80"] }, "127.0.0.1", "loopback", { port: 81 }, false],
    [{ public: true, allow: ["127.0.0.1:80"] }, "::ffff:127.0.0.1", "loopback", { port: 80 }, true],
    [{ public: true, deny: ["8.8.0.0/16"] }, "8.8.8.8", "public", {}, false],
    [{ public: true, deny: ["8.8.0.0/16:53"] }, "8.8.8.8", "public", { port: 53, protocol: "udp" }, false],
    [{ public: true, deny: ["8.8.0.0/16:53/tcp"] }, "8.8.8.8", "public", { port: 53, protocol: "udp" }, true],
    [{ allow: ["10.0.0.0/8"], deny: ["10.0.0.1"] }, "10.0.0.1", "private", {}, false],
    // What a name leads to: public ones follow the name, others must be spelled.
    [{ allow: ["a.example"] }, "8.8.8.8", "public", { name: "a.example" }, true],
    [{ allow: ["a.example"] }, "127.0.0.1", "loopback", { name: "a.example" }, false],
    [{ allow: ["*.example"] }, "10.0.0.1", "private", { name: "a.example" }, false],
    [{ allow: ["a.example", "10.0.0.0/8"] }, "10.0.0.1", "private", { name: "a.example" }, true],
    [
      { allow: ["a.example"], hosts: { "A.example": "127.0.0.5" } },
      "127.0.0.5",
      "loopback",
      { name: "a.example" },
      true
    ],
    [
      { allow: ["a.example"], hosts: { "b.example": "127.0.0.5" } },
      "127.0.0.5",
      "loopback",
      { name: "a.example" },
      false
    ],
    [{ allow: ["a.example"], deny: ["8.0.0.0/8"] }, "8.8.8.8", "public", { name: "a.example" }, false],
    [{ hostPorts: [80] }, "127.0.0.1", "loopback", { name: "host.bunker.internal", port: 80 }, true],
    [{ hostPorts: [80] }, "127.0.0.1", "loopback", { port: 80 }, false]
  ])("with %j, %s, which is %s, %j: %p", (config, text, range, more, allowed) => {
    expect(address(config, text, range, more).allowed).toBe(allowed)
  })

  test("what a client says only ever speaks against a connection", () => {
    const policy = compilePolicy({ public: true, deny: ["*.evil.example:443"] })
    const flow = { port: 443, protocol: "tcp" } as const
    expect(decidePeeked(policy, { ...flow, name: "x.evil.example" })).toMatchObject({
      allowed: false,
      rule: "*.evil.example:443"
    })
    expect(decidePeeked(policy, { ...flow, name: "good.example" }).allowed).toBe(true)
  })
})

describe("questions to DNS", () => {
  test.each<[NetworkConfig, string, Parameters<typeof decideLookup>[2], boolean]>([
    [{}, "a.example", "address", false],
    [{ allow: ["a.example:443"] }, "a.example", "address", true],
    [{ allow: ["a.example:443"], deny: ["a.example:80"] }, "a.example", "address", true],
    [{ allow: ["a.example:443"], deny: ["a.example"] }, "a.example", "address", false],
    [{ public: true, deny: ["*.a.example"] }, "x.a.example", "address", false],
    [{ allow: ["a.example"] }, "a.example", "TXT", false],
    [{ allow: ["a.example", "dns:TXT"] }, "a.example", "TXT", true],
    [{ allow: ["a.example", "dns:TXT"] }, "b.example", "TXT", false],
    [{ hostPorts: [1] }, "host.bunker.internal", "address", true],
    [{}, "host.bunker.internal", "address", false]
  ])("with %j, %s for %s: %p", (config, host, type, allowed) => {
    expect(decideLookup(compilePolicy(config), host, type).allowed).toBe(allowed)
  })
})

const event = (more: Partial<NetworkEvent>): NetworkEvent => ({
  at: 0,
  kind: "denied",
  name: null,
  address: null,
  port: 0,
  protocol: "tcp",
  rule: null,
  reason: "no rule allows it",
  count: 1,
  ...more
})

describe("suggestions", () => {
  test.each<[string, NetworkConfig, ReadonlyArray<Partial<NetworkEvent>>, ReadonlyArray<string>]>([
    ["a name that was looked up", {}, [{ name: "a.example", protocol: "dns" }], ["a.example"]],
    [
      "the ports that were used, neighbours as a range",
      {},
      [443, 80, 81, 82].map((port) => ({ kind: "used", name: "a.example", port })),
      ["a.example:80-82,443"]
    ],
    [
      "a name that was looked up and reached, by its ports alone",
      {},
      [
        { kind: "used", name: "a.example", protocol: "dns" },
        { kind: "used", name: "a.example", port: 443 }
      ],
      ["a.example:443"]
    ],
    ["UDP on its own", {}, [{ name: "a.example", port: 53, protocol: "udp" }], ["a.example:53/udp"]],
    ["IPv6 in brackets", {}, [{ address: "2001:db8::1", port: 443 }], ["[2001:db8::1]:443"]],
    ["a host that was pinged, whole", {}, [{ address: "8.8.8.8", protocol: "icmp" }], ["8.8.8.8"]],
    [
      "the address as well where the name alone does not do",
      {},
      [{ name: "db.example", address: "10.0.0.1", port: 5432 }],
      ["10.0.0.1:5432", "db.example:5432"]
    ],
    [
      "the address alone where the name is allowed",
      { allow: ["*.example"] },
      [{ name: "db.example", address: "10.0.0.1", port: 5432 }],
      ["10.0.0.1:5432"]
    ],
    [
      "nothing that is there already",
      { allow: ["a.example:443"] },
      [{ kind: "used", name: "a.example", port: 443 }],
      []
    ],
    ["nothing for what went wrong otherwise", {}, [{ kind: "failed", name: "a.example", port: 443 }], []]
  ])("%s", (_title, config, events, expected) => {
    expect(suggestRules(events.map(event), config).allow).toEqual([...expected])
  })

  test("ports of the host, and deny rules that no allow rule helps against", () => {
    const events = [
      event({ name: "host.bunker.internal", port: 8080 }),
      event({ name: "b.example", port: 443, rule: "*.example" })
    ]
    expect(suggestRules(events, {})).toEqual({ allow: ["b.example:443"], hostPorts: [8080], denied: ["*.example"] })
  })

  test("what is suggested lets through what was denied", () => {
    const denied = [
      event({ name: "a.example", protocol: "dns" }),
      event({ name: "b.example", port: 22 }),
      event({ address: "10.1.2.3", port: 53, protocol: "udp" })
    ]
    const config = { allow: suggestRules(denied, {}).allow }
    expect(decideLookup(compilePolicy(config), "a.example").allowed).toBe(true)
    expect(name(config, "b.example", 22).allowed).toBe(true)
    expect(address(config, "10.1.2.3", "private", { port: 53, protocol: "udp" }).allowed).toBe(true)
  })
})

test("an event is one line that names the destination and the rule", () => {
  expect(formatEvent(event({ name: "a.example", port: 443 }))).toBe("network: denied a.example:443: no rule allows it")
  expect(
    formatEvent(event({ address: "::1", port: 53, protocol: "udp", rule: "::1", reason: "a rule denies it", count: 3 }))
  ).toBe("network: denied [::1]:53/udp: a rule denies it: ::1 (3 times)")
})
