/** Session files: opened, listed, removed, shared by processes, killed. */
import { Database as Sqlite } from "bun:sqlite"
import { describe, expect, setDefaultTimeout } from "bun:test"
import { existsSync, readdirSync, statSync, utimesSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { makeHandles } from "../../../../src/actors/sessions/openFiles.ts"
import { SessionStore } from "../../../../src/actors/sessions/SessionStore.ts"
import { readCheckpoint, sessionStem } from "../../../../src/domain/session/session.ts"
import { parts } from "../../../../src/store/database/migrations.ts"
import { blobStatements } from "../../../../src/store/database/session/blobs.ts"
import { collectStatements } from "../../../../src/store/database/session/collect.ts"
import { commitStatements } from "../../../../src/store/database/session/commit.ts"
import { fileStatements } from "../../../../src/store/database/session/files.ts"
import { graphStatements } from "../../../../src/store/database/session/graph.ts"
import { graphCheckStatements } from "../../../../src/store/database/session/graphCheck.ts"
import { headStatements } from "../../../../src/store/database/session/head.ts"
import { listingStatements } from "../../../../src/store/database/session/listing.ts"
import { portableStatements } from "../../../../src/store/database/session/portable.ts"
import { importStatements } from "../../../../src/store/database/session/portableImport.ts"
import { sessionMigrations } from "../../../../src/store/database/session/schema.ts"
import { summaryStatements } from "../../../../src/store/database/session/summary.ts"
import { Paths } from "../../../../src/store/files/Paths.ts"
import { temporaryDirectory } from "../../../support/home.ts"
import { it } from "../../../support/it.ts"
import { runSessions, startSessions } from "../../../support/sessionChild.ts"
import { bytes, freshSessions, hash, idOf, inFile, node, nodes, sessionsAt } from "../../../support/sessions.ts"

const s = { sessionId: "s" }
setDefaultTimeout(120_000)

describe("a session's file", () => {
  it.live("opened by 16 processes at once, fresh", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      const body = `say((await go(home, {}, SessionStore.use((s) => s.Create({ sessionId: "s", cwd: "/c" })))).sessionId)`
      const answers = yield* Effect.promise(() =>
        Promise.all(Array.from({ length: 16 }, () => runSessions(home, body)))
      )
      expect(answers).toEqual(Array.from({ length: 16 }, () => "s"))
      expect(readdirSync(path.join(home, "sessions"))).toEqual([`${sessionStem(idOf("s"))}.db`])
      expect(readdirSync(path.join(home, "cache/tmp"))).toEqual([])
    })
  )

  it.live("written by two processes on one revision: one wins", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      yield* SessionStore.use((store) => store.Create(s)).pipe(Effect.provide(sessionsAt(home)))
      const body = (id: string) => `
        const result = await go(home, {}, SessionStore.use((s) => Effect.result(s.Commit({
          sessionId: "s", turnId: "${id}", expectedRevision: 0, nodes: [{ nodeId: "${id}", parentNodeId: null, node: {} }] }))))
        say(result._tag === "Success" ? result.success.headRevision : result.failure._tag)`
      const answers = yield* Effect.promise(() => Promise.all(["p", "q", "r"].map((id) => runSessions(home, body(id)))))
      expect(answers.toSorted()).toEqual(["1", "HeadConflict", "HeadConflict"])
    })
  )

  it.live("what a commit answered survives SIGKILL", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      const child = startSessions(
        home,
        `await go(home, {}, Effect.gen(function* () {
          const s = yield* SessionStore
          yield* s.Create({ sessionId: "s" })
          for (let i = 0; ; i += 1) {
            yield* s.Commit({ sessionId: "s", turnId: "t" + i, expectedRevision: i, nodes: [{ nodeId: "n" + i, parentNodeId: i === 0 ? null : "n" + (i - 1), node: {} }] })
            say(i + "\\n")
            yield* Effect.sleep(0)
          }
        }))`
      )
      let said = ""
      yield* Effect.promise(async () => {
        for await (const chunk of child.stdout) {
          said += new TextDecoder().decode(chunk)
          if (said.split("\n").length > 20) child.kill("SIGKILL")
        }
        await child.exited
      })
      const last = Number(said.trim().split("\n").at(-1))
      yield* Effect.gen(function* () {
        const store = yield* SessionStore
        const { head, nodes: found } = yield* store.Graph({ ...s, active: true })
        expect(found.length).toBeGreaterThan(last)
        expect(head.headRevision).toBe(found.length)
        yield* inFile("s", (sqlite) => expect(sqlite.query("PRAGMA integrity_check").values()).toEqual([["ok"]]))
      }).pipe(Effect.provide(sessionsAt(home)))
    })
  )

  it.effect("of a newer build is refused, naming both versions, and stays as it is", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Create(s)
      yield* inFile("s", (sqlite) => sqlite.run("PRAGMA user_version = 9"))
      // A store that has it open goes on; one that opens it does not.
      const home = (yield* Paths).home
      yield* Effect.gen(function* () {
        const other = yield* SessionStore
        const error = yield* Effect.flip(other.Get(s))
        expect(error).toMatchObject({ _tag: "SchemaMismatch", found: 9, known: sessionMigrations.length })
        expect(error.message).toContain("9")
        const [listed] = yield* other.List({})
        expect(listed?.problem).toContain("9")
      }).pipe(Effect.provide(sessionsAt(home)))
      yield* inFile("s", (sqlite) => expect(sqlite.query("PRAGMA user_version").values()).toEqual([[9]]))
    }).pipe(Effect.provide(freshSessions()))
  )

  it.effect("is its owner's alone, named by what is safe of the id and its hash", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      const { sessions } = yield* Paths
      for (const sessionId of ["../../etc/passwd", ".", "ä/ö", "x".repeat(200), "-v", "a b"]) {
        expect((yield* store.Create({ sessionId })).sessionId).toBe(sessionId)
      }
      const files = readdirSync(sessions).filter((name) => name.endsWith(".db"))
      expect(files).toHaveLength(6)
      for (const file of files) {
        expect(file).toMatch(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,47}-[0-9a-f]{16}\.db$/)
        expect(statSync(path.join(sessions, file)).mode & 0o777).toBe(0o600)
      }
      for (const sessionId of ["", "x".repeat(201), "a\nb", "\x9b", "\ud800"]) {
        expect(yield* Effect.flip(store.Create({ sessionId }))).toMatchObject({ _tag: "InvalidSessionId" })
      }
    }).pipe(Effect.provide(freshSessions()))
  )

  it.effect("is made once: again answers what is there, exclusively fails", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Create({ ...s, cwd: "/w", title: "T", parentSessionId: "p" })
      expect(yield* store.Create({ ...s, cwd: "/other" })).toMatchObject({
        cwd: "/w",
        title: "T",
        relation: "child",
        parentSessionId: "p"
      })
      expect(yield* Effect.flip(store.Create({ ...s, exclusive: true }))).toMatchObject({ _tag: "SessionExists" })
      const made = yield* store.Create({})
      expect(made).toMatchObject({
        relation: "root",
        headRevision: 0,
        leafNodeId: null,
        firstUserMessage: null,
        userMessageCount: 0
      })
      expect(yield* Effect.flip(store.Get({ sessionId: "none" }))).toMatchObject({ _tag: "SessionNotFound" })
    }).pipe(Effect.provide(freshSessions()))
  )

  it.effect("goes with its log; twice is fine; and whoever has it open notices", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      const paths = yield* Paths
      const turn = (turnId: string, expectedRevision: number) => ({ ...s, turnId, expectedRevision })
      yield* store.Create(s)
      yield* Effect.gen(function* () {
        const other = yield* SessionStore
        yield* other.Commit({ ...turn("t", 0), nodes: nodes("a") })
        expect(yield* store.Remove(s)).toEqual({ removed: true })
        expect(yield* store.Remove(s)).toEqual({ removed: false })
        expect(readdirSync(paths.sessions)).toEqual([])
        expect(yield* Effect.flip(other.Commit({ ...turn("u", 1) }))).toMatchObject({ _tag: "SessionNotFound" })
        yield* store.Create(s)
        expect(yield* other.Get(s)).toMatchObject({ headRevision: 0, nodeCount: 0 })
        yield* other.Commit({ ...turn("t", 0), nodes: nodes("b") })
        expect((yield* store.Graph(s)).nodes).toMatchObject([{ nodeId: "b" }])
      }).pipe(Effect.provide(sessionsAt(paths.home)))
      expect(readdirSync(paths.sessions).filter((name) => name.endsWith(".db"))).toHaveLength(1)
    }).pipe(Effect.provide(freshSessions()))
  )

  it.effect("that is no database is said to be damaged, and can be removed", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      const paths = yield* Paths
      writeFileSync(paths.session(idOf("s")).database, "this is no database".repeat(1000))
      expect(yield* Effect.flip(store.Get(s))).toMatchObject({ _tag: "StoredDataCorrupt", what: "file" })
      expect((yield* store.List({}))[0]?.problem).toContain("damaged")
      expect(yield* store.Remove(s)).toEqual({ removed: true })
      expect(readdirSync(paths.sessions)).toEqual([])
    }).pipe(Effect.provide(freshSessions()))
  )
})

