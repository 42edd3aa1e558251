/** The log's writer on disks that are slow or full. */
import { expect, setDefaultTimeout, spyOn } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Exit, Scope } from "effect"
import { decodeLine, type LogEntry, type LogWriter, openLog } from "../../../src/store/files/logs.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { have, run } from "../../support/mount.ts"

setDefaultTimeout(30_000)

const entriesOf = (text: string): ReadonlyArray<LogEntry> =>
  text
    .split("\n")
    .map((line) => decodeLine(line))
    .filter((entry) => entry !== undefined)

const numberOf = ({ data }: LogEntry) => Number(Buffer.from(data).toString().split(" ")[0])

/** Every byte is there or counted where it is missing, in order. */
const expectNothingLost = (entries: ReadonlyArray<LogEntry>, pieces: number, size: number) => {
  const missing = entries.filter(({ stream }) => stream === "dropped")
  const kept = entries.filter(({ stream }) => stream === "stdout")
  expect(missing.length).toBeGreaterThan(0)
  expect(missing.reduce((sum, entry) => sum + numberOf(entry), 0)).toBe((pieces - kept.length) * size)
  let next = 0
  for (const entry of entries) {
    if (entry.stream === "dropped") next += numberOf(entry) / size
    else expect(numberOf(entry)).toBe(next++)
  }
  expect(next).toBe(pieces)
}

const size = 10_000
const piece = (index: number) => `${index} `.padEnd(size, "x")
const say = (log: LogWriter, from: number, to: number) =>
  Effect.forEach(
    Array.from({ length: to - from }, (_, index) => from + index),
    (index) => log.write("stdout", piece(index)),
    { discard: true }
  )

it.live(
  "a disk that takes nothing holds up the writer once, and what is missing is counted in its place",
  () =>
    Effect.gen(function* () {
      // A pipe that nobody empties: write(2) blocks, as on a disk that hangs.
      const directory = yield* temporaryDirectory
      const [file, hanging] = [path.join(directory, "main.jsonl"), path.join(directory, "exec.jsonl")]
      const open = (pipe: string) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            run("mkfifo", pipe)
            return fs.openSync(pipe, fs.constants.O_RDWR | fs.constants.O_NONBLOCK)
          }),
          (fd) => Effect.sync(() => fs.closeSync(fd))
        )
      const reader = yield* open(file)
      yield* open(hanging)
      let text = ""
      const buffer = Buffer.alloc(1024 * 1024)
      const emptying = Effect.forever(
        Effect.suspend(() => {
          try {
            text += buffer.toString("latin1", 0, fs.readSync(reader, buffer))
            return Effect.yieldNow
          } catch {
            return Effect.sleep("1 millis")
          }
        })
      )
      const appears = (what: string) =>
        Effect.sleep("1 millis").pipe(Effect.repeat({ until: () => text.includes(what) }))
      const log = yield* openLog(file)
      yield* say(log, 0, 300)
      // One that hangs for ever does not keep a process that ends.
      const scope = yield* Scope.make()
      yield* say(yield* openLog(hanging).pipe(Scope.provide(scope)), 0, 20)
      yield* Scope.close(scope, Exit.void)
      yield* Effect.forkScoped(emptying)
      yield* appears('"dropped"')
      yield* say(log, 300, 310)
      yield* appears('"d":"309 ')
      yield* log.flush
      expectNothingLost(entriesOf(text), 310, size)
    }),
  30_000
)

