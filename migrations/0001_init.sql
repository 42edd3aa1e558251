-- up
-- Times are integer unix milliseconds, UTC. Lists and maps are JSON text.
CREATE TABLE manifest (
  id INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE,
  media_type TEXT NOT NULL,
  config_digest TEXT NOT NULL,
  architecture TEXT NOT NULL,
  os TEXT NOT NULL,
  variant TEXT,
  layer_count INTEGER NOT NULL,
  total_size_bytes INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE image_ref (
  id INTEGER PRIMARY KEY,
  reference TEXT NOT NULL UNIQUE,
  manifest_id INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX image_ref_manifest ON image_ref (manifest_id);

CREATE TABLE config (
  manifest_id INTEGER NOT NULL UNIQUE REFERENCES manifest (id) ON DELETE CASCADE,
  digest TEXT NOT NULL,
  env TEXT,
  cmd TEXT,
  entrypoint TEXT,
  working_dir TEXT,
  user TEXT,
  labels TEXT,
  stop_signal TEXT,
  exposed_ports TEXT,
  volumes TEXT,
  created_at INTEGER
) STRICT;

CREATE TABLE layer (
  id INTEGER PRIMARY KEY,
  diff_id TEXT NOT NULL UNIQUE,
  blob_digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  compressed_size_bytes INTEGER NOT NULL,
  erofs_size_bytes INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  last_used_at INTEGER NOT NULL
) STRICT;

-- One image may hold the same layer twice.
CREATE TABLE manifest_layer (
  manifest_id INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
  layer_id INTEGER NOT NULL REFERENCES layer (id) ON DELETE RESTRICT,
  position INTEGER NOT NULL,
  UNIQUE (manifest_id, position)
) STRICT;
CREATE INDEX manifest_layer_layer ON manifest_layer (layer_id);

CREATE TABLE sandbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  config TEXT NOT NULL,
  status TEXT NOT NULL,
  ephemeral INTEGER NOT NULL CHECK (ephemeral IN (0, 1)),
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sandbox_ephemeral_status ON sandbox (ephemeral, status);
CREATE INDEX sandbox_status_id ON sandbox (status, id);

CREATE TABLE run (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  sandbox_id INTEGER NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
  engine TEXT NOT NULL,
  pid INTEGER,
  pid_started_at INTEGER,
  boot_id TEXT,
  status TEXT NOT NULL,
  exit_code INTEGER,
  exit_signal TEXT,
  termination_reason TEXT,
  termination_detail TEXT,
  started_at INTEGER NOT NULL,
  terminated_at INTEGER
) STRICT;
CREATE INDEX run_sandbox_status_started ON run (sandbox_id, status, started_at);

CREATE TABLE sandbox_rootfs (
  sandbox_id INTEGER NOT NULL UNIQUE REFERENCES sandbox (id) ON DELETE CASCADE,
  manifest_id INTEGER NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
  mode TEXT NOT NULL
) STRICT;
CREATE INDEX sandbox_rootfs_manifest ON sandbox_rootfs (manifest_id);

CREATE TABLE maintenance_lease (
  name TEXT PRIMARY KEY,
  holder_pid INTEGER,
  holder_token TEXT,
  lease_expires_at INTEGER NOT NULL,
  last_completed_at INTEGER
) STRICT, WITHOUT ROWID;

-- What a pull or a boot is using: a layer by diff id, a manifest by digest.
CREATE TABLE content_lease (
  token TEXT NOT NULL,
  resource TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (token, resource)
) STRICT, WITHOUT ROWID;
CREATE INDEX content_lease_resource ON content_lease (resource, expires_at);
CREATE INDEX content_lease_expiry ON content_lease (expires_at);

-- down
DROP TABLE content_lease;
DROP TABLE maintenance_lease;
DROP TABLE sandbox_rootfs;
DROP TABLE run;
DROP TABLE sandbox;
DROP TABLE manifest_layer;
DROP TABLE layer;
DROP TABLE config;
DROP TABLE image_ref;
DROP TABLE manifest;
