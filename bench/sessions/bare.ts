/** The work of a session store written directly over bun:sqlite, on the same tables: the limit for commits, loads and collections. */
import { Database as Sqlite } from "bun:sqlite"
import fs from "node:fs"
import path from "node:path"

const schema = fs.readFileSync(path.join(import.meta.dirname, "../../migrations/session/0001_init.sql"), "utf8")

export type Synchronous = "FULL" | "NORMAL"

export const openBare = (file: string, synchronous: Synchronous): Sqlite => {
  const sqlite = new Sqlite(file, { create: true, strict: true })
  sqlite.run("PRAGMA journal_mode=WAL")
  sqlite.run(`PRAGMA synchronous=${synchronous}`)
  return sqlite
}

export const makeBare = (file: string, synchronous: Synchronous): Sqlite => {
  const sqlite = openBare(file, synchronous)
  sqlite.run(schema.slice(schema.indexOf("-- up"), schema.indexOf("-- down")))
  sqlite.run("INSERT INTO session_head (id, session_id, head_revision, updated_at) VALUES (1, 's', 0, 0)")
  sqlite.run("INSERT INTO session_meta VALUES (1, 0, NULL, 'root', NULL, NULL)")
  sqlite.run("PRAGMA user_version = 1")
  return sqlite
}

interface Node {
  readonly nodeId: string
  readonly parentNodeId: string | null
  readonly node: unknown
}

/** A commit function with its statements prepared. */
export const bareCommit = (sqlite: Sqlite) => {
  const begin = sqlite.prepare("BEGIN IMMEDIATE")
  const end = sqlite.prepare("COMMIT")
  const stamp = sqlite.prepare("SELECT payload_hash, result FROM commit_stamp WHERE session_id = ? AND turn_id = ?")
  const head = sqlite.prepare("SELECT head_revision FROM session_head WHERE id = 1")
  const parent = sqlite.prepare("SELECT 1 FROM graph_node WHERE node_id = ? AND tombstoned = 0")
  const insert = sqlite.prepare(
    "INSERT INTO graph_node (node_id, parent_node_id, node_json, user_message) VALUES (?, ?, ?, ?)"
  )
  const move = sqlite.prepare(
    "UPDATE session_head SET head_revision = ?, leaf_node_id = ?, commit_count = commit_count + 1, updated_at = ? WHERE id = 1"
  )
  const put = sqlite.prepare("INSERT INTO commit_stamp VALUES (?, ?, ?, ?)")
  return (turnId: string, expected: number, nodes: ReadonlyArray<Node>): number => {
    const texts = nodes.map(({ node }) => JSON.stringify(node))
    const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify(nodes)).digest("hex")
    begin.run()
    if (stamp.get("s", turnId) !== null) throw new Error("a replay")
    if ((head.get() as { head_revision: number }).head_revision !== expected) throw new Error("a conflict")
    const { parentNodeId } = nodes[0]!
    if (parentNodeId !== null && parent.get(parentNodeId) === null) throw new Error("no parent")
    for (const [index, { nodeId, parentNodeId: above, node }] of nodes.entries()) {
      insert.run(nodeId, above, texts[index]!, (node as { role?: string }).role === "user" ? 1 : 0)
    }
    const leaf = nodes.at(-1)!.nodeId
    move.run(expected + 1, leaf, Date.now())
    put.run(
      "s",
      turnId,
      hash,
      JSON.stringify({ head_revision: expected + 1, leaf_node_id: leaf, checkpoint_ref: null })
    )
    end.run()
    return expected + 1
  }
}

/** The path to a leaf, parsed. */
export const barePath = (sqlite: Sqlite, leaf: string): ReadonlyArray<unknown> => {
  const rows = sqlite
    .query(
      `WITH RECURSIVE path (seq, parent_node_id) AS (
        SELECT seq, parent_node_id FROM graph_node WHERE node_id = ?
        UNION ALL SELECT g.seq, g.parent_node_id FROM path JOIN graph_node g ON g.node_id = path.parent_node_id
      ) SELECT g.node_id, g.parent_node_id, g.node_json FROM path CROSS JOIN graph_node g ON g.seq = path.seq`
    )
    .all(leaf) as Array<{ node_id: string; parent_node_id: string | null; node_json: string }>
  return rows
    .reverse()
    .map((row) => ({ nodeId: row.node_id, parentNodeId: row.parent_node_id, node: JSON.parse(row.node_json) }))
}

