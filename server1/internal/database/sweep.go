package database

import (
	"context"
	"time"
)

// SweepBatch is how many rows Sweep removes at most: few enough that no other change
// waits for long.
const SweepBatch = 500

// Rows are rows that Sweep removes once they are old.
type Rows string

// The rows that can be swept, by the names of their tables.
const (
	Sessions    Rows = "sessions"    // from when they end
	Revocations Rows = "revocations" // from when they touch no live token
	Grants      Rows = "grants"      // from when they end
	Audit       Rows = "audit"       // from when they were written
)

// Swept returns all of them.
func Swept() []Rows { return []Rows{Sessions, Revocations, Grants, Audit} }

// Sweep removes up to SweepBatch rows that have been old since a moment, and says how
// many. Where it returns SweepBatch, there may be more.
func (db *DB) Sweep(ctx context.Context, rows Rows, since time.Time) (gone int64, err error) {
	var key, old string
	switch rows {
	case Sessions:
		key, old = "id_sha256", "idle_expires_at"
	case Revocations:
		key, old = "kind, id", "ends_at"
	case Grants:
		key, old = "id", "expires_at"
	case Audit:
		key, old = "id", "occurred_at"
	}
	statement := `DELETE FROM ` + string(rows) + ` WHERE (` + key + `) IN (SELECT ` + key + ` FROM ` + string(rows) +
		` WHERE ` + old + ` <= $1 ORDER BY ` + old + ` LIMIT $2` + db.dialect.holdFree + `)`
	err = db.change(ctx, func(ctx context.Context, tx *transaction) error {
		result, err := tx.ExecContext(ctx, statement, toMillis(since), SweepBatch)
		if err != nil {
			return wrap("sweeping "+string(rows), err)
		}
		gone, err = result.RowsAffected()
		return wrap("sweeping "+string(rows), err)
	})
	return gone, err
}
