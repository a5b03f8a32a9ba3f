-- Handoffs that were answered with the payment of an earlier one, as both have the same request id: who has lost the
-- answer to one of these is told it again.
CREATE TABLE handoffs (
    issuer     TEXT NOT NULL,
    handoff_id TEXT NOT NULL, -- the `jti`
    payment_id TEXT NOT NULL REFERENCES payments (payment_id),

    PRIMARY KEY (issuer, handoff_id)
);
