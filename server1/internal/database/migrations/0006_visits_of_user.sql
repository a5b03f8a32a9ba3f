-- A user has so many visits that stand, and no more: they are counted as each is issued.

CREATE INDEX audit_visits_of_user ON audit (user_id, expires_at) WHERE event = 'visit_issued';
