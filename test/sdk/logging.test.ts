/** What an embedding program hears of what is no answer: nothing, unless it asks. */
import { expect, spyOn, test } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Effect } from "effect"
import { Sweeper } from "../../src/actors/sandboxes/Sweeper.ts"
import type { LogRecord } from "../../src/sdk/index.ts"
import { type Runtime, run, runtimeOf } from "../../src/sdk/runtime.ts"
import { Database } from "../../src/store/database/Database.ts"
import { putSandbox } from "../support/sandboxes.ts"

/** An actor logs: a row that nobody can read is left as it is. */
const logs = Effect.gen(function* () {
  const db = yield* Database
  yield* putSandbox({ name: "broken", status: "running" })
  yield* db.run("UPDATE sandbox SET config = 'x'")
  yield* (yield* Sweeper).Sweep({ force: true })
})

const heard = async (log?: (record: LogRecord) => void): Promise<number> => {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "bk-"))
  const spies = [
    ...(["log", "error", "warn", "info", "debug"] as const).map((name) => spyOn(console, name)),
    spyOn(process.stdout, "write"),
    spyOn(process.stderr, "write")
  ]
  const runtime: Runtime = runtimeOf({ home, ...(log === undefined ? {} : { log }) })
  try {
    await run(runtime, logs as never)
    return spies.reduce((sum, spy) => sum + spy.mock.calls.length, 0)
  } finally {
    for (const spy of spies) spy.mockRestore()
    await runtime.dispose()
    fs.rmSync(home, { recursive: true, force: true })
  }
}

test("nothing is printed; who asks for it gets time, level and text", async () => {
  expect(await heard()).toBe(0)
  const records: Array<LogRecord> = []
  expect(await heard((record) => void records.push(record))).toBe(0)
  expect(records).toMatchObject([{ level: "warn", text: expect.stringContaining("one row was left as it is") }])
  expect(Math.abs(Date.now() - records[0]!.time)).toBeLessThan(60_000)
})
