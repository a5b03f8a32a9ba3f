package database

import (
	"context"
	"database/sql"
	"time"
)

// querier is what reads, in a transaction or outside.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// greatestSkew is how much clocks may differ where no server has said how much. It
// is the most that a server can say.
const greatestSkew = time.Minute

// checkClock returns ErrClock where the clocks of this process and of the database
// differ by more than they may. On SQLite there is one clock, the machine's.
func (db *DB) checkClock(ctx context.Context, q querier) error {
	if db.dialect.clock == "" {
		return nil
	}
	before := db.Now()
	var clock, skew int64 // Unix milliseconds, and milliseconds
	query := `SELECT ` + db.dialect.clock + `, COALESCE((SELECT MAX(skew) FROM terms), $1)`
	if err := q.QueryRowContext(ctx, query, greatestSkew.Milliseconds()).Scan(&clock, &skew); err != nil {
		return wrap("reading the clock", err)
	}
	after := db.Now()
	if own := db.skew.Load(); own > 0 {
		skew = own
	}
	apart := millis(skew + 1) // both are rounded
	wrong := fromMillis(clock).Before(before.Add(-apart)) || fromMillis(clock).After(after.Add(apart))
	db.wrong.Store(wrong)
	if wrong {
		return ErrClock
	}
	return nil
}

// inTime returns do with the clock checked before it and, where it changes what the trust
// list states, with that noted after it: once and as the last step, since
// a change that has noted something holds up others that do.
func (db *DB) inTime(do func(context.Context, *transaction) error) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, tx *sql.Tx) error {
		if err := db.checkClock(ctx, tx); err != nil {
			return err
		}
		making := &transaction{Tx: tx}
		if err := do(ctx, making); err != nil || !making.listed {
			return err
		}
		return noteChange(ctx, making)
	}
}
