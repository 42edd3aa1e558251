/** The cases that the specification names, through the actor over real files. */
import type { Database as Sqlite } from "bun:sqlite"
import { describe, expect } from "bun:test"
import { existsSync } from "node:fs"
import { Effect, Stream } from "effect"
import { TestClock } from "effect/testing"
import { SessionStore } from "../../../../src/actors/sessions/SessionStore.ts"
import { Paths } from "../../../../src/store/files/Paths.ts"
import { it } from "../../../support/it.ts"
import {
  bytes,
  freshSessions,
  hash,
  idOf,
  inFile,
  manifest,
  node,
  nodes,
  putCheckpoint
} from "../../../support/sessions.ts"

const s = { sessionId: "s" }
const ids = (graph: { readonly nodes: ReadonlyArray<{ readonly nodeId: string }> }) =>
  graph.nodes.map((each) => each.nodeId)
const turn = (turnId: string, expectedRevision: number) => ({ ...s, turnId, expectedRevision })
const grace = { gracePeriodMs: 0 }
const blobs = inFile("s", (sqlite) =>
  (sqlite.query("SELECT hash FROM blob").values() as Array<[string]>).flat().toSorted()
)

/** Over a session "s" in a home of its own. */
const withSession = <A, E>(
  body: Effect.Effect<A, E, SessionStore | Paths>,
  options: Parameters<typeof freshSessions>[0] = {}
) =>
  Effect.gen(function* () {
    yield* (yield* SessionStore).Create(s)
    return yield* body
  }).pipe(Effect.provide(freshSessions(options)), Effect.asVoid)

