-- up
-- One file per session. Times are integer unix milliseconds, UTC. The file's user_version is the number of its newest migration.

-- Nodes in the order of their arrival. A tombstoned row is hidden until it is vacuumed.
CREATE TABLE graph_node (
  seq INTEGER PRIMARY KEY,
  node_id TEXT NOT NULL UNIQUE,
  parent_node_id TEXT,
  node_json TEXT NOT NULL,
  tombstoned INTEGER NOT NULL DEFAULT 0,
  user_message INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX graph_node_parent ON graph_node (parent_node_id);
CREATE INDEX graph_node_user ON graph_node (seq) WHERE user_message = 1 AND tombstoned = 0;
CREATE INDEX graph_node_tombstoned ON graph_node (seq) WHERE tombstoned = 1;

-- One row: what moves.
CREATE TABLE session_head (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  session_id TEXT NOT NULL,
  head_revision INTEGER NOT NULL,
  leaf_node_id TEXT,
  checkpoint_ref TEXT,
  commit_count INTEGER NOT NULL DEFAULT 0,
  updated_at INTEGER NOT NULL,
  -- 1 when vacuuming left a node without its parent: that id must not come back under it.
  orphans INTEGER NOT NULL DEFAULT 0,
  -- 1 while the files are being removed.
  deleted INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One row: how the session came to be.
CREATE TABLE session_meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  created_at INTEGER NOT NULL,
  cwd TEXT,
  relation TEXT NOT NULL CHECK (relation IN ('root', 'child')),
  parent_session_id TEXT,
  title TEXT
) STRICT;

-- The key is the number in the first 13 digits of the hash, or one of the 7 after it: rows lie in the order of their hashes, without
-- an index beside them, and a collection reads and deletes them in one sweep.
CREATE TABLE blob (
  id INTEGER PRIMARY KEY,
  hash TEXT NOT NULL,
  kind TEXT NOT NULL,
  compression TEXT NOT NULL CHECK (compression IN ('none', 'zstd')),
  created_at INTEGER NOT NULL,
  content BLOB NOT NULL
) STRICT;

CREATE TABLE artifact_ref (
  artifact_ref TEXT PRIMARY KEY,
  blob_ref TEXT NOT NULL,
  -- The number in the first 13 digits of blob_ref.
  blob_id INTEGER NOT NULL,
  kind TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE commit_stamp (
  session_id TEXT NOT NULL,
  turn_id TEXT NOT NULL,
  payload_hash TEXT NOT NULL,
  result TEXT NOT NULL,
  PRIMARY KEY (session_id, turn_id)
) STRICT, WITHOUT ROWID;

-- down
DROP TABLE commit_stamp;
DROP TABLE artifact_ref;
DROP TABLE blob;
DROP TABLE session_meta;
DROP TABLE session_head;
DROP TABLE graph_node;
