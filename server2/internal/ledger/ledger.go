// Package ledger keeps SERVER2's invoices and their payments.
//
//	db, err := ledger.Open(ctx, "server2.db") // or "postgres://…"
//	added, err := db.Add(ctx, invoices)
//	invoice, err := db.Invoice(ctx, owner, "INV-42")
//	payment, repeated, err := db.Pay(ctx, order)
//
// # Invariants
//
// An invoice is paid once: by one request id of its owner and by one handoff.
// The tables say so themselves, so that no fault elsewhere, not even one in the
// record of redemptions, pays twice. A method that changes something returns nil
// only when the change is on disk; an error means that nothing of it is kept, but
// for ErrUncertain. An error other than those named here means that the database
// does not answer.
//
// Nobody sees what is somebody else's: every question names its owner.
//
// # Engines
//
// The SQL and the migrations are what SQLite and PostgreSQL have in common. What
// is the one's or the other's alone stands in sqlite.go and postgres.go.
package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What the methods answer when the database does.
var (
	// ErrNotFound means that the owner has no such invoice.
	ErrNotFound = errors.New("the owner has no such invoice")
	// ErrPaid means that the invoice was paid before, by another request.
	ErrPaid = errors.New("the invoice is paid")
	// ErrAmount means that the order's amount is not the invoice's.
	ErrAmount = errors.New("the amount is not the invoice's")
	// ErrRequestReused means that the payer used the request id before, with other
	// values.
	ErrRequestReused = errors.New("the request id was used with other values")
	// ErrHandoffReused means that the handoff has paid before.
	ErrHandoffReused = errors.New("the handoff has paid before")
	// ErrUncertain means that the connection was lost while a change was being
	// committed, and the database did not come back in time to ask it: the change
	// is kept whole, or not at all. To ask for the same again is safe, and tells.
	ErrUncertain = errors.New("the database was lost in the middle of a commit")
)

// patience is how long a call waits for the one writer, or for the answer to a
// read. It is well under any caller's deadline.
const patience = 3 * time.Second

// Owner is a user, known by an issuer and named by it: only both together name
// somebody.
type Owner struct {
	Issuer  string // iss
	Subject string // sub
}

// Amount is an amount of money.
type Amount struct {
	CurrencyCode string // ISO 4217
	MinorUnits   int64  // 1200 is 12.00 EUR
}

// DB is SERVER2's database. It is safe for concurrent use, in several processes
// too.
type DB struct {
	read   *sql.DB
	write  *sql.DB
	engine engine
}

// engine is what the databases do not have in common.
type engine interface {
	// transaction says how a change sees those that are made at the same time: all
	// of its reads are of one moment.
	transaction() *sql.TxOptions
	// conflicts reports whether a change failed because another one was made at
	// the same time, so that it can be tried again.
	conflicts(err error) bool
	// uncertain reports whether a commit that failed with err may have been made.
	uncertain(err error) bool
}

// Open opens a database and brings its tables up to date: PostgreSQL's at a URL
// postgres://…, or else the SQLite file at a path, which is made where there is
// none. It refuses a database that loses what it has acknowledged, or that others
// on the network or the machine can read: whoever writes it decides what is paid.
// Its errors do not contain the URL.
func Open(ctx context.Context, database string) (db *DB, err error) {
	switch scheme, _, isURL := strings.Cut(database, "://"); {
	case isURL && (scheme == "postgres" || scheme == "postgresql"):
		db, err = openPostgres(ctx, database)
	case isURL, nearlyPostgres(database):
		return nil, errors.New("must be a file or postgres://…")
	default:
		db, err = openSQLite(database)
	}
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := db.Ready(ctx); err != nil {
		return nil, errors.Join(failed("asking for invoices", err), db.Close())
	}
	return db, nil
}

// nearlyPostgres reports whether a text was meant for a server: to take it for a file
// would show the password in it.
func nearlyPostgres(database string) bool {
	user, _, at := strings.Cut(database, "@")
	return at && strings.Contains(user, ":") || strings.Contains(database, "password=") ||
		strings.HasPrefix(database, "postgres:") || strings.HasPrefix(database, "postgresql:")
}

// Close waits for running calls and closes the database.
func (db *DB) Close() error { return errors.Join(db.read.Close(), db.write.Close()) }

// Ready returns nil if the database answers, and is a ledger.
func (db *DB) Ready(ctx context.Context) error {
	var any bool
	return db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM invoices)`).Scan(&any)
}

// again is how long a change waits before it is tried again.
const again = 20 * time.Millisecond

// change runs do in a transaction that is on disk when change returns nil, and
// leaves nothing behind when it does not. do is run again where another change
// came between, and where a commit's answer was lost: what it does must find that
// it has been done.
func (db *DB) change(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var doubt error
	for {
		err := db.attempt(ctx, do)
		var unanswered *failure
		switch {
		case errors.Is(err, ErrUncertain):
			doubt = err
		case err != nil && db.engine.conflicts(err):
		case doubt != nil && errors.As(err, &unanswered):
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return cmp.Or(doubt, err)
		case <-time.After(again):
		}
	}
}

func (db *DB) attempt(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	tx, err := db.write.BeginTx(ctx, db.engine.transaction())
	if err != nil {
		return failed("beginning", err)
	}
	defer tx.Rollback() // does nothing once it is committed
	if err := do(ctx, tx); err != nil {
		return err
	}
	switch err := tx.Commit(); {
	case err == nil:
		return nil
	case db.engine.uncertain(err):
		return failed("committing", fmt.Errorf("%w: %w", ErrUncertain, err))
	default:
		return failed("committing", err)
	}
}

// querier is what reads, in a transaction or outside.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// failure is an error of the database.
type failure struct {
	doing string
	cause error
}

func failed(doing string, cause error) error { return &failure{doing, cause} }

// Error has no line twice: of PostgreSQL, an attempt with TLS and one without may
// have met the same.
func (f *failure) Error() string {
	var lines []string
	for line := range strings.SplitSeq(f.cause.Error(), "\n") {
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return "ledger: " + f.doing + ": " + strings.Join(lines, "\n")
}

func (f *failure) Unwrap() error { return f.cause }
