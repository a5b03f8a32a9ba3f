-- Which grant an event is about: its row may be gone, and its `sid` another. New audit event: grant_taken_back, whose session is
-- the `sid` that is taken back.

ALTER TABLE audit ADD COLUMN grant_id TEXT;
