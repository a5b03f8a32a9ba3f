// Package ledger keeps SERVER2's invoices and their payments.
//
//	db, err := ledger.Open(ctx, "server2.db")
//	added, err := db.Add(ctx, invoices)
//	invoice, err := db.Invoice(ctx, owner, "INV-42")
//	payment, repeated, err := db.Pay(ctx, order)
//
// # Invariants
//
// An invoice is paid once: by one request id of its owner and by one handoff.
// The tables say so themselves, so that no fault elsewhere, not even one in the
// record of redemptions, pays twice. A method that changes something returns nil
// only when the change is on disk; any error means that nothing of it is kept.
// An error other than those named here means that the database does not answer.
//
// Nobody sees what is somebody else's: every question names its owner.
//
// # Dialects
//
// The SQL is what SQLite and PostgreSQL have in common. What is SQLite's alone
// stands in sqlite.go.
package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
	read  *sql.DB
	write *sql.DB // one connection: its transactions take their turns
}

// Close waits for running calls and closes the database.
func (db *DB) Close() error { return errors.Join(db.read.Close(), db.write.Close()) }

// Ready returns nil if the database answers, and is a ledger.
func (db *DB) Ready(ctx context.Context) error {
	var any bool
	return db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM invoices)`).Scan(&any)
}

// change runs do in a transaction that is on disk when change returns nil, and
// leaves nothing behind when it does not.
func (db *DB) change(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("ledger: beginning: %w", err)
	}
	defer tx.Rollback() // does nothing once it is committed
	if err := do(ctx, tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("ledger: committing: %w", err)
	}
	return nil
}

// querier is what reads, in a transaction or outside.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func failed(doing string, err error) error { return fmt.Errorf("ledger: %s: %w", doing, err) }
