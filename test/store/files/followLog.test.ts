import { expect } from "bun:test"
import path from "node:path"
import { Effect } from "effect"
import { followLog } from "../../../src/store/files/followLog.ts"
import { type LogEntry, openLog } from "../../../src/store/files/logs.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const text = (entries: ReadonlyArray<{ readonly data: Uint8Array }>) =>
  entries.map(({ data }) => Buffer.from(data).toString())

it.live("a follower reads every line once, in order, across rotation", () =>
  Effect.gen(function* () {
    const file = path.join(yield* temporaryDirectory, "main.jsonl")
    const follower = yield* followLog(file)
    expect(yield* follower.next).toEqual([])
    const log = yield* openLog(file)
    /** Answers come in pieces. */
    const all = Effect.gen(function* () {
      yield* log.flush
      const read: Array<LogEntry> = []
      for (let next = yield* follower.next; next.length > 0; next = yield* follower.next) read.push(...next)
      return read
    })
    const filler = "x".repeat(1024 * 1024)
    const expected: Array<string> = []
    const seen: Array<string> = []
    // 30 MiB through files of 10 MiB, read now and then: up to two rotations between two reads.
    for (let index = 0; index < 30; index += 1) {
      const line = `${index} ${filler}`
      expected.push(line)
      yield* log.write("stdout", Buffer.from(line))
      if (index === 1 || index === 12 || index === 29) seen.push(...text(yield* all))
    }
    expect(seen.map((line) => line.length)).toEqual(expected.map((line) => line.length))
    expect(seen.map((line) => line.split(" ")[0])).toEqual(expected.map((line) => line.split(" ")[0]))
    expect(yield* follower.next).toEqual([])
    yield* log.write("stderr", Buffer.from([0xff, 0x00]))
    const last = yield* all
    expect([...last[0]!.data]).toEqual([0xff, 0x00])
  })
)

it.live("a follower of a full log misses nothing of what is rotated away while it reads", () =>
  Effect.gen(function* () {
    const file = path.join(yield* temporaryDirectory, "main.jsonl")
    const log = yield* openLog(file, { bytesMax: 6 * 1024 * 1024 })
    const filler = "x".repeat(1024 * 1024)
    let written = 0
    const say = (count: number) =>
      Effect.forEach(Array.from({ length: count }), () =>
        Effect.andThen(log.write("stdout", `${written++} ${filler}`), log.flush)
      )
    // Four files of six lines, and no more than was kept when the follower came.
    yield* say(24)
    const follower = yield* followLog(file)
    const read: Array<LogEntry> = [...(yield* follower.next)]
    yield* say(7)
    for (let next = yield* follower.next; next.length > 0; next = yield* follower.next) read.push(...next)
    expect(read.map(({ stream }) => stream)).not.toContain("dropped")
    const numbers = text(read).map((line) => Number.parseInt(line, 10))
    expect(numbers).toEqual(Array.from({ length: numbers.length }, (_, index) => numbers[0]! + index))
    expect(numbers.at(-1)).toBe(written - 1)
  })
)

it.live("a follower that comes too late for what was rotated away says so in its place", () =>
  Effect.gen(function* () {
    const file = path.join(yield* temporaryDirectory, "main.jsonl")
    const log = yield* openLog(file, { bytesMax: 1000 })
    const say = (from: number, to: number) =>
      Effect.forEach(
        Array.from({ length: to - from }, (_, index) => from + index),
        (index) => Effect.andThen(log.write("stdout", `${index} `.padEnd(300)), log.flush),
        { discard: true }
      )
    const follower = yield* followLog(file)
    yield* say(0, 2)
    const first = yield* follower.next
    // Two lines a file, four files: the file that is open, and what comes after the gap.
    yield* say(2, 21)
    const next = yield* follower.next
    const numbers = [...first, ...next].map(({ stream, data }) =>
      stream === "dropped" ? "gap" : Number(Buffer.from(data).toString())
    )
    expect(numbers).toEqual([0, 1, "gap", 14, 15, 16, 17, 18, 19, 20])
    expect(yield* follower.next).toEqual([])
    yield* say(21, 22)
    expect(text(yield* follower.next)).toEqual(["21 ".padEnd(300)])
  })
)
