-- up
-- How long each phase of its boot took: JSON, in milliseconds. NULL until its guest is ready.
ALTER TABLE run ADD COLUMN phases TEXT;

-- down
ALTER TABLE run DROP COLUMN phases;
