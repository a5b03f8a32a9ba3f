package database

import (
	"context"
	"time"
)

// Handoff is what is known of a handoff that was issued.
type Handoff struct {
	Audience  string
	Method    string
	Issued    time.Time
	Expires   time.Time
	TakenBack bool // by its id, with its session or with all of its user's; kept until Expires at least
}

// takenBack holds of a handoff or a visit in the audit whose user is joined. A cut-off is
// a whole second. It is never before the second in which what it takes back was recorded.
const takenBack = `(users.cut_off_at >= audit.occurred_at - audit.occurred_at % 1000
	OR EXISTS (SELECT 1 FROM revocations WHERE kind = 'token' AND id = audit.handoff_id)
	OR EXISTS (SELECT 1 FROM revocations WHERE kind = 'session' AND id = audit.session))`

// Handoff returns a user's handoff, or ErrNotFound if the user has none with this id.
func (db *DB) Handoff(ctx context.Context, userID, handoffID string) (h Handoff, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const find = `SELECT audit.audience, audit.method, audit.occurred_at, audit.expires_at, ` + takenBack + ` FROM audit JOIN users ON users.id = audit.user_id
		WHERE audit.handoff_id = $1 AND audit.user_id = $2 AND audit.event = '` + eventHandoffIssued + `'`
	var issued, expires int64
	err = db.read.QueryRowContext(ctx, find, handoffID, userID).Scan(&h.Audience, &h.Method, &issued, &expires, &h.TakenBack)
	h.Issued, h.Expires = fromMillis(issued), fromMillis(expires)
	return h, wrap("reading a handoff", err)
}
