import { describe, expect, test } from "bun:test"
import { Effect } from "effect"
import {
  bestMatch,
  defaultPlatform,
  formatPlatform,
  hostPlatform,
  type Platform,
  parsePlatform
} from "../../../src/domain/image/platform.ts"

const parsed = (text: string): Platform => Effect.runSync(parsePlatform(text))
const refused = (text: string): string => Effect.runSync(Effect.flip(parsePlatform(text))).message
const best = (wanted: string, offered: ReadonlyArray<string>) => bestMatch(parsed(wanted), offered, parsed)

describe("a platform", () => {
  test.each([
    ["linux/amd64", "linux/amd64"],
    ["amd64", "linux/amd64"],
    ["linux", "linux/amd64"],
    ["x86_64", "linux/amd64"],
    ["LINUX/AARCH64", "linux/arm64"],
    ["linux/arm64/v8", "linux/arm64"],
    ["linux/arm64/8", "linux/arm64"],
    ["linux/arm/v7", "linux/arm"],
    ["armel", "linux/arm/v6"],
    ["linux/arm/6", "linux/arm/v6"],
    ["linux/amd64/v3", "linux/amd64/v3"],
    ["i686", "linux/386"],
    ["windows/amd64", "windows/amd64"],
    ["linux/constructor", "linux/constructor"]
  ])("%s is %s", (text, normal) => expect(formatPlatform(parsed(text))).toBe(normal))

  test.each(["", "/", "linux/", "linux//v7", "a/b/c/d", "linux/am d64", "linux/amd64\n", "x".repeat(200)])(
    "refuses %j",
    (text) => {
      expect(refused(text)).toContain("is not a platform")
    }
  )

  test("of this machine comes from Node's name of its CPU", () => {
    expect(hostPlatform("x64")).toEqual(defaultPlatform)
    expect(hostPlatform("arm64")).toEqual({ os: "linux", architecture: "arm64" })
  })

  test("takes the exact entry, else the newest older variant, never a newer one", () => {
    expect(best("linux/amd64", ["linux/arm64", "linux/amd64/v3", "linux/amd64/v1"])).toBe("linux/amd64/v1")
    expect(best("linux/amd64", ["linux/amd64/v3"])).toBeUndefined()
    expect(best("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"])).toBe("linux/amd64/v2")
    expect(best("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"])).toBe("linux/arm/v6")
    expect(best("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"])).toBe("linux/arm/v5")
    expect(best("linux/arm64", ["linux/arm/v7", "windows/arm64"])).toBeUndefined()
  })

  test("takes the first of equals", () => {
    const entries = [{ id: 1 }, { id: 2 }]
    expect(bestMatch(defaultPlatform, entries, () => defaultPlatform)?.id).toBe(1)
  })
})
