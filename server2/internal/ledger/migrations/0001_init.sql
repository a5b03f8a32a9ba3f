-- Plain SQL that SQLite and PostgreSQL read alike. Times are Unix milliseconds, amounts are in the currency's minor unit.

CREATE TABLE invoices (
    invoice_id    TEXT   PRIMARY KEY,
    issuer        TEXT   NOT NULL, -- with subject: whose it is (`iss`, `sub`)
    subject       TEXT   NOT NULL,
    currency_code TEXT   NOT NULL, -- ISO 4217
    minor_units   BIGINT NOT NULL CHECK (minor_units > 0)
);

CREATE TABLE payments (
    payment_id    TEXT   PRIMARY KEY,
    invoice_id    TEXT   NOT NULL UNIQUE REFERENCES invoices (invoice_id), -- an invoice is paid once
    issuer        TEXT   NOT NULL, -- with subject: who paid
    subject       TEXT   NOT NULL,
    currency_code TEXT   NOT NULL,
    minor_units   BIGINT NOT NULL,
    paid_at       BIGINT NOT NULL,
    memo          TEXT   NOT NULL,
    request_id    TEXT   NOT NULL,
    handoff_id    TEXT   NOT NULL, -- the `jti`

    CONSTRAINT payments_request UNIQUE (issuer, subject, request_id),
    CONSTRAINT payments_handoff UNIQUE (issuer, handoff_id) -- a handoff pays once, whatever the record of redemptions says
);

CREATE INDEX payments_payer ON payments (issuer, subject, paid_at, payment_id);
