package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handoff-auth/handoff/shared/serving/postgres"
)

// postgreSQL is the engine of a server. Its transactions run side by side; where
// two of them would break a constraint, one fails and is tried again.
type postgreSQL struct{ *postgres.DB }

// SQLSTATEs of a change that another one came between.
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	duplicateObject      = "42710" // a table's type, where two make the table
	duplicateTable       = "42P07"
)

func (p postgreSQL) attempt(ctx context.Context, _ turn, do func(context.Context, *sql.Tx) error) error {
	own := reserved(ctx)
	defer giveBack(own)
	tx, err := p.begin(ctx, own)
	if err != nil {
		return failed("beginning", err)
	}
	defer tx.Rollback() // does nothing once it is committed
	if err := do(ctx, tx); err != nil {
		return err
	}
	err = tx.Commit()
	if err != nil && p.uncertain(err) {
		err = fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return failed("committing", err)
}

// begin begins a transaction, on the connection that the call has reserved while
// that lives.
func (p postgreSQL) begin(ctx context.Context, own *sql.Conn) (*sql.Tx, error) {
	options := &sql.TxOptions{Isolation: sql.LevelRepeatableRead}
	if own != nil {
		if tx, err := own.BeginTx(ctx, options); err == nil {
			return tx, nil
		}
	}
	return p.Write.BeginTx(ctx, options)
}

func (postgreSQL) conflicts(err error) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code {
	case uniqueViolation, serializationFailure, deadlockDetected, duplicateObject, duplicateTable:
		return true
	}
	return false
}

// uncertain is false where the server says that it has not committed, and where
// it was never asked to. pgconn.SafeToRetry does not tell: with pgx 5.12 it is
// true when the connection breaks after the commit was sent.
func (postgreSQL) uncertain(err error) bool {
	var answer *pgconn.PgError
	switch {
	case errors.As(err, &answer):
		return answer.SeverityUnlocalized != "ERROR" // else the session ended with it
	case errors.Is(err, pgx.ErrTxCommitRollback), errors.Is(err, sql.ErrTxDone):
		return false
	}
	return err != context.DeadlineExceeded && err != context.Canceled // bare: database/sql has not called the driver
}

func (p postgreSQL) ready(ctx context.Context) error { return p.Ready(ctx, "invoices", "payments") }

func (p postgreSQL) limit(connections int) { p.Limit(connections) }

// openPostgres opens the database at a URL.
func openPostgres(ctx context.Context, u *url.URL) (*DB, error) {
	pools, err := postgres.Open(ctx, u, "handoff-server2")
	if err != nil {
		return nil, err
	}
	return &DB{read: pools.Read, engine: postgreSQL{pools}}, nil
}