describe("a graph", () => {
  it.effect("whole and by leaf", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const all = nodes("root", "left:root", "right-leaf:root", "left-leaf:left")
        yield* store.Commit({ ...turn("t", 0), nodes: all, leaf: "left-leaf" })
        expect((yield* store.Graph(s)).nodes).toEqual(all)
        expect(ids(yield* store.Graph({ ...s, active: true }))).toEqual(["root", "left", "left-leaf"])
        expect(ids(yield* store.Graph({ ...s, leaf: "right-leaf" }))).toEqual(["root", "right-leaf"])
        expect(yield* store.Branch({ ...s, leaf: "right-leaf" })).toEqual({
          headRevision: 2,
          leafNodeId: "right-leaf",
          checkpointRef: null
        })
        expect(ids(yield* store.Graph({ ...s, active: true }))).toEqual(["root", "right-leaf"])
        expect((yield* store.Graph(s)).nodes).toHaveLength(4)
        yield* store.Branch({ ...s, leaf: null })
        expect(ids(yield* store.Graph({ ...s, active: true }))).toEqual([])
        expect(yield* Effect.flip(store.Branch({ ...s, leaf: "none" }))).toMatchObject({
          _tag: "NodeNotFound",
          nodeId: "none"
        })
        expect(yield* Effect.flip(store.Graph({ ...s, leaf: "none" }))).toMatchObject({ _tag: "NodeNotFound" })
      })
    )
  )

  it.effect("takes nodes in order, all or nothing", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        yield* store.Append({ ...s, nodes: nodes("a", "b:a") })
        const wrong = [
          [nodes("c:b", "c:b"), { reason: "duplicate", nodeId: "c" }],
          [nodes("c:b", "a"), { reason: "duplicate", nodeId: "a" }],
          [nodes("c:b", "d:none"), { reason: "unknown_parent", nodeId: "d", parentNodeId: "none" }],
          [nodes("c:b", "d:d"), { reason: "cycle", nodeId: "d" }],
          [nodes("c:b", "d:e", "e:f", "f:d"), { reason: "cycle" }]
        ] as const
        for (const [given, problem] of wrong) {
          for (const message of [
            store.Append({ ...s, nodes: given }),
            store.Commit({ ...turn("t", 0), nodes: given })
          ]) {
            expect(yield* Effect.flip(message)).toMatchObject({ _tag: "InvalidGraph", ...problem })
          }
        }
        expect(ids(yield* store.Graph(s))).toEqual(["a", "b"])
        expect((yield* store.Get(s)).headRevision).toBe(0)
        // A parent may come after its child.
        yield* store.Append({ ...s, nodes: nodes("d:c", "c:b") })
        expect(ids(yield* store.Graph({ ...s, leaf: "d" }))).toEqual(["a", "b", "c", "d"])
      })
    )
  )

  it.effect("is replaced whole or not at all", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        yield* store.Commit({ ...turn("t", 0), nodes: nodes("a", "b:a", "c:a"), leaf: "b" })
        expect(yield* Effect.flip(store.Replace({ ...s, nodes: nodes("x", "y:a") }))).toMatchObject({
          reason: "unknown_parent"
        })
        expect(ids(yield* store.Graph(s))).toEqual(["a", "b", "c"])
        expect(yield* store.Replace({ ...s, nodes: nodes("b", "z:b") })).toMatchObject({
          headRevision: 2,
          leafNodeId: "b"
        })
        expect(ids(yield* store.Graph(s))).toEqual(["b", "z"])
        expect(yield* store.Replace({ ...s, nodes: nodes("q") })).toMatchObject({ headRevision: 3, leafNodeId: null })
        expect(yield* store.Commit({ ...turn("u", 3), replace: nodes("r", "t:r") })).toMatchObject({ leafNodeId: "t" })
        expect(yield* store.Commit({ ...turn("v", 4), replace: [] })).toMatchObject({ leafNodeId: null })
      })
    )
  )

  it.effect("names the ancestor that is missing, tombstoned or in a circle, and ends", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        yield* store.Commit({ ...turn("t", 0), nodes: nodes("a", "b:a", "c:b", "d:c", "e:d") })
        const broken = (name: string) =>
          Effect.map(Effect.flip(store.Graph({ ...s, active: true })), (error) =>
            expect(error).toMatchObject({ _tag: "StoredDataCorrupt", what: "node", item: name })
          )
        yield* store.Tombstone({ ...s, nodeIds: ["c"] })
        expect(ids(yield* store.Graph(s))).toEqual(["a", "b", "d", "e"])
        yield* broken("c")
        expect(yield* store.Vacuum(s)).toMatchObject({ removedNodeCount: 1 })
        expect(yield* store.Vacuum(s)).toMatchObject({ removedNodeCount: 0 })
        yield* broken("c")
        // An id that came back could close a circle.
        expect(yield* Effect.flip(store.Append({ ...s, nodes: nodes("c:e") }))).toMatchObject({ reason: "duplicate" })
        yield* inFile("s", (sqlite) => sqlite.run("UPDATE graph_node SET parent_node_id = 'e' WHERE node_id = 'd'"))
        yield* broken("e")
        yield* inFile("s", (sqlite) => sqlite.run("UPDATE graph_node SET parent_node_id = 'd' WHERE node_id = 'd'"))
        yield* broken("d")
        yield* inFile("s", (sqlite) => {
          sqlite.run("UPDATE graph_node SET parent_node_id = 'b' WHERE node_id = 'd'")
          sqlite.run("UPDATE graph_node SET node_json = '{' WHERE node_id = 'b'")
        })
        expect(yield* Effect.flip(store.Graph(s))).toMatchObject({ _tag: "StoredDataCorrupt", item: "b" })
        expect(yield* Effect.flip(store.Tombstone({ ...s, nodeIds: ["a", "none"] }))).toMatchObject({
          _tag: "NodeNotFound"
        })
        expect(ids(yield* store.Graph({ ...s, leaf: "a" }))).toEqual(["a"])
      })
    )
  )
})

