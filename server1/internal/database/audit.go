package database

import (
	"context"
	"database/sql"
	"time"
)

// The kinds of audited events.
const (
	eventUserAdded           = "user_added"
	eventUserDisabled        = "user_disabled"
	eventUserEnabled         = "user_enabled"
	eventRolesChanged        = "roles_changed"
	eventPasswordChanged     = "password_changed"
	eventSignedIn            = "signed_in"
	eventSignedOut           = "signed_out"
	eventSignedOutEverywhere = "signed_out_everywhere"
	eventHandoffIssued       = "handoff_issued"
	eventVisitIssued         = "visit_issued"
	eventHandoffRevoked      = "handoff_revoked"
	eventSessionRevoked      = "session_revoked"
	eventSessionReplaced     = "session_replaced" // by one more of its user
	eventUserCutOff          = "user_cut_off"
	eventClientAdded         = "client_added"
	eventClientDisabled      = "client_disabled"
	eventClientEnabled       = "client_enabled"
	eventClientKeyAdded      = "client_key_added"
	eventClientKeyRemoved    = "client_key_removed"
	eventGrantCreated        = "grant_created"
	eventGrantDeleted        = "grant_deleted"
	eventGrantTakenBack      = "grant_taken_back" // its handoffs are; it stands
)

// isIssued is the condition on an audited event that it issued a token.
const isIssued = `event IN ('` + eventHandoffIssued + `', '` + eventVisitIssued + `')`

// event is one row of the audit. Empty fields are stored as NULL.
type event struct {
	kind     string
	at       time.Time
	user     string
	session  string
	handoff  string
	audience string
	method   string
	expires  time.Time
	client   string // that acts for the user
	grant    string // by which it does
}

// record writes an event in the transaction of what it records.
func record(ctx context.Context, tx *transaction, e event) error {
	const insert = `INSERT INTO audit (occurred_at, event, user_id, session, handoff_id, audience, method, expires_at, client_id, grant_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	_, err := tx.ExecContext(ctx, insert, toMillis(e.at), e.kind, e.user,
		nullText(e.session), nullText(e.handoff), nullText(e.audience), nullText(e.method),
		sql.NullInt64{Int64: toMillis(e.expires), Valid: !e.expires.IsZero()}, nullText(e.client), nullText(e.grant))
	return wrap("recording "+e.kind, err)
}

func nullText(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }
