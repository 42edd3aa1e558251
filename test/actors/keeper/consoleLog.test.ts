/** The console of a guest goes through a bounded log, and takes no more room on the disk than that. */
import { expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Stream } from "effect"
import { openConsole } from "../../../src/actors/keeper/consoleLog.ts"
import { readLogs } from "../../../src/actors/sandboxes/logs.ts"
import { diskUsage } from "../../../src/store/files/files.ts"
import type { CheckedPath } from "../../../src/store/files/Paths.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const pathsIn = (directory: string) => {
  const at = (name: string) => path.join(directory, name) as CheckedPath
  return {
    consoleLog: at("console.log"),
    consoleLines: at("console.jsonl"),
    mainLog: at("main.jsonl"),
    execLog: at("exec.jsonl"),
    networkLog: at("network.jsonl")
  }
}
const consoleText = (paths: ReturnType<typeof pathsIn>) =>
  readLogs(paths, { source: "console", follow: false }, Effect.succeed(false)).pipe(
    Stream.runCollect,
    Effect.map((lines) => lines.map((line) => line.text ?? Buffer.from(line.data!).toString("latin1")).join(""))
  )

it.live("nothing is lost and nothing is there twice, also by the next keeper", () =>
  Effect.gen(function* () {
    const paths = pathsIn(yield* temporaryDirectory)
    const guest = fs.openSync(paths.consoleLog, "w")
    let said = ""
    const say = (count: number) => {
      for (let index = 0; index < count; index += 1) {
        const line = `${said.length} ${"x".repeat(990)}\n`
        said += line
        fs.writeSync(guest, line)
      }
    }
    yield* Effect.scoped(
      Effect.gen(function* () {
        const first = yield* openConsole(paths)
        for (let turn = 0; turn < 4; turn += 1) {
          say(700)
          yield* first.collect
        }
        // Its keeper is killed here: this is collected by nobody.
        say(3)
      })
    )
    expect(diskUsage(paths.consoleLog)).toBeLessThan(0.5 * 1024 * 1024)
    expect(fs.statSync(paths.consoleLog).size).toBe(said.length)
    expect(yield* consoleText(paths)).toBe(said)
    const second = yield* openConsole(paths)
    say(3)
    yield* second.collect
    expect(yield* consoleText(paths)).toBe(said)
    fs.closeSync(guest)
  })
)

it.live("a flood stays within the files of a log", () =>
  Effect.gen(function* () {
    const paths = pathsIn(yield* temporaryDirectory)
    const guest = fs.openSync(paths.consoleLog, "w")
    const collector = yield* openConsole(paths)
    const megabytes = Number(process.env["BUNKER_TEST_FLOOD_MB"] ?? 100)
    const block = Buffer.from(`${"flood ".repeat(170)}\n`.repeat(1024))
    for (let written = 0; written < megabytes * 1e6; written += block.length) {
      fs.writeSync(guest, block)
      yield* collector.collect
    }
    yield* collector.collect
    expect(diskUsage(path.dirname(paths.consoleLog))).toBeLessThan(45 * 1024 * 1024)
    fs.closeSync(guest)
  })
)
