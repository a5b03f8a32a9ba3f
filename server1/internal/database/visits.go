package database

import (
	"context"
	"math"
	"time"

	"github.com/handoff-auth/handoff/shared/trust"

	"github.com/handoff-auth/handoff/shared/serving"
)

// Visits returns the visits that were issued, have not expired and are not taken back: of
// more than a trust list names, those that expire last. They are read in parts, each within
// the time of a statement. One that is issued meanwhile may be missing, and has the list
// made again.
func (db *DB) Visits(ctx context.Context, now time.Time) (visits []trust.Visit, err error) {
	expires, id := int64(math.MaxInt64), ""
	for len(visits) < trust.MaxVisits {
		part, err := db.visitsBefore(ctx, toMillis(now), expires, id, min(visitsBatch, trust.MaxVisits-len(visits)))
		if err != nil {
			return nil, wrap("reading visits", err)
		}
		visits = append(visits, part...)
		if len(part) < visitsBatch {
			break
		}
		last := part[len(part)-1]
		expires, id = toMillis(last.Expires), last.ID
	}
	return visits, nil
}

// standingVisits are those that expire after $1 and are not taken back. One whose session
// has ended by itself, unused, still stands.
const standingVisits = `FROM audit JOIN users ON users.id = audit.user_id
		WHERE audit.event = '` + eventVisitIssued + `' AND audit.expires_at > $1 AND NOT ` + takenBack

// visitsBatch is how many visits are read at once.
const visitsBatch = 10_000

// visitsBefore returns the visits that expire before one, or with it and have a lesser id.
func (db *DB) visitsBefore(ctx context.Context, now, expires int64, id string, most int) (visits []trust.Visit, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const open = `SELECT audit.handoff_id, audit.expires_at ` + standingVisits + `
			AND audit.expires_at <= $2 AND (audit.expires_at < $2 OR audit.handoff_id < $3)
		ORDER BY audit.expires_at DESC, audit.handoff_id DESC LIMIT $4`
	rows, err := db.read.QueryContext(ctx, open, now, expires, id, most)
	return serving.Rows(rows, err, func() (visit trust.Visit, err error) {
		var expires int64
		err = rows.Scan(&visit.ID, &expires)
		visit.Expires = fromMillis(expires)
		return visit, err
	})
}

// roomForVisit returns ErrTooMany if as many visits of the user stand as may.
func roomForVisit(ctx context.Context, tx *transaction, h issued) error {
	const count = `SELECT COUNT(*) ` + standingVisits + ` AND audit.user_id = $2`
	var have int
	if err := tx.QueryRowContext(ctx, count, toMillis(h.now), h.owner().ID).Scan(&have); err != nil {
		return wrap("counting visits", err)
	}
	if have >= h.most {
		return ErrTooMany
	}
	return nil
}
