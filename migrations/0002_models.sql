-- up
-- Times are integer unix milliseconds, UTC. Lists are JSON text.
CREATE TABLE model (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  provider TEXT NOT NULL,
  source TEXT NOT NULL,
  revision TEXT NOT NULL,
  task TEXT NOT NULL,
  engine TEXT NOT NULL,
  dimensions INTEGER,
  pull_policy TEXT NOT NULL,
  trust_policy TEXT NOT NULL,
  acknowledge_remote_code_risk INTEGER NOT NULL CHECK (acknowledge_remote_code_risk IN (0, 1)),
  credential_alias TEXT,
  allow_patterns TEXT,
  ignore_patterns TEXT,
  status TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  cache_dir TEXT,
  installed_at INTEGER,
  cache_size_bytes INTEGER,
  resolved_revision TEXT
) STRICT;

-- Which installed tree each sandbox mounts; it counts while the sandbox is live.
CREATE TABLE model_mount (
  sandbox_id INTEGER NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
  model_name TEXT NOT NULL,
  install_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (sandbox_id, model_name)
) STRICT, WITHOUT ROWID;
CREATE INDEX model_mount_install ON model_mount (install_id);
CREATE INDEX model_mount_name ON model_mount (model_name);

-- down
DROP TABLE model_mount;
DROP TABLE model;