it.live("a rotation that fails half-way, again and again, loses nothing of the older files", () =>
  Effect.gen(function* () {
    const directory = yield* temporaryDirectory
    const file = path.join(directory, "main.jsonl")
    const log = yield* openLog(file, { bytesMax: 25_000 })
    // Two lines a file, four files.
    yield* say(log, 0, 8)
    yield* log.flush
    const rename = fs.promises.rename
    const older = ["main.jsonl.1", "main.jsonl.2", "main.jsonl.3"]
    const textOf = (name: string) => fs.readFileSync(path.join(directory, name), "utf8")
    /** The disk refuses one of the steps. */
    const refusing = (refused: (from: string) => boolean) => {
      const spy = spyOn(fs.promises, "rename")
      return spy.mockImplementation(async (from, to) => {
        if (refused(String(from))) throw new Error("EIO")
        await rename(from, to)
      })
    }
    let next = 8
    const some = Effect.gen(function* () {
      yield* say(log, next, next + 3)
      yield* log.flush
      next += 3
    })
    for (const step of [".new", "main.jsonl", "main.jsonl.1"]) {
      const spy = refusing((from) => from.endsWith(step))
      yield* some
      // What the first try moved is where it belongs; the next ones change nothing.
      const texts = older.filter((name) => fs.existsSync(path.join(directory, name))).map(textOf)
      yield* some
      yield* some
      expect(older.filter((name) => fs.existsSync(path.join(directory, name))).map(textOf)).toEqual(texts)
      spy.mockRestore()
      yield* some
      let at: number | undefined
      for (const entry of [...older.toReversed(), "main.jsonl"].flatMap((name) => entriesOf(textOf(name)))) {
        if (entry.stream === "dropped") at = at === undefined ? undefined : at + numberOf(entry) / size
        else {
          expect(numberOf(entry)).toBe(at ?? numberOf(entry))
          at = numberOf(entry) + 1
        }
      }
      expect(at).toBe(next)
    }
  })
)

const missing = [...(process.getuid?.() === 0 ? [] : ["root"]), ...(have("mount") ? [] : ["mount"])]
if (missing.length > 0) console.warn(`skipped: logs on a full disk; missing: ${missing.join(", ")}`)

if (missing.length === 0) {
  it.live("what a full disk does not take is counted, spoils no other line, and is said as soon as there is room", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* Effect.acquireRelease(
        Effect.sync(() => run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", directory)),
        () => Effect.sync(() => run("umount", "-l", directory))
      )
      const file = path.join(directory, "main.jsonl")
      const read = () => fs.readFileSync(file, "utf8")
      const log = yield* openLog(file)
      // In turns, so that a line is cut in its middle.
      for (let from = 0; from < 60; from += 3) {
        yield* say(log, from, from + 3)
        yield* log.flush
      }
      expect(read().endsWith("\n")).toBe(false)
      run("mount", "-o", "remount,size=4m", directory)
      // Nobody says anything more: the writer tries by itself.
      while (!read().includes('"dropped"')) yield* Effect.sleep("20 millis")
      yield* say(log, 60, 70)
      yield* log.flush
      expectNothingLost(entriesOf(read()), 70, size)
    })
  )

  it.live("a disk that is too full for a new file loses none of the old ones", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      yield* Effect.acquireRelease(
        Effect.sync(() => run("mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=5", "tmpfs", directory)),
        () => Effect.sync(() => run("umount", "-l", directory))
      )
      const file = path.join(directory, "main.jsonl")
      const log = yield* openLog(file, { bytesMax: 25_000 })
      // Two lines a file; the directory, the log's first two files, and two that take the inodes of the others.
      yield* say(log, 0, 4)
      yield* log.flush
      for (const name of ["a", "b"]) fs.writeFileSync(path.join(directory, name), "")
      yield* say(log, 4, 7)
      yield* log.flush
      expect(fs.readdirSync(directory).toSorted()).toEqual(["a", "b", "main.jsonl", "main.jsonl.1"])
      fs.rmSync(path.join(directory, "a"))
      yield* say(log, 7, 8)
      yield* log.flush
      const text = [2, 1, 0].map((index) => fs.readFileSync(index === 0 ? file : `${file}.${index}`, "utf8")).join("")
      expectNothingLost(entriesOf(text), 8, size)
    })
  )
}
