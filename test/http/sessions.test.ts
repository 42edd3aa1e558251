/** Sessions over HTTP: the same store as everywhere, its answers and its refusals. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Effect, Layer, ManagedRuntime } from "effect"
import { makeApp } from "../../src/http/app.ts"
import { PluginHost } from "../../src/plugin/PluginHost.ts"
import { sessionsPlugin } from "../../src/plugin/sessions.ts"
import { Paths } from "../../src/store/files/Paths.ts"
import { spool } from "../../src/store/files/tempFile.ts"
import { hash } from "../support/sessions.ts"

describe("sessions over HTTP", () => {
  const home = mkdtempSync(path.join(tmpdir(), "bk-"))
  const runtime = ManagedRuntime.make(
    PluginHost.layer([sessionsPlugin], { options: { sessions: { durability: "process" } } }).pipe(
      Layer.provideMerge(Paths.layer(home))
    ) as unknown as Layer.Layer<PluginHost | Paths>
  )
  let app: ReturnType<typeof makeApp>
  const reported: Array<unknown> = []
  beforeAll(async () => {
    const context = await runtime.runPromise(Effect.context<PluginHost | Paths>())
    const host = await runtime.runPromise(PluginHost)
    const { temporary } = await runtime.runPromise(Paths)
    const run = Effect.runPromiseExitWith(context)
    app = makeApp({
      version: "0",
      host,
      run: (effect, signal) => run(effect, { signal }),
      spool: (body) => spool(temporary, body),
      ready: () => true,
      report: (cause) => void reported.push(cause)
    })
  })
  afterAll(async () => {
    await runtime.dispose()
    rmSync(home, { recursive: true, force: true })
    expect(reported).toEqual([])
  })

  const ask = async (method: string, url: string, body?: unknown, headers: Record<string, string> = {}) => {
    const raw = body instanceof Uint8Array || typeof body === "string"
    const response = await app.request(url, {
      method,
      headers,
      ...(body === undefined ? {} : { body: (raw ? body : JSON.stringify(body)) as string })
    })
    const text = await response.text()
    const json = response.headers.get("content-type")?.includes("json") && text !== "" && !text.includes("\n{")
    return { status: response.status, body: json ? (JSON.parse(text) as unknown) : text }
  }

  test("a session from its first turn to its end", async () => {
    expect(await ask("GET", "/v1/sessions")).toEqual({ status: 200, body: [] })
    const made = await ask("POST", "/v1/sessions", { session_id: "a/b ü", cwd: "/w" })
    expect(made).toMatchObject({ status: 201, body: { session_id: "a/b ü", relation: "root", head_revision: 0 } })
    const s = `/v1/sessions/${encodeURIComponent("a/b ü")}`
    const put = async (kind: string, content: string) => {
      const answer = await ask("PUT", `${s}/blobs/${hash(Buffer.from(content))}?kind=${kind}`, content)
      expect(answer).toEqual({ status: 201, body: { hash: hash(Buffer.from(content)) } })
      return hash(Buffer.from(content))
    }
    const tool = await put("tool_state", "tool")
    const checkpoint = await put("checkpoint", JSON.stringify({ turn_state: { fooBar: 1 }, tool_state_ref: tool }))
    await put("module", "")
    const commit = {
      turn_id: "t",
      expected_revision: 0,
      nodes: [
        { node_id: "r", parent_node_id: null, node: { role: "user", content: "hi", camelCase: { snake_case: 1 } } },
        { node_id: "x", parent_node_id: "r", node: null },
        { node_id: "y", parent_node_id: "r", node: [1] }
      ],
      checkpoint
    }
    const head = { head_revision: 1, leaf_node_id: "y", checkpoint_ref: checkpoint }
    expect(await ask("POST", `${s}/commit`, commit)).toEqual({ status: 200, body: head })
    expect(await ask("POST", `${s}/commit`, commit)).toEqual({ status: 200, body: head })
    expect(await ask("POST", `${s}/commit`, { ...commit, leaf: "x" })).toMatchObject({
      status: 409,
      body: { code: "TurnConflict" }
    })
    expect(await ask("POST", `${s}/commit`, { ...commit, turn_id: "u" })).toMatchObject({
      status: 409,
      body: { code: "HeadConflict", details: { session_id: "a/b ü", expected: 0, actual: 1 } }
    })
    expect(await ask("GET", `${s}/graph`)).toEqual({ status: 200, body: { head, nodes: commit.nodes } })
    expect(await ask("GET", `${s}/graph?leaf=x`)).toMatchObject({
      body: { nodes: [{ node_id: "r" }, { node_id: "x" }] }
    })
    expect(await ask("GET", `${s}/graph?active=true`)).toMatchObject({
      body: { nodes: [{ node_id: "r" }, { node_id: "y" }] }
    })
    expect(await ask("GET", `${s}/graph?leaf=zz`)).toMatchObject({ status: 404, body: { code: "NodeNotFound" } })
    expect(await ask("POST", `${s}/branch`, { leaf: "x" })).toMatchObject({
      body: { head_revision: 2, leaf_node_id: "x" }
    })
    expect(
      await ask("POST", `${s}/append`, { nodes: [{ node_id: "z", parent_node_id: "no", node: 1 }] })
    ).toMatchObject({
      status: 422,
      body: { code: "InvalidGraph", details: { node_id: "z", reason: "unknown_parent" } }
    })
    expect((await ask("POST", `${s}/tombstone`, { node_ids: ["y"] })).status).toBe(204)
    expect(await ask("POST", `${s}/vacuum`)).toMatchObject({ status: 200, body: { removed_node_count: 1 } })
    expect(await ask("POST", `${s}/gc`, { grace_period_ms: 0 })).toEqual({
      status: 200,
      body: { root_count: 1, retained_blob_count: 2, young_blob_count: 0, deleted_blob_count: 1 }
    })
    expect(await ask("GET", `${s}/blobs/${tool}`)).toEqual({ status: 200, body: "tool" })
    expect(await ask("POST", `${s}/fork`, { new_session_id: "kid" })).toMatchObject({
      status: 201,
      body: { session_id: "kid", parent_session_id: "a/b ü", node_count: 2, blob_count: 2 }
    })
    expect(await ask("GET", "/v1/sessions?limit=1")).toMatchObject({
      body: [{ user_message_count: 1, first_user_message: "hi" }]
    })
    expect(await ask("GET", s)).toMatchObject({ status: 200, body: { head_revision: 2, leaf_node_id: "x" } })

    const out = await ask("GET", `${s}/export`)
    expect(await ask("DELETE", s)).toEqual({ status: 200, body: { removed: true } })
    expect(await ask("DELETE", s)).toEqual({ status: 200, body: { removed: false } })
    expect(await ask("GET", s)).toMatchObject({ status: 404, body: { code: "SessionNotFound" } })
    const type = { "content-type": "application/x-ndjson" }
    expect(await ask("POST", "/v1/sessions/import?session_id=back", out.body, type)).toMatchObject({
      status: 201,
      body: { session_id: "back", head_revision: 2 }
    })
    expect(await ask("POST", "/v1/sessions/import?session_id=b2", `${out.body}x`, type)).toMatchObject({
      status: 422,
      body: { code: "SessionFileInvalid" }
    })
    expect(readdirSync(path.join(home, "cache/tmp"))).toEqual([])
  })

  test("blobs of any bytes, within their bounds and under their hash", async () => {
    await ask("POST", "/v1/sessions", { session_id: "b" })
    const large = new Uint8Array(5_000_000).map((_, index) => (index * 7919) >> 3)
    const url = `/v1/sessions/b/blobs/${hash(large)}`
    for (const type of [{}, { "content-type": "application/json" }, { "content-type": "application/octet-stream" }]) {
      expect((await ask("PUT", url, large, type as Record<string, string>)).status).toBe(201)
    }
    const back = await app.request(url)
    expect(back.headers.get("content-type")).toBe("application/octet-stream")
    expect(hash(new Uint8Array(await back.arrayBuffer()))).toBe(hash(large))
    expect(await ask("PUT", url, "other")).toMatchObject({ status: 422, body: { code: "BlobMismatch" } })
    const tooLarge = new Uint8Array(64 * 1024 * 1024 + 1)
    expect(await ask("PUT", url, tooLarge)).toMatchObject({ status: 413, body: { code: "BodyTooLarge" } })
    expect(await ask("PUT", `${url}?kind=No Kind`, large)).toMatchObject({
      status: 400,
      body: { code: "InvalidInput" }
    })
    expect(await ask("GET", `/v1/sessions/b/blobs/${"0".repeat(64)}`)).toMatchObject({
      status: 404,
      body: { code: "BlobNotFound" }
    })
    expect(await ask("GET", "/v1/sessions/b/blobs/abc")).toMatchObject({ status: 400, body: { code: "InvalidInput" } })
    expect(await ask("PUT", `/v1/sessions/none/blobs/${hash(large)}`, large)).toMatchObject({
      status: 404,
      body: { code: "SessionNotFound" }
    })
    expect(readdirSync(path.join(home, "cache/tmp"))).toEqual([])
  })

  test("wrong input is refused with its field, and names no path of the server", async () => {
    await ask("POST", "/v1/sessions", { session_id: "w" })
    const long = "x".repeat(257)
    const wrong = [
      ["POST", "/v1/sessions", { session_id: "" }, 400, "InvalidSessionId"],
      ["POST", "/v1/sessions", { session_id: 1 }, 400, "session_id"],
      ["POST", "/v1/sessions", { sessionId: "x" }, 400, "sessionId"],
      ["POST", "/v1/sessions", { session_id: "w", exclusive: true }, 409, "SessionExists"],
      ["GET", "/v1/sessions?limit=0", undefined, 400, "limit"],
      ["GET", "/v1/sessions?limit=x", undefined, 400, "limit"],
      ["GET", "/v1/sessions?foo=1", undefined, 400, "foo"],
      ["GET", "/v1/sessions/none", undefined, 404, "SessionNotFound"],
      ["GET", "/v1/sessions/a%00b", undefined, 400, "InvalidSessionId"],
      ["GET", `/v1/sessions/${"x".repeat(201)}`, undefined, 400, "InvalidSessionId"],
      ["POST", "/v1/sessions/w/commit", {}, 400, "turn_id"],
      ["POST", "/v1/sessions/w/commit", { turn_id: long, expected_revision: 0 }, 400, "turn_id"],
      ["POST", "/v1/sessions/w/commit", { turn_id: "t", expected_revision: -1 }, 400, "expected_revision"],
      [
        "POST",
        "/v1/sessions/w/commit",
        { turn_id: "t", expected_revision: 0, nodes: [{ node_id: "a", node: 1 }] },
        400,
        "nodes.0.parent_node_id"
      ],
      [
        "POST",
        "/v1/sessions/w/commit",
        { turn_id: "t", expected_revision: 0, nodes: [{ node_id: "a", parent_node_id: null }] },
        400,
        "nodes.0.node"
      ],
      ["POST", "/v1/sessions/w/commit", { turn_id: "t", expected_revision: 0, checkpoint: "abc" }, 400, "checkpoint"],
      [
        "POST",
        "/v1/sessions/w/commit",
        { turn_id: "t", expected_revision: 0, checkpoint: "0".repeat(64) },
        422,
        "CommitRejected"
      ],
      [
        "POST",
        "/v1/sessions/w/commit",
        { turn_id: "t", expected_revision: 0, nodes: [], replace: [] },
        422,
        "CommitRejected"
      ],
      ["POST", "/v1/sessions/w/commit", "[1", 400, "BadRequest"],
      ["POST", "/v1/sessions/w/branch", {}, 400, "leaf"],
      ["POST", "/v1/sessions/w/branch", { leaf: "n" }, 404, "NodeNotFound"],
      ["POST", "/v1/sessions/w/gc", { grace_period_ms: -1 }, 400, "grace_period_ms"],
      ["POST", "/v1/sessions/w/fork", { new_session_id: "w" }, 409, "SessionExists"],
      ["PUT", "/v1/sessions/w", {}, 405, "MethodNotAllowed"],
      [
        "POST",
        "/v1/sessions/w/commit",
        `{"turn_id":"t","expected_revision":0,"nodes":[{"node_id":"a","parent_node_id":null,"node":${"[".repeat(600)}${"]".repeat(600)}}]}`,
        422,
        "too_deep"
      ],
      ["POST", "/v1/sessions/w/commit", { turn_id: "x".repeat(1_100_000) }, 413, "BodyTooLarge"]
    ] as const
    for (const [method, url, body, status, words] of wrong) {
      const answer = await ask(method, url, body)
      expect({ url, body: JSON.stringify(body ?? null).slice(0, 100), status: answer.status }).toMatchObject({ status })
      expect(JSON.stringify(answer.body)).toContain(words)
      expect(JSON.stringify(answer.body)).not.toContain(home)
    }
    expect(await ask("GET", "/v1/sessions/w")).toMatchObject({ body: { head_revision: 0, node_count: 0 } })
  })
})
