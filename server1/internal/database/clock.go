package database

import (
	"context"
	"database/sql"
	"time"

	"github.com/handoff-auth/handoff/shared/trust"
)

// ownClock returns the database's own time in Unix milliseconds; 0: it is this
// machine's, which knows no better.
func (db *DB) ownClock(ctx context.Context, tx *sql.Tx) (clock int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT `+db.dialect.clock).Scan(&clock)
	return clock, wrap("reading the clock", err)
}

func (db *DB) checkClock(ctx context.Context, tx *sql.Tx, at int64) error {
	clock, err := db.ownClock(ctx, tx)
	if err == nil && db.isAhead(at, clock) {
		err = ErrClockAhead
	}
	return err
}

// isAhead reports whether a time is further ahead of the database's clock than
// clocks may differ, by the terms that this process keeps to. All are in Unix
// milliseconds.
func (db *DB) isAhead(at, clock int64) bool {
	return clock != 0 && at > clock+db.skew.Load()
}

// agreed returns the terms at now, the time by this process's clock, and refuses one
// that is further from the database's clock, either way, than they allow.
func (db *DB) agreed(ctx context.Context, tx *sql.Tx, now time.Time) (trust.Terms, error) {
	asked := time.Now()
	clock, err := db.ownClock(ctx, tx)
	if err != nil {
		return trust.Terms{}, err
	}
	took := time.Since(asked) // by which an answer can be later than now
	by := now
	if clock != 0 {
		by = fromMillis(clock)
	}
	terms, err := readTerms(ctx, tx, by)
	switch {
	case err != nil || clock == 0:
		return terms, err
	case now.Sub(by) > terms.Skew:
		return terms, ErrClockAhead
	case by.Sub(now) > terms.Skew+took:
		return terms, ErrClockBehind
	}
	return terms, nil
}

// longAgo is how long ago whatever can be alive was issued: no handoff lives for
// half as long.
const longAgo = 10 * time.Minute

// vouched returns the latest moment, up to now, of which it is sure that it has come,
// in Unix milliseconds. Where this machine has the only clock, that is as it stood
// when the database was opened and has gone on by itself since, however it was set
// meanwhile; and 0 until all is dead, by any clock, that was alive then.
func (db *DB) vouched(ctx context.Context, tx *sql.Tx, now time.Time) (int64, error) {
	clock, err := db.ownClock(ctx, tx)
	if err != nil {
		return 0, err
	}
	if clock == 0 {
		passed := time.Since(db.opened)
		if passed < longAgo {
			return 0, nil
		}
		clock = db.opened.Add(passed).UnixMilli()
	}
	return min(clock, toMillis(now)), nil
}
