// Package database keeps what SERVER1 knows: the users, their sessions, the audit
// of what was done in their names, what has been taken back, and the issuer's
// signing keys and trust list, as far as its processes must agree on them. It is a
// SQLite file or, for several processes on several machines, PostgreSQL.
//
//	db, err := database.Open(ctx, "server1.db") // or "postgres://…"
//	err = db.AddUser(ctx, database.User{Name: "alice", …})
//	err = db.StartSession(ctx, session)
//	err = db.RecordHandoff(ctx, session, claims, now) // before the token is handed out
//	err = db.EndSession(ctx, session, now)            // takes the session's handoffs back
//
// # Invariants
//
// A method that changes something returns nil only when the change, with its
// audit row, is on disk; any error means that it must not be acknowledged. What
// must still be true for a change (the session lives, the user is not disabled or
// cut off) is checked in the change's own transaction, under the lock of the
// user's row, so that a sign-out which was acknowledged cannot be overtaken. An
// error other than those named here means that the database does not answer.
//
// Whatever takes handoffs back records it in the transaction that ends the
// session or the user; and as every handoff is recorded before it is handed out,
// the record knows until when that matters: what touches no live token is not
// listed.
//
// # What it does not do
//
// It never deletes from the audit: how long that is kept is the operator's to
// decide. What is older than the longest token life matters to no promise. It has
// no private key.
//
// # Dialects
//
// The SQL is what SQLite and PostgreSQL have in common. What is SQLite's alone
// stands in sqlite.go and writer.go, what is PostgreSQL's in postgres.go. SQLite
// has one writer at a time; on PostgreSQL, a change first locks the row of the one
// user whom it concerns, and then sees what is committed by then.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What the methods answer when the database does.
var (
	// ErrNotFound means that there is no such user, live session or handoff.
	ErrNotFound = errors.New("not found")
	// ErrNameTaken means that another user has the name.
	ErrNameTaken = errors.New("the name is taken")
	// ErrTooMany means that a user has had as many handoffs taken back one by one as
	// can be listed.
	ErrTooMany = errors.New("as many handoffs of the user are taken back as can be listed")
	// ErrNoIssuer means that no server has run on the database yet.
	ErrNoIssuer = errors.New("no server has run on this database yet")
	// ErrClockAhead means that by this machine's clock no handoff can be issued, no
	// trust list numbered and no signing key changed.
	ErrClockAhead = errors.New("this machine's clock is ahead of the database's by more than clocks may differ")
	// ErrClockBehind means that by this machine's clock no signing key can be changed.
	ErrClockBehind = errors.New("this machine's clock is behind the database's by more than clocks may differ")
)

// CutOffError is why a handoff cannot be recorded whose user was cut off: it was
// issued at or before that.
type CutOffError struct {
	// At is the latest `iat` that is taken back.
	At time.Time
}

// Error says so.
func (*CutOffError) Error() string { return "the handoff is taken back with all others of its user" }

// refused reports whether err is an answer, and nothing has failed.
func refused(err error) bool {
	for _, answer := range []error{ErrNotFound, ErrNameTaken, ErrTooMany, ErrNoIssuer, ErrClockAhead, ErrClockBehind} {
		if errors.Is(err, answer) {
			return true
		}
	}
	var cut *CutOffError
	return errors.As(err, &cut)
}

// DB is SERVER1's database. It is safe for concurrent use, in several processes
// too.
type DB struct {
	read    *sql.DB
	live    *sql.Stmt // selectLive, of read
	writer  changer
	dialect dialect
	changed chan struct{}
	ring    sync.Mutex   // held by ChangeRing
	skew    atomic.Int64 // of the terms that this process keeps to, in milliseconds
	opened  time.Time
}

// changer makes changes.
type changer interface {
	// change has do made in a transaction. It returns nil when that is on disk.
	change(ctx context.Context, do func(context.Context, *sql.Tx) error) error
	close() error
}

// dialect is where the databases differ otherwise.
type dialect struct {
	hold        string           // ends a SELECT whose rows are to stand until the change ends
	holdFree    string           // likewise, and leaves out the rows that others hold
	clock       string           // the database's own time, in Unix milliseconds; 0: it is this machine's
	snapshot    *sql.TxOptions   // of a transaction that reads what was there at one moment
	isDuplicate func(error) bool // a row was refused because its key exists
}

// Open opens a database, and brings its tables up to date.
//
// A location that begins with postgres:// or postgresql:// is that of a PostgreSQL
// database. Off this machine it must say sslmode=verify-full; a server that would
// lose what it has acknowledged, as fsync or synchronous_commit is off, is refused.
//
// Any other is the path of a SQLite file, which is made (0600) where there is none,
// and refused if others can read it: it holds password hashes.
//
// The error names no setting, and repeats no URL, which can have a password.
func Open(ctx context.Context, location string) (*DB, error) {
	if isURL(location) {
		return openPostgres(ctx, location)
	}
	return openSQLite(ctx, location)
}

// OpenExisting is Open, but makes no file.
func OpenExisting(ctx context.Context, location string) (*DB, error) {
	if !isURL(location) {
		if _, err := os.Stat(location); err != nil {
			return nil, err
		}
	}
	return Open(ctx, location)
}

func isURL(location string) bool {
	return strings.HasPrefix(location, "postgres://") || strings.HasPrefix(location, "postgresql://")
}

func (db *DB) change(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	return db.writer.change(ctx, do)
}

// Changed is signalled when this process has changed what the trust list states.
// One signal can stand for several changes. Others' changes show in Changes.
func (db *DB) Changed() <-chan struct{} { return db.changed }

// tell signals Changed.
func (db *DB) tell() {
	select {
	case db.changed <- struct{}{}:
	default: // a signal that is still waiting covers this change too
	}
}

// look has do read what was there at one moment.
func (db *DB) look(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tx, err := db.read.BeginTx(ctx, db.dialect.snapshot)
	if err != nil {
		return wrap("looking", err)
	}
	defer tx.Rollback() // it has changed nothing
	return do(ctx, tx)
}

// Close waits for running calls and closes the database.
func (db *DB) Close() error {
	return errors.Join(db.live.Close(), db.read.Close(), db.writer.close())
}

// Ready returns nil if the database answers.
func (db *DB) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var version int
	return db.read.QueryRowContext(ctx, `SELECT MAX(version) FROM migrations`).Scan(&version)
}

// wrap says what failed, unless the answer is that there is no such row.
func wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	}
	return fmt.Errorf("database: %s: %w", what, err)
}

// The zero time is kept as 0.
func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func fromNull(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}
