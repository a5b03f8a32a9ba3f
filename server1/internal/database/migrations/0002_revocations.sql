-- What has been taken back, and what several processes of one issuer must agree on. New audit events: signed_out_everywhere,
-- password_changed, user_disabled, handoff_revoked, session_revoked, user_cut_off.

ALTER TABLE users ADD COLUMN issued_at          BIGINT NOT NULL DEFAULT 0; -- the latest `iat` of the user's handoffs
ALTER TABLE users ADD COLUMN handoffs_expire_at BIGINT NOT NULL DEFAULT 0; -- their latest `exp`
ALTER TABLE users ADD COLUMN cut_off_at         BIGINT NOT NULL DEFAULT 0; -- handoffs with an `iat` up to this are taken back

UPDATE users SET
    issued_at          = COALESCE((SELECT MAX(occurred_at) FROM audit WHERE user_id = users.id AND event = 'handoff_issued'), 0),
    handoffs_expire_at = COALESCE((SELECT MAX(expires_at)  FROM audit WHERE user_id = users.id AND event = 'handoff_issued'), 0);

CREATE TABLE revocations (
    kind       TEXT   NOT NULL, -- token, session, subject
    id         TEXT   NOT NULL, -- the `jti`, the `sid`, or the subject's digest
    user_id    TEXT   NOT NULL, -- whose; it is not published
    cut_off_at BIGINT NOT NULL, -- of a subject; otherwise 0
    ends_at    BIGINT NOT NULL, -- when the last handoff that it touches is dead
    PRIMARY KEY (kind, id)
);

CREATE INDEX revocations_ends_at ON revocations (ends_at);
CREATE INDEX revocations_user_id ON revocations (user_id);

-- One row, for the one issuer whose database this is.
CREATE TABLE issuer (
    id   BIGINT PRIMARY KEY CHECK (id = 1),
    name TEXT   NOT NULL, -- the `iss`
    seq  BIGINT NOT NULL, -- of the trust list that was numbered last; 0: there was none
    ring TEXT   NOT NULL  -- the signing keys' public halves and states, as package rotation writes them
);

-- The times that the issuer's processes keep to: a row for each set of settings, in milliseconds.
CREATE TABLE terms (
    token_lifetime BIGINT NOT NULL,
    list_lifetime  BIGINT NOT NULL,
    skew           BIGINT NOT NULL,
    used_at        BIGINT NOT NULL, -- when a process last said that these are its settings
    PRIMARY KEY (token_lifetime, list_lifetime, skew)
);

-- What of the trust list has changed how often. The rows are added up: there are several so that changes need not wait
-- for each other.
CREATE TABLE changes (
    shard BIGINT PRIMARY KEY,
    n     BIGINT NOT NULL
);

INSERT INTO changes (shard, n) VALUES (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0);
