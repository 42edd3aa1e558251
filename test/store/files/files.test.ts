import { describe, expect } from "bun:test"
import { existsSync, readdirSync, readFileSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Deferred, Effect, Fiber } from "effect"
import { ingest, isLeftover, removeBelow, temporaryName, writeAtomic } from "../../../src/store/files/files.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const dayMs = 24 * 3_600_000
const write = (text: string) => (temporary: string) => Effect.sync(() => writeFileSync(temporary, text))

describe("ingest", () => {
  it.live("publishes with the owner's mode, then records, and leaves no temporary file", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const file = path.join(directory, "file")
      const steps: Array<string> = []
      const fill = (temporary: string) =>
        Effect.sync(() => {
          writeFileSync(temporary, "new", { mode: 0o666 })
          steps.push(existsSync(file) ? "published too early" : "written")
          return 3
        })
      const record = (written: number) =>
        Effect.sync(() => void steps.push(`recorded ${written} ${readFileSync(file, "utf8")}`))
      expect(yield* ingest(directory, file, fill, { record })).toBe(3)
      expect(steps).toEqual(["written", "recorded 3 new"])
      expect(statSync(file).mode & 0o777).toBe(0o600)
      expect(readdirSync(directory)).toEqual(["file"])
    }).pipe(Effect.scoped)
  )

  it.live("keeps the old file when writing fails, and no file when recording fails", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const file = path.join(directory, "file")
      yield* writeAtomic(file, "old")
      const failing = (temporary: string) => Effect.andThen(write("half")(temporary), Effect.fail("no" as const))
      expect(yield* Effect.flip(ingest(directory, file, failing))).toBe("no")
      expect(readFileSync(file, "utf8")).toBe("old")
      const unrecorded = ingest(directory, path.join(directory, "other"), write("x"), {
        record: () => Effect.fail("db")
      })
      expect(yield* Effect.flip(unrecorded)).toBe("db")
      expect(readdirSync(directory)).toEqual(["file"])
    }).pipe(Effect.scoped)
  )

  it.live("an interruption takes the temporary file away, but never comes between publishing and recording", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const writing = yield* Deferred.make<void>()
      const endless = (temporary: string) =>
        write("half")(temporary).pipe(
          Effect.andThen(Deferred.succeed(writing, undefined)),
          Effect.andThen(Effect.never)
        )
      const first = yield* Effect.forkChild(ingest(directory, path.join(directory, "file"), endless))
      yield* Deferred.await(writing)
      expect(readdirSync(directory)).toHaveLength(1)
      yield* Fiber.interrupt(first)
      expect(readdirSync(directory)).toEqual([])

      const recording = yield* Deferred.make<void>()
      let recorded = false
      const record = () =>
        Deferred.succeed(recording, undefined).pipe(
          Effect.andThen(Effect.sleep(30)),
          Effect.andThen(Effect.sync(() => void (recorded = true)))
        )
      const second = yield* Effect.forkChild(ingest(directory, path.join(directory, "file"), write("x"), { record }))
      yield* Deferred.await(recording)
      yield* Fiber.interrupt(second)
      expect({ recorded, files: readdirSync(directory) }).toEqual({ recorded: true, files: ["file"] })
    }).pipe(Effect.scoped)
  )
})

describe("temporary files", () => {
  it.live("belong to nobody when their maker is dead or they are a day old", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const now = Date.now()
      const mine = temporaryName(directory, "x")
      expect(isLeftover(mine, now)).toBe(false)
      writeFileSync(mine, "")
      expect(isLeftover(mine, now)).toBe(false)
      // The same pid with another start time is another process.
      const reused = mine.replace(/-[0-9a-z]+(-[0-9a-z]+-[0-9a-f]{8}\.tmp)$/, "-1$1")
      expect(reused).not.toBe(mine)
      writeFileSync(reused, "")
      expect(isLeftover(reused, now)).toBe(true)
      const foreign = path.join(directory, "notes")
      writeFileSync(foreign, "")
      expect(isLeftover(foreign, now)).toBe(false)
      for (const file of [mine, foreign]) {
        utimesSync(file, (now - dayMs) / 1000 - 1, (now - dayMs) / 1000 - 1)
        expect(isLeftover(file, now)).toBe(true)
      }
      // Dated by a clock that ran ahead.
      utimesSync(foreign, (now + dayMs) / 1000 + 1, (now + dayMs) / 1000 + 1)
      expect(isLeftover(foreign, now)).toBe(true)
      expect(temporaryName(directory, "x")).not.toBe(temporaryName(directory, "x"))
    }).pipe(Effect.scoped)
  )
})

describe("removeBelow", () => {
  it.live("removes children only, and no target of a link", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const outside = yield* temporaryDirectory
      writeFileSync(path.join(outside, "precious"), "x")
      symlinkSync(outside, path.join(directory, "link"))
      expect(yield* removeBelow(directory, path.join(directory, "link"))).toBe(true)
      expect(yield* removeBelow(directory, path.join(directory, "missing"))).toBe(true)
      expect(readdirSync(outside)).toEqual(["precious"])
      for (const wrong of [directory, outside, path.join(directory, "..", "x"), path.join(directory, "a", "b")])
        expect(yield* Effect.flip(removeBelow(directory, wrong))).toMatchObject({ _tag: "StoreFailed" })
    }).pipe(Effect.scoped)
  )
})