describe("a damaged graph", () => {
  const everyReader = (damage: (sqlite: Sqlite) => void, name: string) =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        yield* store.Commit({ ...turn("t", 0), nodes: nodes("q", "a:q", "b:a") })
        yield* inFile("s", damage)
        const corrupt = { _tag: "StoredDataCorrupt", item: name }
        expect(yield* Effect.flip(store.Graph(s))).toMatchObject(corrupt)
        expect(yield* Effect.flip(store.Graph({ ...s, active: true }))).toMatchObject({ _tag: "StoredDataCorrupt" })
        expect(yield* Effect.flip(Stream.runDrain(store.Export(s)))).toMatchObject(corrupt)
        expect(yield* Effect.flip(store.Fork({ ...s, newSessionId: "f" }))).toMatchObject(corrupt)
        expect(yield* Effect.flip(store.Gc(s))).toMatchObject(corrupt)
        expect(yield* store.List({})).toMatchObject([{ problem: expect.stringContaining(`at node ${name}: `) }])
        expect(yield* store.Remove(s)).toEqual({ removed: true })
      })
    )

  it.effect("whose parents go round in a circle is told by everything that reads it", () =>
    everyReader((sqlite) => sqlite.run("UPDATE graph_node SET parent_node_id = 'b' WHERE node_id = 'q'"), "q")
  )

  it.effect("whose circle stands among absurd row numbers, too", () =>
    everyReader((sqlite) => {
      sqlite.run("UPDATE graph_node SET parent_node_id = 'b' WHERE node_id = 'q'")
      sqlite.run("UPDATE graph_node SET seq = 9223372036854775000 WHERE node_id = 'a'")
    }, "q")
  )

  it.effect("with an id twice, the second below its own descendant, too", () =>
    everyReader((sqlite) => {
      // Without the index on ids, which alone keeps them apart.
      sqlite.run("CREATE TABLE n AS SELECT * FROM graph_node")
      sqlite.run("DROP TABLE graph_node")
      sqlite.run("ALTER TABLE n RENAME TO graph_node")
      sqlite.run("INSERT INTO graph_node SELECT 9, 'a', 'b', node_json, 0, 0 FROM graph_node WHERE node_id = 'a'")
    }, "a")
  )

  it.effect("is not what a child that came before its parent makes", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        yield* store.Append({ ...s, nodes: nodes("child:parent", "parent") })
        expect(ids(yield* store.Graph(s))).toEqual(["child", "parent"])
      })
    )
  )
})

describe("a commit", () => {
  it.effect("answers the same turn with the same result, and refuses another payload", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const first = { ...turn("t", 0), nodes: [node("a", null, { x: 1, y: [{ p: 1, q: 2 }] })] }
        const result = yield* store.Commit(first)
        expect(result).toEqual({ headRevision: 1, leafNodeId: "a", checkpointRef: null })
        yield* store.Commit({ ...turn("u", 1), nodes: nodes("b:a") })
        expect(yield* store.Commit(first)).toEqual(result)
        // Other order of keys, other expectation of the head: the same turn.
        const same = { ...first, expectedRevision: 2, nodes: [node("a", null, { y: [{ q: 2, p: 1 }], x: 1 })] }
        expect(yield* store.Commit(same)).toEqual(result)
        const others = [
          { ...first, nodes: [node("a", null, { x: 2, y: [{ p: 1, q: 2 }] })] },
          { ...first, leaf: null },
          { ...first, leaf: "a" },
          { ...first, checkpoint: null },
          { ...turn("t", 0), replace: first.nodes },
          { ...turn("t", 0) },
          { ...first, artifacts: [{ artifactRef: "a", blobRef: null, kind: "module" }] }
        ]
        for (const other of others) {
          expect(yield* Effect.flip(store.Commit(other))).toMatchObject({ _tag: "TurnConflict", turnId: "t" })
        }
        expect(yield* store.Get(s)).toMatchObject({ headRevision: 2, commitCount: 2, nodeCount: 2 })
      })
    )
  )

  it.effect("of two writers on one revision one wins", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const outcomes = yield* Effect.all(
          ["p", "q"].map((id) => Effect.result(store.Commit({ ...turn(id, 0), nodes: nodes(id) }))),
          { concurrency: 2 }
        )
        expect(outcomes.map((each) => each._tag).toSorted()).toEqual(["Failure", "Success"])
        expect(outcomes.find((each) => each._tag === "Failure")).toMatchObject({
          failure: { _tag: "HeadConflict", expected: 0, actual: 1 }
        })
        expect(yield* store.Get(s)).toMatchObject({ headRevision: 1, nodeCount: 1 })
      })
    )
  )

  it.effect("refuses what it names and is not there, and writes nothing", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const absent = hash(bytes("absent"))
        const { hash: noJson } = yield* store.PutBlob({ ...s, kind: "checkpoint", content: bytes("{") })
        const { hash: dangling } = yield* store.PutBlob({
          ...s,
          kind: "checkpoint",
          content: manifest({ tool: absent })
        })
        const wrong = [
          [{ leaf: "none" }, "leaf"],
          [{ checkpoint: absent }, "checkpoint"],
          [{ checkpoint: noJson }, "checkpoint"],
          [{ checkpoint: dangling }, "checkpoint"],
          [{ artifacts: [{ artifactRef: "a", blobRef: absent, kind: "module" }] }, "artifacts"],
          [{ artifacts: [{ artifactRef: "a", blobRef: noJson, kind: "checkpoint" }] }, "artifacts"],
          [{ replace: nodes("b") }, "nodes"]
        ] as const
        for (const [part, field] of wrong) {
          const error = yield* Effect.flip(store.Commit({ ...turn("t", 0), nodes: nodes("a"), ...part }))
          expect(error).toMatchObject({ _tag: "CommitRejected", field })
        }
        expect(yield* store.Get(s)).toMatchObject({ headRevision: 0, nodeCount: 0, artifactCount: 0, commitCount: 0 })
        expect(yield* store.Commit({ ...turn("t", 0), leaf: null })).toMatchObject({ headRevision: 1 })
      })
    )
  )
})

