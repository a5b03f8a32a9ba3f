// Package database keeps SERVER1's users, their sessions and the audit of what
// was done in their names.
//
//	db, err := database.Open(ctx, "server1.db")
//	err = db.AddUser(ctx, database.User{Name: "alice", …})
//	err = db.StartSession(ctx, session)
//	err = db.RecordHandoff(ctx, handoff) // before the token is handed out
//
// # Invariants
//
// A method that changes something returns nil only when the change, with its
// audit row, is on disk; any error means that nothing of it is kept. What must
// still be true for a change (the session lives, the user is not disabled) is
// checked in the change's own transaction, so that a sign-out which was
// acknowledged cannot be overtaken. An error other than those named here means
// that the database does not answer.
//
// # What it does not do
//
// It never deletes from the audit: how long that is kept is the operator's to
// decide. What is older than the longest token life matters to no promise.
//
// # Dialects
//
// The SQL is what SQLite and PostgreSQL have in common. What is SQLite's alone
// stands in sqlite.go and writer.go.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// What the methods answer when the database does.
var (
	// ErrNotFound means that there is no such user or live session.
	ErrNotFound = errors.New("not found")
	// ErrNameTaken means that another user has the name.
	ErrNameTaken = errors.New("the name is taken")
)

// DB is SERVER1's database. It is safe for concurrent use, in several processes
// too.
type DB struct {
	read   *sql.DB
	live   *sql.Stmt // selectLive, of read
	writer *writer
}

// Close waits for running calls and closes the database.
func (db *DB) Close() error {
	return errors.Join(db.live.Close(), db.read.Close(), db.writer.pool.Close())
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

func toMillis(t time.Time) int64    { return t.UnixMilli() }
func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
func fromNull(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return fromMillis(ms.Int64)
}
