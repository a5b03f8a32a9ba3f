// Package migration brings the tables of a demo server's database up to date.
//
//	//go:embed migrations/*.sql
//	var files embed.FS
//
//	err := migration.Apply(ctx, migration.Config{Files: files, Read: pools.Read, Change: change, Lock: postgres.MigrationLock})
//
// # Invariants
//
// The files of the folder migrations are applied in the order of their names, all
// that a database lacks in one change, together with their numbers. A database that
// has all of them is not written to. One that has more than this program knows is
// refused. A file that has been released is never edited.
package migration

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrNewer means that a newer program has made the database.
var ErrNewer = errors.New("it belongs to a newer program")

// Config says what is applied to which database.
type Config struct {
	// Files has the folder migrations. Required.
	Files embed.FS
	// Read reads outside of a transaction. Required.
	Read *sql.DB
	// Change runs do in a transaction that is on disk when Change returns nil.
	// Required.
	Change func(ctx context.Context, do func(context.Context, *sql.Tx) error) error
	// Lock is a statement after which no other process migrates until the end of the
	// transaction. Empty: a transaction excludes all others, or Change runs do again
	// when another change came between.
	Lock string
	// InOrder is the type of a key that grows, for "IN ORDER" in a file. Empty: there
	// is none.
	InOrder string
}

// Apply applies what the database lacks.
func Apply(ctx context.Context, c Config) error {
	files, err := c.Files.ReadDir("migrations")
	if err != nil {
		return err
	}
	if have, err := version(ctx, c.Read); err == nil && have == len(files) {
		return nil
	}
	return c.Change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if c.Lock != "" {
			if _, err := tx.ExecContext(ctx, c.Lock); err != nil {
				return err
			}
		}
		const journal = `CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)`
		if _, err := tx.ExecContext(ctx, journal); err != nil {
			return err
		}
		have, err := version(ctx, tx)
		if err != nil {
			return err
		}
		if have > len(files) {
			return fmt.Errorf("the database has version %d and this program knows %d: %w", have, len(files), ErrNewer)
		}
		for i, file := range files[have:] {
			if err := c.apply(ctx, tx, have+i+1, file.Name()); err != nil {
				return fmt.Errorf("%s: %w", file.Name(), err)
			}
		}
		return nil
	})
}

// version returns how many migrations a database has.
func version(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
},
) (have int, err error) {
	err = q.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM migrations`).Scan(&have)
	return have, err
}

// apply claims a number before it makes the change: of several processes without a
// lock, the others wait here, and then fail.
func (c Config) apply(ctx context.Context, tx *sql.Tx, version int, file string) error {
	const claim = `INSERT INTO migrations (version, applied_at) VALUES ($1, $2)`
	if _, err := tx.ExecContext(ctx, claim, version, time.Now().UnixMilli()); err != nil {
		return err
	}
	text, err := c.Files.ReadFile("migrations/" + file)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, strings.ReplaceAll(string(text), "IN ORDER,", c.InOrder+","))
	return err
}
