package database

import (
	"context"
	"database/sql"
	"time"
)

// NextSeq numbers a trust list; it is a trust.Sequencer's. No number is given
// twice, whatever happens after.
//
// Where the database has a clock of its own it returns ErrClockAhead for a number
// that is further ahead of it than clocks may differ: no audience would believe that
// list, nor any that other processes number after it. On SQLite, all processes have
// the one clock of their machine; see Renumber.
func (db *DB) NextSeq(ctx context.Context, atLeast int64) (seq int64, err error) {
	err = db.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := db.checkClock(ctx, tx, atLeast); err != nil {
			return err
		}
		const next = `UPDATE issuer SET seq = CASE WHEN seq + 1 > $1 THEN seq + 1 ELSE $1 END RETURNING seq`
		return wrap("numbering a trust list", tx.QueryRowContext(ctx, next, atLeast).Scan(&seq))
	})
	return seq, err
}

// Renumber undoes what a clock that was ahead has done: it has the next trust list
// numbered by the time, now, where it would be numbered further ahead than clocks
// may differ. It reports whether it was so. No number is given twice that an
// audience whose clock is right can have seen.
//
// Where the database has a clock of its own, it returns ErrClockAhead or
// ErrClockBehind for a now that differs by more than clocks may, and changes nothing.
// On SQLite nothing is known but the machine's clock: whoever calls must be sure that
// it is right. By one that is behind, numbers that are in order are given again.
func (db *DB) Renumber(ctx context.Context, now time.Time) (ahead bool, err error) {
	err = db.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		terms, err := db.agreed(ctx, tx, now)
		if err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, `UPDATE issuer SET seq = $1 WHERE seq > $1`, toMillis(now.Add(terms.Skew)))
		if err != nil {
			return wrap("renumbering trust lists", err)
		}
		n, err := result.RowsAffected()
		ahead = n > 0
		return wrap("renumbering trust lists", err)
	})
	return ahead, err
}
