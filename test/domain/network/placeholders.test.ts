import { expect, test } from "bun:test"
import {
  type ActiveSecret,
  makePlaceholder,
  type SecretUse,
  substitute
} from "../../../src/domain/network/placeholders.ts"

const placeholder = "bnk_AAAABBBBCCCCDDDDEEEEFFFFGGGG"
const secret = (use?: SecretUse): ActiveSecret => ({
  name: "KEY",
  placeholder,
  hosts: ["api.test"],
  use,
  value: "v&l ue"
})
const basic = (text: string) => `Basic ${Buffer.from(text).toString("base64")}`
const api = { host: "api.test", encrypted: true }
const send = (field: string, target: string, use?: SecretUse) => {
  const result = substitute({ target, fields: [["x", field]] }, api, [secret(use)])
  return "reason" in result ? result : [result.fields[0]?.[1], result.target]
}

const cases: ReadonlyArray<readonly [use: SecretUse | undefined, plain: boolean, inBasic: boolean, query: boolean]> = [
  [undefined, true, true, false],
  ["header", true, false, false],
  ["basic", false, true, false],
  ["query", true, true, true]
]
test.each(cases)("use %p: plain field %p, inside Basic %p, query %p", (use, plain, inBasic, query) => {
  expect(send(`Bearer ${placeholder}`, "/", use)).toEqual([plain ? "Bearer v&l ue" : `Bearer ${placeholder}`, "/"])
  expect(send(basic(`u:${placeholder}`), "/", use)).toEqual([basic(`u:${inBasic ? "v&l ue" : placeholder}`), "/"])
  expect(send("", `/p?a=${placeholder}&b=1`, use)).toEqual([
    "",
    query ? "/p?a=v%26l%20ue&b=1" : `/p?a=${placeholder}&b=1`
  ])
})

test("a value is never put into a path", () => {
  expect(send("", `/${placeholder}?`, "query")).toEqual(["", `/${placeholder}?`])
})

test("a value with signs of replacement patterns is put in as it is", () => {
  const result = substitute({ target: "/", fields: [["x", placeholder]] }, api, [{ ...secret(), value: "$&$1$$" }])
  expect(result).toMatchObject({ fields: [["x", "$&$1$$"]], used: ["KEY"] })
})

test("letters beyond ASCII go as UTF-8", () => {
  const result = substitute({ target: "/", fields: [["x", placeholder]] }, api, [{ ...secret(), value: "\u00fc" }])
  expect(result).toMatchObject({ fields: [["x", "\u00c3\u00bc"]] })
})

const elsewhere: ReadonlyArray<readonly [where: string, target: string, name: string, field: string]> = [
  ["a field", "/", "x", `a ${placeholder} b`],
  ["a field's name", "/", placeholder, ""],
  ["Basic", "/", "authorization", basic(`a:${placeholder}`)],
  ["a path", `/${placeholder}`, "x", ""],
  ["a query", `/?${placeholder}`, "x", ""]
]
test.each(elsewhere)(
  "a placeholder in %s on its way to another host stops the request",
  (_where, target, name, field) => {
    const request = { target, fields: [[name, field]] as const }
    expect(substitute(request, { host: "evil.test", encrypted: true }, [secret()])).toEqual({
      secret: "KEY",
      reason: "other-host"
    })
    expect(substitute(request, { host: "x.api.test", encrypted: true }, [secret()])).toEqual({
      secret: "KEY",
      reason: "other-host"
    })
    expect(substitute(request, { host: "api.test", encrypted: false }, [secret()])).toEqual({
      secret: "KEY",
      reason: "unencrypted"
    })
    expect(substitute(request, api, [{ ...secret(), value: undefined }])).toEqual({ secret: "KEY", reason: "revoked" })
  }
)

test("what only looks like a placeholder passes", () => {
  expect(send("bnk_notours", "/?bnk_")).toEqual(["bnk_notours", "/?bnk_"])
})

test("a placeholder is as long as its value, from 32 to 256 characters", () => {
  const random = new Uint8Array(256).fill(27)
  expect(makePlaceholder(random, 51)).toBe(`bnk_${"b".repeat(47)}`)
  expect([makePlaceholder(random, 3).length, makePlaceholder(random, 9999).length]).toEqual([32, 256])
})
