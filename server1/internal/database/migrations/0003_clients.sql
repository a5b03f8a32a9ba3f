-- API clients: users who have keys in place of a password and sessions. New audit events: client_added, client_disabled,
-- client_enabled, client_key_added, client_key_removed.

ALTER TABLE users ADD COLUMN kind TEXT NOT NULL DEFAULT 'user'; -- user, client; a client's password_hash is empty

CREATE TABLE client_keys (
    kid       TEXT   PRIMARY KEY, -- the RFC 7638 thumbprint: a key is one client's
    client_id TEXT   NOT NULL REFERENCES users (id),
    jwk       TEXT   NOT NULL,    -- the public key, a JWK Set of one
    added_at  BIGINT NOT NULL
);

CREATE INDEX client_keys_client_id ON client_keys (client_id);

-- The assertions that have been spent, each with the handoff that it was spent on.
CREATE TABLE assertions (
    client_id TEXT   NOT NULL,
    jti       TEXT   NOT NULL,
    ends_at   BIGINT NOT NULL, -- when it is dead by any clock
    PRIMARY KEY (client_id, jti)
);

CREATE INDEX assertions_ends_at ON assertions (ends_at);