describe("a list", () => {
  it.effect("tells of the last changed first, and opens no more than it shows", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      const paths = yield* Paths
      const words = (role: string, content: unknown) => ({ role, content: content as string })
      for (const [index, sessionId] of ["a", "b", "c"].entries()) {
        yield* TestClock.adjust(1000)
        yield* store.Create({ sessionId, cwd: `/${sessionId}` })
        yield* store.Commit({
          sessionId,
          turnId: "t",
          expectedRevision: 0,
          nodes: [
            node("n0", null, words("system", "no")),
            node("n1", "n0", words("user", [{ type: "text", text: `hello ${sessionId}` }])),
            node("n2", "n1", words("assistant", "no")),
            node("n3", "n2", { type: "user", message: { content: "again" } })
          ]
        })
        const { database } = paths.session(idOf(sessionId))
        yield* inFile(sessionId, (sqlite) => sqlite.run("PRAGMA wal_checkpoint(TRUNCATE)"))
        utimesSync(database, 1000 + index, 1000 + index)
      }
      const listed = yield* store.List({})
      expect(listed.map((each) => each.sessionId)).toEqual(["c", "b", "a"])
      expect(listed[0]).toEqual({
        sessionId: "c",
        cwd: "/c",
        title: null,
        relation: "root",
        parentSessionId: null,
        createdAt: 3000,
        updatedAt: 3000,
        headRevision: 1,
        firstUserMessage: "hello c",
        userMessageCount: 2,
        problem: null
      })
      // What is not shown is not opened: it could not be.
      const { database } = paths.session(idOf("a"))
      writeFileSync(database, "no database")
      utimesSync(database, 1, 1)
      expect((yield* store.List({ limit: 2 })).map((each) => each.problem)).toEqual([null, null])
      expect((yield* store.List({ limit: 1, offset: 1 })).map((each) => each.sessionId)).toEqual(["b"])
      expect((yield* store.List({}))[2]?.problem).not.toBeNull()
    }).pipe(Effect.provide(freshSessions()))
  )

  it.effect("counts a tombstoned message no more", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Create(s)
      const user = (id: string, content: string) => node(id, null, { role: "user", content })
      yield* store.Append({ ...s, nodes: [user("a", "one"), user("b", "x".repeat(300)), user("c", "three")] })
      yield* store.Tombstone({ ...s, nodeIds: ["a"] })
      const info = yield* store.Get(s)
      expect(info).toMatchObject({ userMessageCount: 2, nodeCount: 2, tombstonedNodeCount: 1 })
      expect(info.firstUserMessage).toBe(`${"x".repeat(199)}…`)
    }).pipe(Effect.provide(freshSessions()))
  )
})

