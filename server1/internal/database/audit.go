package database

import (
	"context"
	"database/sql"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// The kinds of audited events.
const (
	eventUserAdded     = "user_added"
	eventSignedIn      = "signed_in"
	eventSignedOut     = "signed_out"
	eventHandoffIssued = "handoff_issued"
)

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
}

// record writes an event in the transaction of what it records.
func record(ctx context.Context, tx *sql.Tx, e event) error {
	const insert = `INSERT INTO audit (id, occurred_at, event, user_id, session, handoff_id, audience, method, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	_, err := tx.ExecContext(ctx, insert, handoff.NewID(), toMillis(e.at), e.kind, e.user,
		nullText(e.session), nullText(e.handoff), nullText(e.audience), nullText(e.method),
		sql.NullInt64{Int64: toMillis(e.expires), Valid: !e.expires.IsZero()})
	return wrap("recording "+e.kind, err)
}

func nullText(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// RecordHandoff records a token that was signed for a session and is about to be
// handed out. It returns ErrNotFound if the session is over at now: then the
// token must not be handed out.
func (db *DB) RecordHandoff(ctx context.Context, s Session, claims *handoff.Claims, now time.Time) error {
	return db.writer.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := stillLive(ctx, tx, s, now); err != nil {
			return err
		}
		return record(ctx, tx, event{
			kind: eventHandoffIssued, at: now, user: s.User.ID, session: s.HandoffID, handoff: claims.ID,
			audience: claims.Audience, method: claims.Method, expires: claims.Expires,
		})
	})
}
