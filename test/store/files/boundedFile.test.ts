/** Files that others append to without end. */
import { describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { boundFile, keepBounded, readTail } from "../../../src/store/files/boundedFile.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

describe("a file that a guest makes others write to", () => {
  it.live("is emptied once it is over its bound, and its end is kept beside it", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "log")
      const writer = fs.openSync(file, "a")
      fs.writeSync(writer, `${"x".repeat(992)}the end.`)
      expect(boundFile(file, 1000)).toBe(false)
      fs.writeSync(writer, "!")
      expect(boundFile(file, 1000)).toBe(true)
      expect(fs.statSync(file).size).toBe(0)
      const kept = fs.readFileSync(`${file}.1`, "utf8")
      expect(kept).toHaveLength(500)
      expect(kept).toEndWith("the end.!")
      // Who has it open goes on at its start.
      fs.writeSync(writer, "again")
      expect(fs.readFileSync(file, "utf8")).toBe("again")
      fs.closeSync(writer)
      expect(boundFile(`${file}-missing`, 1000)).toBe(false)
    })
  )

  it.live(
    "stays small while a process floods it",
    () =>
      Effect.gen(function* () {
        const file = path.join(yield* temporaryDirectory, "log")
        yield* Effect.forkScoped(keepBounded([file]))
        const log = fs.openSync(file, "a")
        const child = Bun.spawn(["sh", "-c", "dd if=/dev/zero bs=64k count=4096 status=none >&2"], {
          stdio: ["ignore", "ignore", log]
        })
        fs.closeSync(log)
        yield* Effect.promise(() => child.exited)
        // 256 MiB were written.
        while (fs.statSync(file).size > 1024 * 1024) yield* Effect.sleep("20 millis")
        expect(fs.statSync(`${file}.1`).size).toBeLessThanOrEqual(512 * 1024)
      }),
    30_000
  )
})

test("the end of a sparse file of any length is read without the rest", () => {
  const file = path.join(fs.mkdtempSync("/tmp/bk-"), "sparse")
  fs.writeFileSync(file, "")
  fs.truncateSync(file, 2 ** 40)
  fs.appendFileSync(file, "last words")
  expect(readTail(file, 10)).toBe("last words")
  expect(readTail(file, 4096)).toEndWith("last words")
  expect(readTail(`${file}-missing`, 10)).toBe("")
  fs.rmSync(path.dirname(file), { recursive: true })
})
