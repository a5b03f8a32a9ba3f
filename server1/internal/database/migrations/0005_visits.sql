-- New audit event: visit_issued, whose methods stand in audit.method with spaces between. Those that have not expired are found
-- without looking at the handoffs.

CREATE INDEX audit_visits ON audit (expires_at) WHERE event = 'visit_issued';