describe("blobs", () => {
  const stored = (hashed: string) =>
    inFile("s", (sqlite) =>
      sqlite.query("SELECT compression, length(content) AS size, kind FROM blob WHERE hash = ?").get(hashed)
    )

  for (const [compression, from] of [
    ["balanced", 4096],
    ["compact", 1024],
    ["low_latency", undefined]
  ] as const) {
    it.effect(`are compressed from ${from ?? "no"} bytes with profile ${compression}`, () =>
      Effect.gen(function* () {
        const store = yield* SessionStore
        yield* store.Create(s)
        for (const size of [0, 1, 1023, 1024, 4095, 4096, 100_000]) {
          const content = new Uint8Array(size).fill(7)
          for (const compressible of [true, false]) {
            const put = yield* store.PutBlob({ ...s, kind: `k_${compressible}`, content, compressible })
            expect(put.hash).toBe(hash(content))
            expect((yield* store.GetBlob({ ...s, hash: put.hash })).content).toEqual(content)
          }
          const zstd = from !== undefined && size >= from
          expect(yield* stored(hash(content))).toMatchObject({ compression: zstd ? "zstd" : "none", kind: "k_true" })
          if (zstd) expect((yield* stored(hash(content))) as object).toHaveProperty("size", expect.any(Number))
        }
        // What does not shrink stays as it is.
        const noise = crypto.getRandomValues(new Uint8Array(10_000))
        yield* store.PutBlob({ ...s, kind: "k", content: noise })
        expect(yield* stored(hash(noise))).toMatchObject({ compression: "none", size: 10_000 })
      }).pipe(Effect.provide(freshSessions({ compression })))
    )
  }

  it.effect("are verified when they are read, and repaired when they are put again", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Create(s)
      const content = bytes("a".repeat(5000))
      const { hash: key } = yield* store.PutBlob({ ...s, kind: "module", content })
      for (const damage of ["zeroblob(3)", "zeroblob(0)", "x'28b52ffd'"]) {
        yield* inFile("s", (sqlite) => sqlite.run(`UPDATE blob SET content = ${damage}`))
        expect(yield* Effect.flip(store.GetBlob({ ...s, hash: key }))).toMatchObject({
          _tag: "StoredDataCorrupt",
          item: key
        })
        yield* store.PutBlob({ ...s, kind: "module", content })
        expect((yield* store.GetBlob({ ...s, hash: key })).content).toEqual(content)
      }
      const wrong = hash(bytes("b"))
      expect(yield* Effect.flip(store.PutBlob({ ...s, kind: "module", content, hash: wrong }))).toMatchObject({
        _tag: "BlobMismatch"
      })
      expect(yield* Effect.flip(store.GetBlob({ ...s, hash: wrong }))).toMatchObject({ _tag: "BlobNotFound" })
      const large = new Uint8Array(64 * 1024 * 1024 + 1)
      expect(yield* Effect.flip(store.PutBlob({ ...s, kind: "module", content: large }))).toMatchObject({
        _tag: "BlobTooLarge"
      })
    }).pipe(Effect.provide(freshSessions()))
  )

  it.effect("whose hashes begin alike live side by side", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Create(s)
      const { hash: key } = yield* store.PutBlob({ ...s, kind: "module", content: bytes("x") })
      // Others have taken its key and the next six.
      yield* inFile("s", (sqlite) => {
        for (let probe = 6; probe >= 0; probe -= 1) {
          sqlite.run("UPDATE blob SET id = id + 7 WHERE hash = ?", [probe === 6 ? key : ""])
          sqlite.run(
            "INSERT INTO blob SELECT ?, printf('%064x', ?), kind, compression, created_at, content FROM blob WHERE hash = ?",
            [Number.parseInt(key.slice(0, 13), 16) + probe, probe, key]
          )
        }
      })
      expect((yield* store.GetBlob({ ...s, hash: key })).content).toEqual(bytes("x"))
      yield* store.PutBlob({ ...s, kind: "module", content: bytes("x") })
      yield* store.Commit({
        ...s,
        turnId: "t",
        expectedRevision: 0,
        artifacts: [{ artifactRef: "a", blobRef: key, kind: "module" }]
      })
      expect(yield* store.Gc({ ...s, gracePeriodMs: 0 })).toMatchObject({ retainedBlobCount: 1, deletedBlobCount: 7 })
    }).pipe(Effect.provide(freshSessions()))
  )

  it.effect("a checkpoint is read with care", () =>
    Effect.sync(() => {
      for (const text of ["", "[]", "null", "1", '{"tool_state_ref": 1}', '{"plugin_snapshot_ref": "abc"}', "\xff"]) {
        expect(readCheckpoint(Buffer.from(text, "latin1"))._tag).toBe("Failure")
      }
      expect(readCheckpoint(bytes("{}"))).toMatchObject({ _tag: "Success", success: { refs: [] } })
    })
  )
})