describe("a collection", () => {
  it.effect("deletes the orphan and keeps a checkpoint with its three refs", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const kept = yield* putCheckpoint("s")
        yield* store.PutBlob({ ...s, kind: "module", content: bytes("orphan") })
        yield* store.Commit({ ...turn("t", 0), checkpoint: kept[0] })
        const report = { rootCount: 1, retainedBlobCount: 4, youngBlobCount: 0, deletedBlobCount: 1 }
        expect(yield* store.Gc({ ...s, ...grace })).toEqual(report)
        expect(yield* blobs).toEqual(kept.toSorted())
        expect(yield* store.Gc({ ...s, ...grace })).toEqual({ ...report, deletedBlobCount: 0 })
      })
    )
  )

  it.effect("does not spare what a clock that ran ahead has dated", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        yield* TestClock.adjust("1 hours")
        yield* store.PutBlob({ ...s, kind: "module", content: bytes("ahead") })
        yield* TestClock.setTime(0)
        expect(yield* store.Gc(s)).toMatchObject({ youngBlobCount: 0, deletedBlobCount: 1 })
      })
    )
  )

  it.effect("spares the young, also those that were put again", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const put = (text: string) => store.PutBlob({ ...s, kind: "module", content: bytes(text) })
        yield* put("old")
        yield* put("again")
        yield* TestClock.adjust("9 minutes")
        yield* put("again")
        yield* put("young")
        yield* TestClock.adjust("1 minutes")
        expect(yield* store.Gc(s)).toEqual({
          rootCount: 0,
          retainedBlobCount: 0,
          youngBlobCount: 2,
          deletedBlobCount: 1
        })
        yield* TestClock.adjust("10 minutes")
        expect(yield* store.Gc(s)).toMatchObject({ youngBlobCount: 0, deletedBlobCount: 2 })
      })
    )
  )

  it.effect("after the commit, by itself, without a deadlock", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const kept = yield* putCheckpoint("s")
        yield* store.PutBlob({ ...s, kind: "module", content: bytes("orphan") })
        yield* store.Commit({ ...turn("t", 0), checkpoint: kept[0] })
        expect(yield* blobs).toEqual(kept.toSorted())
        yield* store.PutBlob({ ...s, kind: "module", content: bytes("orphan") })
        yield* store.Commit({ ...turn("t", 0), checkpoint: kept[0] })
        // A replay is no commit.
        expect((yield* blobs).length).toBe(5)
      }),
      { autoRunEveryCommits: 1, ...grace }
    )
  )

  it.effect("by itself after every so many commits only", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        yield* store.PutBlob({ ...s, kind: "module", content: bytes("orphan") })
        for (const [revision, left] of [1, 1, 0].entries()) {
          yield* store.Commit({ ...turn(`t${revision}`, revision) })
          expect((yield* blobs).length).toBe(left)
        }
      }),
      { autoRunEveryCommits: 3, ...grace }
    )
  )

  it.effect("with a live checkpoint that is damaged fails, deletes nothing, and commits go on", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const kept = yield* putCheckpoint("s")
        yield* store.Commit({ ...turn("t", 0), checkpoint: kept[0] })
        yield* store.PutBlob({ ...s, kind: "module", content: bytes("orphan") })
        for (const content of [bytes("{"), manifest({}), new Uint8Array(0)]) {
          yield* inFile("s", (sqlite) => sqlite.run("UPDATE blob SET content = ? WHERE hash = ?", [content, kept[0]]))
          for (const _ of [1, 2]) {
            expect(yield* Effect.flip(store.Gc({ ...s, ...grace }))).toMatchObject({
              _tag: "StoredDataCorrupt",
              what: "checkpoint",
              item: kept[0]
            })
          }
          expect((yield* blobs).length).toBe(5)
        }
        expect(yield* store.Commit({ ...turn("u", 1), nodes: nodes("a") })).toMatchObject({ headRevision: 2 })
        expect(yield* Effect.flip(store.GetBlob({ ...s, hash: kept[0] }))).toMatchObject({ what: "blob" })
        // Putting the same bytes again repairs it.
        yield* putCheckpoint("s")
        expect(yield* store.Gc({ ...s, ...grace })).toMatchObject({ retainedBlobCount: 4, deletedBlobCount: 1 })
      }),
      { autoRunEveryCommits: 1, ...grace }
    )
  )

  it.effect(
    "with a checkpoint that says it is compressed and is not, or with a head that makes no sense, fails, too",
    () =>
      withSession(
        Effect.gen(function* () {
          const store = yield* SessionStore
          const kept = yield* putCheckpoint("s")
          yield* store.Commit({ ...turn("t", 0), checkpoint: kept[0] })
          yield* store.PutBlob({ ...s, kind: "module", content: bytes("orphan") })
          const damages = [
            ["UPDATE blob SET compression = 'zstd'", "UPDATE blob SET compression = 'none'"],
            ["UPDATE session_head SET checkpoint_ref = 'x'", `UPDATE session_head SET checkpoint_ref = '${kept[0]}'`],
            ["UPDATE session_head SET head_revision = -1", "UPDATE session_head SET head_revision = 1"],
            ["UPDATE session_head SET session_id = 'other'", "UPDATE session_head SET session_id = 's'"],
            ["INSERT INTO artifact_ref VALUES ('a', 'x', 1, 'module')", "DELETE FROM artifact_ref"]
          ] as const
          for (const [damage, repair] of damages) {
            yield* inFile("s", (sqlite) => sqlite.run(damage))
            expect(yield* Effect.flip(store.Gc({ ...s, ...grace }))).toMatchObject({ _tag: "StoredDataCorrupt" })
            expect((yield* blobs).length).toBe(5)
            yield* inFile("s", (sqlite) => sqlite.run(repair))
          }
          expect(yield* store.Gc({ ...s, ...grace })).toMatchObject({ retainedBlobCount: 4, deletedBlobCount: 1 })
        })
      )
  )

  it.effect("visits one hash as a module and as a checkpoint, whose children survive", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const kept = yield* putCheckpoint("s")
        for (const artifacts of [
          [
            { artifactRef: "a", blobRef: kept[0], kind: "module" },
            { artifactRef: "b", blobRef: kept[0], kind: "checkpoint" }
          ],
          [
            { artifactRef: "a", blobRef: kept[0], kind: "checkpoint" },
            { artifactRef: "b", blobRef: kept[0], kind: "module" }
          ]
        ]) {
          const { headRevision } = yield* store.Get(s)
          yield* store.Commit({ ...turn(`t${headRevision}`, headRevision), artifacts })
          expect(yield* store.Gc({ ...s, ...grace })).toEqual({
            rootCount: 2,
            retainedBlobCount: 4,
            youngBlobCount: 0,
            deletedBlobCount: 0
          })
        }
        yield* store.Commit({
          ...turn("m", 2),
          artifacts: [{ artifactRef: "a", blobRef: null, kind: "module" }],
          checkpoint: kept[0]
        })
        yield* store.Commit({ ...turn("n", 3), artifacts: [{ artifactRef: "b", blobRef: kept[0], kind: "module" }] })
        expect(yield* store.Gc({ ...s, ...grace })).toMatchObject({ rootCount: 2, retainedBlobCount: 4 })
        yield* store.Commit({ ...turn("o", 4), checkpoint: null })
        // As a module only, it retains nobody.
        expect(yield* store.Gc({ ...s, ...grace })).toMatchObject({
          rootCount: 1,
          retainedBlobCount: 1,
          deletedBlobCount: 3
        })
      })
    )
  )

  it.effect("skips a root that is absent", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const kept = yield* putCheckpoint("s")
        const artifacts = [{ artifactRef: "a", blobRef: kept[1], kind: "module" }]
        yield* store.Commit({ ...turn("t", 0), checkpoint: kept[0], artifacts })
        yield* inFile("s", (sqlite) => sqlite.run("DELETE FROM blob WHERE hash = ?", [kept[0]]))
        expect(yield* store.Gc({ ...s, ...grace })).toMatchObject({
          rootCount: 2,
          retainedBlobCount: 1,
          deletedBlobCount: 2
        })
        yield* inFile("s", (sqlite) => sqlite.run("DELETE FROM blob"))
        expect(yield* store.Gc({ ...s, ...grace })).toMatchObject({
          rootCount: 2,
          retainedBlobCount: 0,
          deletedBlobCount: 0
        })
      })
    )
  )
})

