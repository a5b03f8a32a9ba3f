package ledger

import (
	"context"
	"database/sql"
	"time"
)

// SweepBatch is how many rows Sweep removes at most: few enough that no payment waits
// for long.
const SweepBatch = 500

// Sweep forgets up to SweepBatch handoffs that had expired at a moment and were answered
// with an earlier one's payment, and says how many. Where it returns SweepBatch, there may
// be more. A handoff that has paid is kept with its payment.
func (db *DB) Sweep(ctx context.Context, expired time.Time) (gone int64, err error) {
	const statement = `DELETE FROM handoffs WHERE (issuer, handoff_id) IN
		(SELECT issuer, handoff_id FROM handoffs WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)`
	err = db.change(ctx, ordinary, func(ctx context.Context, tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, statement, expired.UnixMilli(), SweepBatch)
		if err == nil {
			gone, err = result.RowsAffected()
		}
		return failed("forgetting handoffs", err)
	})
	return gone, err
}
