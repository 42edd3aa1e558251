import { expect, test } from "bun:test"
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { trimConsole } from "../../src/actors/consoleBound.ts"

for (const [how, flags] of [
  ["appends", "a"],
  ["keeps its offset", "w"]
] as const) {
  test(`a console that floods takes bounded space while its writer ${how}`, () => {
    const directory = mkdtempSync(path.join(tmpdir(), "console-"))
    const file = path.join(directory, "console.log")
    const writer = openSync(file, flags)
    const block = Buffer.alloc(64 * 1024, "flood\n")
    let most = 0
    let trims = 0
    for (let index = 0; index < 200; index += 1) {
      writeSync(writer, block)
      if (trimConsole(file, 1024 * 1024)) trims += 1
      most = Math.max(most, statSync(file).blocks * 512)
    }
    writeSync(writer, "the last words\n")
    closeSync(writer)
    expect(trims).toBeGreaterThan(5)
    expect(most).toBeLessThan(2 * 1024 * 1024)
    expect(readFileSync(file, "utf8").endsWith("the last words\n")).toBe(true)
    expect(statSync(`${file}.1`).size).toBeLessThanOrEqual(1024 * 1024)
    rmSync(directory, { recursive: true })
  })
}

test("a missing console is no error", () => {
  expect(trimConsole("/nonexistent/console.log")).toBe(false)
})
