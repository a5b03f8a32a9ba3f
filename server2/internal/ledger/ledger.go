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
	"embed"
	"errors"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/migration"
)

//go:embed migrations/*.sql
var migrations embed.FS

// What the methods answer when the database does.
var (
	// ErrNotFound means that the owner has no such invoice, or no such payment.
	ErrNotFound = errors.New("the owner has no such invoice or payment")
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

// patienceAtStart is how long a program waits for its tables, before it serves anybody.
const patienceAtStart = 30 * time.Second

// turn is when a change is made.
type turn int

const (
	ordinary turn = iota
	first         // it passes those that wait: it is an operator's
	atStart       // likewise, and nobody is served before it
)

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
	engine engine
}

// engine is what the databases do not have in common.
type engine interface {
	// attempt runs do in a transaction, and commits it. All that do reads is of one
	// moment.
	attempt(ctx context.Context, when turn, do func(context.Context, *sql.Tx) error) error
	// conflicts reports whether a change failed because another one was made at
	// the same time, so that it can be tried again.
	conflicts(err error) bool
	// ready needs what a change needs, and changes nothing.
	ready(ctx context.Context) error
	// reserve waits until the database takes a change, and returns a connection for
	// it, if it has one for each.
	reserve(ctx context.Context) (*sql.Conn, error)
	limit(connections int)
	// uncertain reports whether a commit that failed with err may have been made.
	uncertain(err error) bool
	// Close closes the database, for readers too.
	Close() error
}

// answered reports whether an error of a change is an answer: nothing has failed.
func answered(err error) bool {
	return !errors.As(err, new(*failure))
}

// Open opens a database and brings its tables up to date: PostgreSQL's at a URL
// postgres://…, or else the SQLite file at a path, which is made where there is
// none. It refuses a database that loses what it has acknowledged, or that others
// on the network or the machine can read: its writers decide what is paid.
// Its errors do not contain the URL.
func Open(ctx context.Context, location string) (db *DB, err error) {
	at, err := serving.ParseLocation(location, "a file, or a URL that begins with postgres://", "postgres", "postgresql")
	switch {
	case err != nil:
		return nil, err
	case at.URL != nil:
		db, err = openPostgres(ctx, at.URL)
	default:
		db, err = openSQLite(ctx, at.Path)
	}
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := db.Ready(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// migrate brings the tables up to date. Of several processes that do so at once, one
// succeeds, and the changes of the others are tried again.
func (db *DB) migrate(ctx context.Context) error {
	change := func(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
		return db.change(ctx, atStart, func(ctx context.Context, tx *sql.Tx) error {
			err := do(ctx, tx)
			if err == nil || errors.Is(err, migration.ErrNewer) {
				return err
			}
			return failed("migrating", err)
		})
	}
	return migration.Apply(ctx, migration.Config{Files: migrations, Read: db.read, Change: change})
}

// Close waits for running calls and closes the database.
func (db *DB) Close() error { return db.engine.Close() }

// Ready returns nil if the database takes the changes that a payment needs.
func (db *DB) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return failed("asking for changes", db.engine.ready(ctx))
}

// Limit sets how many connections to a PostgreSQL may be open at once, at least 2.
// Of a SQLite file it changes nothing.
func (db *DB) Limit(connections int) { db.engine.limit(connections) }

// again is how long a change waits before it is tried again.
const again = 20 * time.Millisecond

// change runs do in a transaction that is on disk when change returns nil, and
// leaves nothing behind when it does not. do is run again where another change
// came between, and where a commit's answer was lost: what it does must find that
// it has been done.
func (db *DB) change(ctx context.Context, when turn, do func(context.Context, *sql.Tx) error) error {
	most := patience
	if when == atStart {
		most = patienceAtStart
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var doubt error
	for {
		err := db.engine.attempt(ctx, when, do)
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

// querier is what reads, in a transaction or outside.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// failure is an error of the database.
type failure struct {
	doing string
	cause error
}

// failed returns the failure that has a cause; nil where there is none.
func failed(doing string, cause error) error {
	if cause == nil {
		return nil
	}
	return &failure{doing, cause}
}

func (f *failure) Error() string { return "ledger: " + f.doing + ": " + f.cause.Error() }

func (f *failure) Unwrap() error { return f.cause }
