/** A kept main command and its log, over processes of the host that come and go; the guest is played by the test. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, type Scope, Stream } from "effect"
import { makeMainCommand } from "../../../src/actors/keeper/mainCommand.ts"
import { decodeLine, openLog } from "../../../src/store/files/logs.ts"
import type { ExecEvent, ExecHandle, KeptCommand } from "../../../src/vm/guest/GuestChannel.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const out = (text: string): ExecEvent => ({ _tag: "Stdout", data: Buffer.from(text) })
const err = (text: string): ExecEvent => ({ _tag: "Stderr", data: Buffer.from(text) })
const exit = (code: number): ExecEvent => ({ _tag: "Exit", code })

/** A guest's command that says these things from an offset on, and what it heard of them. */
const guest = (from: number, events: ReadonlyArray<ExecEvent>) => {
  const heard = { confirmed: 0, ended: false, asked: [] as Array<number> }
  const kept: KeptCommand = {
    from,
    said: from,
    confirm: (bytes) => void (heard.confirmed += bytes),
    confirmEnd: () => void (heard.ended = true)
  }
  const nothing = Effect.void
  const handle = {
    pid: 7,
    events: Stream.fromIterable(events),
    write: () => nothing,
    closeStdin: nothing,
    signal: () => nothing,
    resize: () => nothing,
    kept
  } satisfies ExecHandle & { readonly kept: KeptCommand }
  const start = (asked: number) => {
    heard.asked.push(asked)
    return Effect.succeed(handle)
  }
  return { heard, handle, start }
}

const request = { argv: ["sh"], env: [], tty: null, stdin: false } as const

const linesOf = (file: string) =>
  fs
    .readFileSync(file, "utf8")
    .split("\n")
    .flatMap((line) => decodeLine(line) ?? [])
    .map(({ stream, offset, data }) => [stream, Buffer.from(data).toString(), offset])

/** One process of the host: a log and a command, gone at the end of what is done with them. */
const host = <A, E>(
  file: string,
  use: (main: ReturnType<typeof makeMainCommand>) => Effect.Effect<A, E, Scope.Scope>
) => Effect.scoped(Effect.flatMap(openLog(file), (log) => use(makeMainCommand(log))))

describe("a main command that the guest keeps", () => {
  it.live("is logged with offsets that go on over takeovers, and confirmed once that is in the file", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "main.jsonl")
      const first = guest(0, [out("one\n"), err("two\n")])
      yield* host(file, (main) =>
        Effect.gen(function* () {
          expect(main.said()).toBe(0)
          yield* Stream.runDrain(main.run(request, Effect.succeed(first.handle)))
          yield* main.flush
          expect(first.heard).toMatchObject({ confirmed: 8, ended: false })
        })
      )
      // The line that was being written when its writer was killed.
      fs.appendFileSync(file, '{"t":1,"s":"stdout","o":14,"d":"thr')
      const second = guest(8, [out("three\n"), exit(3)])
      yield* host(file, (main) => Stream.runDrain(main.resume(second.start)))
      expect(second.heard).toEqual({ confirmed: 6, ended: true, asked: [8] })
      const lines = [
        ["start", "sh", 0],
        ["stdout", "one\n", 4],
        ["stderr", "two\n", 8],
        ["stdout", "three\n", 14],
        ["exit", "3", 14]
      ]
      expect(linesOf(file)).toEqual(lines)
      // Its end was not recorded elsewhere: heard again, it stands there once.
      const third = guest(14, [exit(3)])
      yield* host(file, (main) =>
        Effect.gen(function* () {
          yield* Stream.runDrain(main.resume(third.start))
          expect(yield* Stream.runCollect(main.watch)).toMatchObject([{ _tag: "Exit", code: 3 }])
        })
      )
      expect(third.heard).toEqual({ confirmed: 0, ended: true, asked: [14] })
      expect(linesOf(file)).toEqual(lines)
      // The next run counts on.
      yield* host(file, (main) =>
        Effect.gen(function* () {
          const next = guest(main.said(), [out("x"), exit(0)])
          yield* Stream.runDrain(main.run(request, Effect.succeed(next.handle)))
        })
      )
      expect(linesOf(file).slice(lines.length)).toEqual([
        ["start", "sh", 14],
        ["stdout", "x", 15],
        ["exit", "0", 15]
      ])
    })
  )

  it.live("says how much is missing where the guest could not keep it", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "main.jsonl")
      const first = guest(0, [out("abc")])
      yield* host(file, (main) => Stream.runDrain(main.run(request, Effect.succeed(first.handle))))
      const second = guest(1003, [out("def"), exit(0)])
      yield* host(file, (main) => Stream.runDrain(main.resume(second.start)))
      expect(linesOf(file).slice(1)).toEqual([
        ["stdout", "abc", 3],
        ["dropped", "1000", 1003],
        ["stdout", "def", 1006],
        ["exit", "0", 1006]
      ])
    })
  )

  it.live("finds its place behind rotation and long lines", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "main.jsonl")
      const long = "\0".repeat(65_536)
      const first = guest(0, [out("abc"), out(long)])
      yield* host(file, (main) => Stream.runDrain(main.run(request, Effect.succeed(first.handle))))
      const second = guest(65_539, [exit(0)])
      yield* host(file, (main) => Stream.runDrain(main.resume(second.start)))
      expect(second.heard.asked).toEqual([65_539])
      fs.renameSync(file, `${file}.1`)
      const third = guest(65_539, [exit(0)])
      yield* host(file, (main) => Stream.runDrain(main.resume(third.start)))
      expect(third.heard.asked).toEqual([65_539])
    })
  )
})
