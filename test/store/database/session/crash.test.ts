/** A process killed between any two statements of what it does to a session leaves all of it or nothing. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { copyFileSync, existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { putBlob } from "../../../../src/store/database/session/blobs.ts"
import { collect } from "../../../../src/store/database/session/collect.ts"
import { commit } from "../../../../src/store/database/session/commit.ts"
import { tombstone } from "../../../../src/store/database/session/graph.ts"
import { crashTurn } from "../../../support/sessionCrash.ts"
import { bytes, manifest, nodes } from "../../../support/sessionData.ts"
import { dump, freshFile, observed, openFile } from "../../../support/sessionFile.ts"

setDefaultTimeout(120_000)
const directory = mkdtempSync(path.join(tmpdir(), "bk-"))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const template = path.join(directory, "template.db")
const put = { compressible: true, profile: "balanced" } as const
const made = (() => {
  const file = freshFile(template)
  const store = (text: Uint8Array, kind = "module") => {
    const result = putBlob(file, text, { ...put, kind }, 0)
    if (result._tag === "Failure") throw result.failure
    return result.success
  }
  const old = store(bytes("old"))
  for (let index = 0; index < 50; index += 1) store(bytes(`orphan ${index}`))
  const tool = store(bytes("tool"), "tool_state")
  const checkpoint = store(manifest({ tool }), "checkpoint")
  const artifact = store(bytes("artifact"))
  const begin = { turnId: "t", expectedRevision: 0, nodes: nodes("a", "b:a") }
  expect(commit(file, { ...begin, artifacts: [{ artifactRef: "old", blobRef: old, kind: "module" }] }, 0)._tag).toBe(
    "Success"
  )
  expect(commit(file, { turnId: "u", expectedRevision: 1, checkpoint }, 0)._tag).toBe("Success")
  // The revision that the crashing turn expects is the one before: move it back by hand.
  file.connection.run("UPDATE session_head SET head_revision = 1")
  tombstone(file, ["b"], 0)
  file.connection.close()
  return { checkpoint, artifact }
})()

const copy = (name: string, from = template): string => {
  const place = path.join(directory, `${name}.db`)
  for (const end of ["", "-wal"]) {
    rmSync(`${place}${end}`, { force: true })
    if (existsSync(`${from}${end}`)) copyFileSync(`${from}${end}`, `${place}${end}`)
  }
  rmSync(`${place}-shm`, { force: true })
  return place
}
const read = (place: string) => {
  const file = openFile(place)
  const integrity = file.connection.all("PRAGMA integrity_check")
  const state = dump(file)
  file.connection.close()
  return { integrity, state }
}
const whole = [{ integrity_check: "ok" }]

const crash = async (place: string, nth: number, what: string) => {
  const program = path.join(import.meta.dir, "../../../support/sessionCrash.ts")
  const command = [process.execPath, program, place, String(nth), what, made.checkpoint, made.artifact]
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" })
  const said = await new Response(child.stdout).text()
  await child.exited
  expect(child.signalCode).toBe("SIGKILL")
  return said === "done"
}

describe("SIGKILL between any two statements", () => {
  for (const what of ["commit", "collect"]) {
    test(`of a ${what} leaves all of it or nothing`, async () => {
      const before = read(copy(`${what}-before`)).state
      const last = copy(`${what}-last`)
      expect(await crash(last, 0, what)).toBe(true)
      const after = read(last)
      expect(after.integrity).toEqual(whole)
      expect(after.state).not.toBe(before)
      const outcomes: Array<string> = []
      for (let nth = 1, ended = false; !ended; nth += 4) {
        const some = await Promise.all(
          [0, 1, 2, 3].map(async (offset) => {
            const place = copy(`${what}-${offset}`)
            const done = await crash(place, nth + offset, what)
            const { integrity, state } = read(place)
            expect(integrity).toEqual(whole)
            const outcome = state === before ? "before" : state === after.state ? "after" : "between"
            if (done) expect(outcome).toBe("after")
            if (what === "commit") {
              // The retry of the turn ends as the turn would have.
              const file = openFile(place)
              expect(commit(file, crashTurn(made.checkpoint, made.artifact), 5)).toMatchObject({
                success: { head: { headRevision: 2, leafNodeId: "c10", checkpointRef: made.checkpoint } }
              })
              expect(dump(file)).toBe(after.state)
              file.connection.close()
            }
            return { outcome, done }
          })
        )
        outcomes.push(...some.map((each) => each.outcome))
        ended = some.some((each) => each.done)
      }
      expect(outcomes).not.toContain("between")
      expect(outcomes[0]).toBe("before")
      expect(outcomes.length).toBeGreaterThan(6)
    })
  }
})

/** What a power cut leaves of a file whose log was not folded in: the files as they are at that statement, without the shared memory. */
test("files copied at any statement open as before or after", () => {
  for (const what of ["commit", "collect"] as const) {
    const place = copy(`live-${what}`)
    const file = openFile(place)
    const before = dump(file)
    const copies: Array<string> = []
    const watched = observed(file, () => copies.push(copy(`at-${what}-${copies.length}`, place)))
    const result =
      what === "commit" ? commit(watched, crashTurn(made.checkpoint, made.artifact), 5) : collect(watched, 0, 5)
    expect(result._tag).toBe("Success")
    const after = dump(file)
    copies.push(copy(`at-${what}-end`, place))
    for (const each of copies) {
      const { integrity, state } = read(each)
      expect(integrity).toEqual(whole)
      expect([before, after]).toContain(state)
    }
    expect(read(copies.at(-1)!).state).toBe(after)
    file.connection.close()
  }
})
