package database

import (
	"context"
)

// NextSeq numbers a trust list; it is a trust.Sequencer's. No number is given
// twice.
func (db *DB) NextSeq(ctx context.Context, atLeast int64) (seq int64, err error) {
	err = db.changeFirst(ctx, func(ctx context.Context, tx *transaction) error {
		const next = `UPDATE issuer SET seq = CASE WHEN seq + 1 > $1 THEN seq + 1 ELSE $1 END RETURNING seq`
		return wrap("numbering a trust list", tx.QueryRowContext(ctx, next, atLeast).Scan(&seq))
	})
	return seq, err
}