describe("open files", () => {
  it.effect("are few, the least recently used closed first, and close when idle", () =>
    Effect.gen(function* () {
      const home = yield* temporaryDirectory
      yield* Effect.gen(function* () {
        const store = yield* SessionStore
        const paths = yield* Paths
        const all = Array.from({ length: 6 }, (_, index) => `s${index}`)
        for (const sessionId of all) yield* store.Create({ sessionId })
        const handles = yield* makeHandles(paths, { durability: "process", handlesMax: 3, idleMs: 1000 })
        const touch = (id: string) => handles.use("read", idOf(id), () => ({ _tag: "Success", success: 0 }) as never)
        for (const id of [...all, "s3"]) yield* touch(id)
        expect(handles.openCount()).toBe(3)
        yield* TestClock.adjust(600)
        yield* touch("s3")
        yield* TestClock.adjust(600)
        expect(handles.openCount()).toBe(1)
        yield* TestClock.adjust(2000)
        expect(handles.openCount()).toBe(0)
        yield* Effect.scoped(Layer.build(Layer.empty))
      }).pipe(Effect.scoped, Effect.provide(sessionsAt(home)))
      // The last one out folds the log into the file.
      expect(readdirSync(path.join(home, "sessions")).filter((name) => !name.endsWith(".db"))).toEqual([])
      expect(existsSync(path.join(home, "sessions"))).toBe(true)
    })
  )
})

