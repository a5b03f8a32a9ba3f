-- What users let API clients do for them. New audit events: grant_created, grant_deleted.

CREATE TABLE grants (
    id                 TEXT   PRIMARY KEY,     -- 128 random bits, by which the client names it
    handoff_id         TEXT   NOT NULL UNIQUE, -- 128 random bits of their own: the `sid` of the grant's handoffs, until those are taken back
    user_id            TEXT   NOT NULL REFERENCES users (id),
    client_id          TEXT   NOT NULL REFERENCES users (id),
    audience           TEXT   NOT NULL,
    methods            TEXT   NOT NULL,        -- full names in order, with spaces between
    created_at         BIGINT NOT NULL,
    expires_at         BIGINT NOT NULL,
    handoffs_expire_at BIGINT NOT NULL DEFAULT 0 -- the latest `exp` of its handoffs
);

CREATE INDEX grants_user_id ON grants (user_id);
CREATE INDEX grants_client_id ON grants (client_id);
CREATE INDEX grants_expires_at ON grants (expires_at);

ALTER TABLE audit ADD COLUMN client_id TEXT; -- of the client that acts for the user
