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
	by := map[Rows]struct{ key, old string }{
		Sessions:    {"id_sha256", "idle_expires_at"},
		Revocations: {"kind, id", "ends_at"},
		Grants:      {"id", "expires_at"},
		Audit:       {"id", "occurred_at"},
	}[rows]
	statement := `DELETE FROM ` + string(rows) + ` WHERE (` + by.key + `) IN (SELECT ` + by.key + ` FROM ` + string(rows) +
		` WHERE ` + by.old + ` <= $1 ORDER BY ` + by.old + ` LIMIT $2` + db.dialect.holdFree + `)`
	err = db.change(ctx, func(ctx context.Context, tx *transaction) error {
		gone, err = affected(tx.ExecContext(ctx, statement, toMillis(since), SweepBatch))
		return wrap("sweeping "+string(rows), err)
	})
	return gone, err
}