const key = (hash: string): number => Number.parseInt(hash.slice(0, 13), 16)

/** Mark and sweep in one transaction; answers how many went. */
export const bareCollect = (sqlite: Sqlite): number => {
  sqlite.run("BEGIN IMMEDIATE")
  sqlite.run("CREATE TEMP TABLE live (id INTEGER PRIMARY KEY) STRICT")
  sqlite.run(
    "INSERT OR IGNORE INTO live SELECT b.id FROM (SELECT blob_id, blob_ref FROM artifact_ref ORDER BY blob_id LIMIT -1) a CROSS JOIN blob b ON b.id BETWEEN a.blob_id AND a.blob_id + 7 AND +b.hash = a.blob_ref"
  )
  const mark = sqlite.prepare(
    "INSERT OR IGNORE INTO live SELECT id FROM blob WHERE id BETWEEN ?1 AND ?1 + 7 AND hash = ?2"
  )
  const manifests = sqlite.prepare(
    "SELECT b.hash, b.content FROM (SELECT DISTINCT blob_ref, blob_id FROM artifact_ref WHERE kind = 'checkpoint' ORDER BY blob_id LIMIT -1) a CROSS JOIN blob b ON b.id BETWEEN a.blob_id AND a.blob_id + 7 AND +b.hash = a.blob_ref"
  )
  for (const { hash, content } of manifests.iterate() as Iterable<{ hash: string; content: Uint8Array }>) {
    if (new Bun.CryptoHasher("sha256").update(content).digest("hex") !== hash) throw new Error("damaged")
    const value = JSON.parse(new TextDecoder().decode(content)) as Record<string, string>
    for (const field of ["tool_state_ref", "plugin_snapshot_ref", "execution_state_ref"]) {
      const ref = value[field]
      if (ref !== undefined) mark.run(key(ref), ref)
    }
  }
  const { changes } = sqlite.run(
    "DELETE FROM blob WHERE created_at <= 1 AND NOT EXISTS (SELECT 1 FROM live WHERE live.id = blob.id)"
  )
  sqlite.run("DROP TABLE live")
  sqlite.run("COMMIT")
  return changes
}

/** A session of `count` blobs of 200 bytes, a tenth of them live: checkpoints with three children each, and plain artifacts. */
export const fillBlobs = (file: string, count: number): void => {
  const sqlite = makeBare(file, "NORMAL")
  sqlite.run("PRAGMA cache_size=-200000")
  const hash = (bytes: Uint8Array) => new Bun.CryptoHasher("sha256").update(bytes).digest("hex")
  const rows: Array<readonly [string, string, Uint8Array]> = []
  const artifacts: Array<readonly [string, string]> = []
  const content = (index: number) => Buffer.from(`${index} `.padEnd(200, "x"))
  const add = (kind: string, bytes: Uint8Array) => {
    const name = hash(bytes)
    rows.push([name, kind, bytes])
    return name
  }
  const live = count / 10
  for (let index = 0; index < count; index += 1) {
    if (index >= live) {
      add("module", content(index))
    } else if (index % 5 === 4) {
      artifacts.push([add("module", content(index)), "module"])
    } else if (index % 5 === 0) {
      const [tool, plugin, execution] = [1, 2, 3].map((child) => add(`state_${child}`, content(index + child)))
      const manifest = {
        turn_state: { index },
        tool_state_ref: tool,
        plugin_snapshot_ref: plugin,
        execution_state_ref: execution
      }
      artifacts.push([add("checkpoint", Buffer.from(JSON.stringify(manifest))), "checkpoint"])
    }
  }
  rows.sort((a, b) => key(a[0]) - key(b[0]))
  const insert = sqlite.prepare(
    "INSERT INTO blob (id, hash, kind, compression, created_at, content) VALUES (?, ?, ?, 'none', 0, ?)"
  )
  const refer = sqlite.prepare("INSERT INTO artifact_ref VALUES (?, ?, ?, ?)")
  sqlite.transaction(() => {
    let last = -1
    for (const [name, kind, bytes] of rows) {
      last = Math.max(key(name), last + 1)
      insert.run(last, name, kind, bytes)
    }
    for (const [index, [name, kind]] of artifacts.entries()) refer.run(`a${index}`, name, key(name), kind)
  })()
  sqlite.close()
}
