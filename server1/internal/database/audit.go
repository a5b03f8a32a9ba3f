package database

import (
	"context"
	"database/sql"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// The kinds of audited events.
const (
	eventUserAdded           = "user_added"
	eventUserDisabled        = "user_disabled"
	eventPasswordChanged     = "password_changed"
	eventSignedIn            = "signed_in"
	eventSignedOut           = "signed_out"
	eventSignedOutEverywhere = "signed_out_everywhere"
	eventHandoffIssued       = "handoff_issued"
	eventHandoffRevoked      = "handoff_revoked"
	eventSessionRevoked      = "session_revoked"
	eventSessionReplaced     = "session_replaced" // by one more of its user
	eventUserCutOff          = "user_cut_off"
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
// handed out. It returns ErrNotFound if the session is over at now, a *CutOffError if
// the user has been cut off since the token's iat, and ErrClockAhead if that is
// further ahead of the database's own clock than clocks may differ: no audience
// would take the token, and a cut-off would have to reach as far. Then the token must
// not be handed out.
func (db *DB) RecordHandoff(ctx context.Context, s Session, claims *handoff.Claims, now time.Time) error {
	return db.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		note := `UPDATE users
			SET issued_at = CASE WHEN issued_at < $2 THEN $2 ELSE issued_at END,
				handoffs_expire_at = CASE WHEN handoffs_expire_at < $3 THEN $3 ELSE handoffs_expire_at END
			WHERE id = $1 AND disabled_at IS NULL RETURNING cut_off_at, ` + db.dialect.clock
		var cutOff, clock int64
		row := tx.QueryRowContext(ctx, note, s.User.ID, toMillis(claims.IssuedAt), toMillis(claims.Expires))
		if err := row.Scan(&cutOff, &clock); err != nil {
			return wrap("noting a handoff", err)
		}
		if err := stillLive(ctx, tx, s, now); err != nil {
			return err
		}
		switch {
		case cutOff >= toMillis(claims.IssuedAt):
			return &CutOffError{At: fromMillis(cutOff)}
		case db.isAhead(toMillis(claims.IssuedAt), clock):
			return ErrClockAhead
		}
		return record(ctx, tx, event{
			kind: eventHandoffIssued, at: now, user: s.User.ID, session: s.HandoffID, handoff: claims.ID,
			audience: claims.Audience, method: claims.Method, expires: claims.Expires,
		})
	})
}
