-- Plain SQL that SQLite and PostgreSQL read alike, once "IN ORDER" is put into the words of the one or the other. Times are
-- Unix milliseconds, ids and digests are base64url text.

CREATE TABLE users (
    id            TEXT   PRIMARY KEY,      -- 128 random bits: the `sub` of the user's handoffs, never another user's
    name          TEXT   NOT NULL UNIQUE,  -- what the user signs in with
    password_hash TEXT   NOT NULL,         -- argon2id, a PHC string
    roles         TEXT   NOT NULL,         -- names in order, with spaces between
    created_at    BIGINT NOT NULL,
    disabled_at   BIGINT                   -- from when on the user can do nothing; NULL: never
);

CREATE TABLE sessions (
    id_sha256       TEXT   PRIMARY KEY,     -- of the session id, which is kept nowhere
    handoff_id      TEXT   NOT NULL UNIQUE, -- 128 random bits of their own: the `sid` of the session's handoffs
    user_id         TEXT   NOT NULL REFERENCES users (id),
    created_at      BIGINT NOT NULL,
    idle_expires_at BIGINT NOT NULL,        -- never after expires_at
    expires_at      BIGINT NOT NULL
);

CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_idle_expires_at ON sessions (idle_expires_at);

CREATE TABLE audit (
    id          IN ORDER,         -- a number that grows: rows are added at the end
    occurred_at BIGINT NOT NULL,
    event       TEXT   NOT NULL, -- user_added, signed_in, signed_out, handoff_issued
    user_id     TEXT   NOT NULL, -- outlives the user: no reference
    session     TEXT,            -- sessions.handoff_id
    handoff_id  TEXT,            -- the `jti`
    audience    TEXT,
    method      TEXT,
    expires_at  BIGINT           -- of the handoff
);

CREATE INDEX audit_occurred_at ON audit (occurred_at);
CREATE INDEX audit_handoff_id ON audit (handoff_id);
