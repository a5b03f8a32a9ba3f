-- A row is of use while its token can come again, and is removed later. Of those from before this migration it is not known
-- when: no token lives for as long as a server runs before it removes anything.

ALTER TABLE handoffs ADD COLUMN expires_at BIGINT NOT NULL DEFAULT 0; -- the `exp`

CREATE INDEX handoffs_expires ON handoffs (expires_at);
