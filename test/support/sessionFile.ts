/** Session files without a store around them: fresh, dumped, and with every statement seen by the test. */
import type { SessionId } from "../../src/domain/session/session.ts"
import { type Connection, connect } from "../../src/store/database/Database.ts"
import { writeBeginning } from "../../src/store/database/session/files.ts"
import type { SessionFile } from "../../src/store/database/session/head.ts"
import { migrateSession } from "../../src/store/database/session/schema.ts"
import { idOf } from "./sessionData.ts"

const origin = { cwd: null, title: null, parentSessionId: null }

/** A session "s" in a file of its own, by default in memory. */
export const freshFile = (place = ":memory:", id: SessionId = idOf("s")): SessionFile => {
  const connection = connect(place, { create: place !== ":memory:", synchronous: "NORMAL" })
  migrateSession(connection)
  writeBeginning(connection, id, origin, { leafNodeId: null, checkpointRef: null }, 0)
  return { id, connection }
}

/** A session "s" that is there. */
export const openFile = (place: string, id: SessionId = idOf("s")): SessionFile => {
  const connection = connect(place, { synchronous: "NORMAL" })
  migrateSession(connection)
  return { id, connection }
}

const tables = ["graph_node", "session_head", "session_meta", "artifact_ref", "commit_stamp"]

/** Everything that a session holds, as one text. */
export const dump = ({ connection }: SessionFile): string => {
  const rows = tables.map((table) => [table, connection.all(`SELECT * FROM ${table} ORDER BY 1, 2`)])
  const blobs = connection.all(
    "SELECT id, hash, kind, compression, created_at, hex(content) AS content FROM blob ORDER BY id"
  )
  return JSON.stringify([...rows, ["blob", blobs]])
}

/** The same file; `seen` is told of each statement before it runs, and may throw or never return. */
export const observed = (file: SessionFile, seen: (sql: string) => void): SessionFile => {
  const { connection } = file
  const watch =
    <A extends ReadonlyArray<unknown>, B>(run: (sql: string, ...rest: A) => B) =>
    (sql: string, ...rest: A): B => {
      seen(sql)
      return run(sql, ...rest)
    }
  const watched: Connection = {
    ...connection,
    all: watch(connection.all) as Connection["all"],
    get: watch(connection.get) as Connection["get"],
    run: watch(connection.run),
    iterate: watch(connection.iterate) as Connection["iterate"],
    script: watch(connection.script)
  }
  return { ...file, connection: watched }
}
