/** Sessions that leave as a file and come back, and files that only look like one. */
import { describe, expect } from "bun:test"
import { readdirSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect, Stream } from "effect"
import { SessionStore } from "../../../../src/actors/sessions/SessionStore.ts"
import { Paths } from "../../../../src/store/files/Paths.ts"
import { it } from "../../../support/it.ts"
import { bytes, freshSessions, hash, inFile, manifest, node, nodes, putCheckpoint } from "../../../support/sessions.ts"

const s = { sessionId: "s" }
const exported = Effect.gen(function* () {
  const pieces = yield* Stream.runCollect((yield* SessionStore).Export(s))
  return Buffer.concat(pieces).toString("utf8")
})
/** A session with a bit of everything, one node hidden. */
const fill = Effect.gen(function* () {
  const store = yield* SessionStore
  yield* store.Create({ ...s, cwd: "/w", title: 'T "quoted"\n', parentSessionId: "p" })
  const kept = yield* putCheckpoint("s")
  const { hash: large } = yield* store.PutBlob({ ...s, kind: "module", content: bytes("x".repeat(300_000)) })
  yield* store.Commit({
    ...s,
    turnId: "t",
    expectedRevision: 0,
    nodes: [...nodes("a", "b:a", "c:a", "gone:a", "kid:gone"), node("u", "b", { role: "user", content: "hé\u2028" })],
    checkpoint: kept[0],
    artifacts: [{ artifactRef: "art", blobRef: large, kind: "module" }]
  })
  yield* store.Tombstone({ ...s, nodeIds: ["gone"] })
})
const importing = (content: string | Uint8Array, sessionId: string) =>
  Effect.gen(function* () {
    const file = path.join((yield* Paths).home, `${sessionId}.jsonl`)
    writeFileSync(file, content)
    return yield* (yield* SessionStore).Import({ file, sessionId })
  })

/** The same lines with another end that fits them. */
const sealed = (lines: ReadonlyArray<string>): string => {
  const text = lines.map((line) => `${line}\n`).join("")
  return `${text}${JSON.stringify({ end: true, records: lines.length, sha256: hash(bytes(text)) })}\n`
}

describe("a session", () => {
  it.effect("comes back as it left", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* fill
      const text = yield* exported
      const made = yield* importing(text, "copy")
      const {
        sessionId: _,
        fileBytes: __,
        tombstonedNodeCount: ___,
        createdAt,
        updatedAt: ____,
        ...facts
      } = yield* store.Get(s)
      expect(made).toMatchObject({ ...facts, createdAt, sessionId: "copy" })
      expect(yield* store.Graph({ sessionId: "copy" })).toEqual(yield* store.Graph(s))
      expect(text).not.toContain('gone","parent')
      const rows = (sql: string) => (id: string) => inFile(id, (sqlite) => sqlite.query(sql).values())
      for (const table of [
        "SELECT id, hash, kind, compression, content FROM blob ORDER BY id",
        "SELECT * FROM artifact_ref"
      ]) {
        expect(yield* rows(table)("copy")).toEqual(yield* rows(table)("s"))
      }
      // Its turns are still its turns.
      const again = { turnId: "t", expectedRevision: 9, replace: [] }
      expect(yield* Effect.flip(store.Commit({ sessionId: "copy", ...again }))).toMatchObject({ _tag: "TurnConflict" })
      // The id of what was hidden does not come back over its child.
      expect(yield* Effect.flip(store.Append({ sessionId: "copy", nodes: nodes("gone:kid") }))).toMatchObject({
        reason: "duplicate"
      })
      expect(yield* store.Gc({ sessionId: "copy", gracePeriodMs: 0 })).toMatchObject({
        retainedBlobCount: 5,
        deletedBlobCount: 0
      })
      expect(yield* Effect.flip(importing(text, "copy"))).toMatchObject({ _tag: "SessionExists" })
      expect((yield* exported).length).toBe(text.length)
      expect(readdirSync((yield* Paths).temporary)).toEqual([])
    }).pipe(Effect.provide(freshSessions()))
  )

  it.effect("that is damaged is not exported", () =>
    Effect.gen(function* () {
      yield* fill
      const damages = [
        ["UPDATE blob SET content = x'00' WHERE kind = 'module'", "blob"],
        ["DELETE FROM blob WHERE kind = 'module'", "artifact"],
        ["UPDATE graph_node SET node_json = 'x' WHERE node_id = 'a'", "node"],
        ["DELETE FROM blob WHERE kind = 'tool_state'", "checkpoint"]
      ] as const
      for (const [damage, what] of damages) {
        yield* inFile("s", (sqlite) => sqlite.run(damage))
        expect(yield* Effect.flip(exported)).toMatchObject({ _tag: "StoredDataCorrupt", what })
      }
    }).pipe(Effect.provide(freshSessions()))
  )
})