describe("the schema", () => {
  /** Statements that are meant to read all of a table. */
  const whole: ReadonlySet<string> = new Set([
    ...Object.values(graphCheckStatements),
    graphStatements.load,
    graphStatements.size,
    ...Object.values(collectStatements),
    ...Object.values(portableStatements),
    importStatements.artifacts,
    importStatements.nodes,
    importStatements.rooted,
    importStatements.markOrphans,
    summaryStatements.nodes,
    summaryStatements.blobs,
    summaryStatements.artifacts,
    graphStatements.clear
  ])
  const groups = {
    headStatements,
    graphStatements,
    graphCheckStatements,
    blobStatements,
    commitStatements,
    collectStatements,
    fileStatements,
    summaryStatements,
    listingStatements,
    portableStatements,
    importStatements
  }
  const fresh = () => {
    const sqlite = new Sqlite(":memory:")
    for (const migration of sessionMigrations) sqlite.run(parts(migration.text).up)
    sqlite.run("CREATE TEMP TABLE live (id INTEGER PRIMARY KEY) STRICT")
    return sqlite
  }

  it.live("no lookup scans a table, bar those that list everything", () =>
    Effect.sync(() => {
      const sqlite = fresh()
      for (const [group, statements] of Object.entries(groups)) {
        for (const [name, sql] of Object.entries(statements)) {
          const plan = sqlite
            .query<{ detail: string }, []>(`EXPLAIN QUERY PLAN ${sql}`)
            .all()
            .map((row) => row.detail)
          const scans = plan.filter(
            (step) => /^SCAN (?!path|CONSTANT|\d+-ROW VALUES)/.test(step) && !/graph_node_(user|tombstoned)/.test(step)
          )
          if (!whole.has(sql)) expect({ group, name, scans }).toEqual({ group, name, scans: [] })
        }
      }
      // The sweep walks the keys; what is live is looked up, and so is what a reference names.
      const steps = (sql: string) =>
        sqlite
          .query<{ detail: string }, []>(`EXPLAIN QUERY PLAN ${sql}`)
          .all()
          .map((row) => row.detail)
          .join("; ")
      expect(steps(collectStatements.sweep)).toMatch(
        /SEARCH blob USING INTEGER PRIMARY KEY.*SEARCH temp.live USING INTEGER PRIMARY KEY/
      )
      expect(steps(collectStatements.mark)).toMatch(/SEARCH blob USING INTEGER PRIMARY KEY/)
      expect(steps(collectStatements.markArtifacts)).toMatch(/SCAN a.*SEARCH b USING INTEGER PRIMARY KEY/)
      sqlite.close()
    })
  )

  it.live("down undoes up, and every migration is a file", () =>
    Effect.sync(() => {
      const sqlite = new Sqlite(":memory:")
      for (const migration of sessionMigrations) sqlite.run(parts(migration.text).up)
      for (const migration of sessionMigrations.toReversed()) sqlite.run(parts(migration.text).down)
      expect(sqlite.query("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'").all()).toEqual([])
      const files = readdirSync(path.join(import.meta.dir, "../../../../migrations/session"))
      expect(files).toEqual(
        sessionMigrations.map(({ version, name }) => `${String(version).padStart(4, "0")}_${name}.sql`)
      )
    })
  )
})
