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

func (db *DB) checkClock(ctx context.Context, tx *sql.Tx, at int64) error {
	var clock int64
	if err := tx.QueryRowContext(ctx, `SELECT `+db.dialect.clock).Scan(&clock); err != nil {
		return wrap("reading the clock", err)
	}
	if db.isAhead(at, clock) {
		return ErrClockAhead
	}
	return nil
}

// isAhead reports whether a time is further ahead of the database's clock than
// clocks may differ, by the terms that this process keeps to. All are in Unix
// milliseconds; a clock of 0 is this machine's own, which knows no better.
func (db *DB) isAhead(at, clock int64) bool {
	return clock != 0 && at > clock+db.skew.Load()
}

// Renumber undoes what a clock that was ahead has done: it has the next trust list
// numbered by the time, now, where it would be numbered further ahead than clocks
// may differ. It reports whether it was so. No number is given twice that an
// audience whose clock is right can have seen.
func (db *DB) Renumber(ctx context.Context, now time.Time) (ahead bool, err error) {
	err = db.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		terms, err := readTerms(ctx, tx, now)
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