describe("a file that only looks like an export", () => {
  it.effect("is refused with its line, and leaves nothing", () =>
    Effect.gen(function* () {
      yield* fill
      const whole = (yield* exported).trimEnd().split("\n").slice(0, -1)
      const change = (from: string, to: string) => sealed(whole.map((line) => line.replace(from, to)))
      const at = (words: string) => whole.findIndex((line) => line.includes(words)) + 1
      expect(sealed(whole)).toBe(yield* exported)
      const other = hash(bytes("other"))
      const cycle = (line: string) =>
        line.replace('"node_id":"a","parent_node_id":null', '"node_id":"a","parent_node_id":"b"')
      const noCheckpoint = manifest({ tool: "0".repeat(64) })
      const wrong: ReadonlyArray<readonly [string | Uint8Array, number, string]> = [
        ["", 0, "ends"],
        ["\n", 1, "head"],
        ["{}\n", 1, "head"],
        [new Uint8Array(100), 1, "head"],
        [change('"version":1', '"version":2'), 1, "head"],
        [change('"format":"bunker-session"', '"format":"x"'), 1, "head"],
        [change('"head_revision":1', '"head_revision":-1'), 1, "head"],
        [`${whole.join("\n")}\n`, whole.length, "ends"],
        [sealed(whole).slice(0, 2000), at('"record":"blob"'), ""],
        [`${sealed(whole)}{}\n`, whole.length + 2, "after"],
        [sealed(whole).replace("hé", "he"), whole.length + 1, "sha256"],
        [sealed(whole).replace(`"records":${whole.length}`, '"records":3'), whole.length + 1, "3"],
        [change('"record":"node"', '"record":"nose"'), 2, "no record"],
        [change('"base64":"', '"base64":"AAAA'), at('"record":"blob"'), "hash"],
        [change('"node_id":"b"', '"node_id":"a"'), at('"node_id":"b"'), "taken"],
        [sealed(whole.filter((line) => !line.includes('"node_id":"a"'))), whole.length, "missing"],
        [change('"leaf_node_id":"u"', '"leaf_node_id":"none"'), whole.length + 1, "missing"],
        [sealed(whole.map(cycle)), whole.length + 1, "themselves"],
        [sealed(whole.filter((line) => !line.includes('"kind":"tool_state"'))), whole.length, "missing"],
        [
          sealed(whole.filter((line) => !line.includes('"record":"blob"') || !line.includes('"kind":"module"'))),
          whole.length,
          "artifact"
        ],
        [change('"kind":"module"}', '"kind":"checkpoint"}'), whole.length + 1, "JSON"],
        [
          change(/"checkpoint_ref":"[0-9a-f]+"/.exec(whole[0]!)![0], `"checkpoint_ref":"${other}"`),
          whole.length + 1,
          "missing"
        ],
        [
          sealed([
            ...whole,
            JSON.stringify({ record: "blob", hash: hash(noCheckpoint), kind: "Big Kind", compress: false, base64: "" })
          ]),
          whole.length + 1,
          "no record"
        ]
      ]
      for (const [content, line, words] of wrong) {
        const error = yield* Effect.flip(importing(content, "bad"))
        expect({ content: String(content).slice(0, 200), error }).toMatchObject({
          error: { _tag: "SessionFileInvalid", lineNumber: line }
        })
        expect(error.message).toContain(words)
      }
      const paths = yield* Paths
      expect(readdirSync(paths.sessions).filter((name) => name.startsWith("bad"))).toEqual([])
      expect(readdirSync(paths.temporary)).toEqual([])
      const store = yield* SessionStore
      expect(yield* Effect.flip(store.Import({ file: paths.home }))).toMatchObject({
        _tag: "StoreFailed",
        reason: "EISDIR"
      })
      expect(yield* Effect.flip(store.Import({ file: "/none" }))).toMatchObject({
        _tag: "StoreFailed",
        reason: "ENOENT"
      })
    }).pipe(Effect.provide(freshSessions()))
  )
})
