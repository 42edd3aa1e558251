-- up
-- What stands in a machine's config.toml and is asked for without reading it: its UUID, and what the file was like when it was read.
ALTER TABLE sandbox ADD COLUMN vm_id TEXT;
ALTER TABLE sandbox ADD COLUMN config_stamp TEXT;
CREATE INDEX sandbox_vm_id ON sandbox (vm_id);
-- Restarts in a row, and when the next one is due (unix milliseconds).
ALTER TABLE sandbox ADD COLUMN restart_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandbox ADD COLUMN restart_at INTEGER;
CREATE INDEX sandbox_restart_at ON sandbox (restart_at) WHERE restart_at IS NOT NULL;

-- down
DROP INDEX sandbox_restart_at;
DROP INDEX sandbox_vm_id;
ALTER TABLE sandbox DROP COLUMN restart_at;
ALTER TABLE sandbox DROP COLUMN restart_count;
ALTER TABLE sandbox DROP COLUMN config_stamp;
ALTER TABLE sandbox DROP COLUMN vm_id;