describe("a fork", () => {
  it.effect("has the active path and what its checkpoint retains, and survives its source", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const kept = yield* putCheckpoint("s")
        const { hash: other } = yield* store.PutBlob({ ...s, kind: "module", content: bytes("other") })
        yield* store.Commit({
          ...turn("t", 0),
          nodes: nodes("root", "left:root", "right:root", "deep:left"),
          leaf: "deep",
          checkpoint: kept[0],
          artifacts: [{ artifactRef: "a", blobRef: other, kind: "module" }]
        })
        const fork = yield* store.Fork({ ...s, newSessionId: "f/../ö" })
        expect(fork).toMatchObject({
          sessionId: "f/../ö",
          relation: "child",
          parentSessionId: "s",
          headRevision: 0,
          leafNodeId: "deep",
          checkpointRef: kept[0],
          nodeCount: 3,
          blobCount: 4,
          artifactCount: 0
        })
        expect(yield* Effect.flip(store.Fork({ ...s, newSessionId: "f/../ö" }))).toMatchObject({
          _tag: "SessionExists"
        })
        yield* store.Remove(s)
        const f = { sessionId: "f/../ö" }
        expect(ids(yield* store.Graph({ ...f, active: true }))).toEqual(["root", "left", "deep"])
        for (const each of kept) expect((yield* store.GetBlob({ ...f, hash: each })).hash).toBe(each)
        expect(yield* store.Gc({ ...f, ...grace })).toMatchObject({ retainedBlobCount: 4, deletedBlobCount: 0 })
        yield* store.Commit({ ...f, turnId: "t", expectedRevision: 0, nodes: nodes("more:deep") })
        expect(yield* Effect.flip(store.Fork(s))).toMatchObject({ _tag: "SessionNotFound" })
      })
    )
  )

  it.effect("of what is damaged is refused, and leaves nothing", () =>
    withSession(
      Effect.gen(function* () {
        const store = yield* SessionStore
        const kept = yield* putCheckpoint("s")
        yield* store.Commit({ ...turn("t", 0), nodes: nodes("a", "b:a"), checkpoint: kept[0] })
        yield* inFile("s", (sqlite) => sqlite.run("DELETE FROM blob WHERE hash = ?", [kept[2]]))
        expect(yield* Effect.flip(store.Fork({ ...s, newSessionId: "f" }))).toMatchObject({
          _tag: "StoredDataCorrupt",
          item: kept[2]
        })
        expect(existsSync((yield* Paths).session(idOf("f")).database)).toBe(false)
      })
    )
  )
})
