/** Sessions from a program of one's own: the same actor, promises; embedded and of a server. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { HeadConflict, SessionNotFound, Sessions } from "../../src/sdk/index.ts"
import { program } from "../support/bunker.ts"
import { startServer, type TestServer } from "../support/server.ts"
import { bytes, hash, manifest, nodes } from "../support/sessionData.ts"

const doors = existsSync(program) ? ["embedded", "of a server"] : ["embedded"]
if (doors.length === 1) console.warn("skipped: sessions of a server; missing: dist/bunker ('bun run build' makes it)")

describe.each(doors)("Sessions %s", (door) => {
  const home = mkdtempSync(path.join(tmpdir(), "bk-"))
  const own = { gracePeriodMs: 0, autoRunEveryCommits: 2 }
  let options: ConstructorParameters<typeof Sessions>[0] = { home, ...own }
  let server: TestServer | undefined
  beforeAll(async () => {
    if (door === "embedded") return
    const config = `export default { options: { sessions: ${JSON.stringify(own)} } }`
    writeFileSync(path.join(home, "bunker.config.ts"), config)
    server = await startServer(home, "tcp")
    options = { server: server.options }
  }, 60_000)
  afterAll(async () => {
    await server?.stop()
    rmSync(home, { recursive: true, force: true })
  })

  test("everything that a session does, and failures are the tagged errors themselves", async () => {
    await using sessions = new Sessions(options)
    const { sessionId: id } = await sessions.create({ title: "T" })
    const tool = await sessions.putBlob(id, bytes("tool"), { kind: "tool_state" })
    expect(tool).toBe(hash(bytes("tool")))
    const checkpoint = await sessions.putBlob(id, manifest({ tool }), { kind: "checkpoint" })
    const head = await sessions.commit(id, {
      turnId: "1",
      expectedRevision: 0,
      nodes: nodes("a", "b:a", "c:a"),
      checkpoint
    })
    expect(head).toEqual({ headRevision: 1, leafNodeId: "c", checkpointRef: checkpoint })
    expect(await sessions.commit(id, { turnId: "2", expectedRevision: 0 }).catch((error) => error)).toBeInstanceOf(
      HeadConflict
    )
    expect((await sessions.load(id)).nodes).toHaveLength(3)
    expect((await sessions.loadActivePath(id)).nodes.map((node) => node.nodeId)).toEqual(["a", "c"])
    expect((await sessions.loadActivePath(id, "b")).nodes.map((node) => node.nodeId)).toEqual(["a", "b"])
    await sessions.branch(id, "b")
    await sessions.append(id, nodes("d:b"))
    await sessions.tombstone(id, ["c"])
    expect(await sessions.vacuum(id)).toMatchObject({ removedNodeCount: 1 })
    const orphan = await sessions.putBlob(id, bytes("orphan"))
    await sessions.commit(id, { turnId: "3", expectedRevision: 2 })
    const many = crypto.getRandomValues(new Uint8Array(60_000))
    expect(await sessions.getBlob(id, await sessions.putBlob(id, many, { compressible: false }))).toEqual(many)
    expect(await sessions.getBlob(id, orphan).catch((error) => error._tag)).toBe("BlobNotFound")
    expect(await sessions.getBlob(id, tool)).toEqual(bytes("tool"))
    expect(await sessions.gc(id)).toMatchObject({ retainedBlobCount: 2, deletedBlobCount: 1 })
    const fork = await sessions.fork(id, "fork")
    expect(fork).toMatchObject({ sessionId: "fork", parentSessionId: id, nodeCount: 2 })
    expect(await sessions.replace("fork", nodes("x"))).toMatchObject({ leafNodeId: null })
    expect((await sessions.list({ limit: 5 })).map((each) => each.sessionId).toSorted()).toEqual(
      ["fork", id].toSorted()
    )

    const pieces: Array<Uint8Array> = []
    for await (const piece of sessions.export(id)) pieces.push(piece)
    const file = path.join(home, "export.jsonl")
    writeFileSync(file, Buffer.concat(pieces))
    expect(await sessions.import(file, "back")).toMatchObject({ sessionId: "back", headRevision: 3, nodeCount: 3 })
    expect(await sessions.remove(id)).toBe(true)
    expect(await sessions.remove(id)).toBe(false)
    expect(await sessions.get(id).catch((error) => error)).toBeInstanceOf(SessionNotFound)
    const odd = "a/ü %2F?#"
    await sessions.create({ sessionId: odd, exclusive: true })
    expect(await sessions.getBlob(odd, await sessions.putBlob(odd, bytes("x")))).toEqual(bytes("x"))
    expect((await sessions.get(odd)).sessionId).toBe(odd)
  })
})
