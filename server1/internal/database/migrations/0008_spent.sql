-- An assertion is spent by the very row that audits what it was spent on: one index to keep in place of a table and two.
-- What was spent before this migration is forgotten: an assertion that is less than a minute old then can be spent once more.

ALTER TABLE audit ADD COLUMN assertion TEXT; -- the client that has signed it and its `jti`, with a space between; NULL: a session asked

CREATE UNIQUE INDEX audit_assertion ON audit (assertion) WHERE assertion IS NOT NULL;

DROP TABLE assertions;
