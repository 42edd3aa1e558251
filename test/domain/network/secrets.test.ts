import { expect, test } from "bun:test"
import { openedHosts, parseSecret, secretsProblem, valueProblem } from "../../../src/domain/network/secrets.ts"

test("a secret is read as people type it", () => {
  expect(parseSecret("KEY=API.test.")).toEqual({ name: "KEY", hosts: ["api.test"] })
  expect(parseSecret("KEY=a.test,b.test:query")).toEqual({ name: "KEY", hosts: ["a.test", "b.test"], use: "query" })
  expect(parseSecret("_k1=bücher.test:basic")).toEqual({ name: "_k1", hosts: ["xn--bcher-kva.test"], use: "basic" })
})

const bad: ReadonlyArray<readonly [text: string, phrase: string]> = [
  ["KEY", "written NAME=HOST"],
  ["=a.test", "written NAME=HOST"],
  ["1KEY=a.test", "written NAME=HOST"],
  ["__proto__=a.test", "written NAME=HOST"],
  ["KEY=", "it is empty"],
  ["KEY=a.test,", "it is empty"],
  ["KEY=*.a.test", "without *"],
  ["KEY=10.0.0.1", "a secret is for names"],
  ["KEY=a.test:443", "at every port"],
  ["KEY=a.test:body", "at every port"],
  ["KEY=a..test", "empty label"]
]
test.each(bad)("%s is refused: %s", (text, phrase) => {
  expect(parseSecret(text)).toContain(phrase)
})

test("a value that was typed by mistake is not repeated", () => {
  expect(parseSecret("sk-live-1234")).not.toContain("1234")
  expect(parseSecret("KEY=sk_live_1234@:")).not.toContain("1234")
})

test("each host of a secret must be allowed, and each secret have a name of its own", () => {
  const key = { name: "KEY", hosts: ["api.test"] } as const
  expect(secretsProblem([], undefined)).toBeUndefined()
  expect(secretsProblem([key], undefined)?.reason).toContain("no network")
  expect(secretsProblem([key], { allow: ["other.test"] })?.reason).toContain("add --allow-net=api.test:443")
  expect(secretsProblem([key], { allow: ["api.test:443"] })).toBeUndefined()
  expect(secretsProblem([key], { public: true })).toBeUndefined()
  expect(secretsProblem([key], { public: true, deny: ["api.test"] })).toBeDefined()
  expect(secretsProblem([key, key], { public: true })?.reason).toBe("KEY is there twice")
  expect(secretsProblem([{ name: "KEY", hosts: ["*.test"] }], { public: true })?.field).toBe("secrets")
})

test("hosts that are opened are there once, as rules compare them", () => {
  expect(openedHosts([{ name: "A", hosts: ["API.test", "b.test"] }], ["b.test.", "c.test"])).toEqual([
    "api.test",
    "b.test",
    "c.test"
  ])
})

test("a value that no header can hold is refused without being repeated", () => {
  expect(valueProblem("sk-1234")).toBeUndefined()
  for (const value of ["", "a\nb", "a\0", "x".repeat(20_000), "\ud800"]) {
    expect(valueProblem(value)).toBeString()
    expect(valueProblem(value)).not.toContain("a\n")
  }
})
