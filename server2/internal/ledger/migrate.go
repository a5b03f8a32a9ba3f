package ledger

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"time"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate applies what the database does not have yet, in order, all in one
// transaction. A file once released is never edited.
func (db *DB) migrate(ctx context.Context) error {
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return err
	}
	return db.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		const journal = `CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)`
		if _, err := tx.ExecContext(ctx, journal); err != nil {
			return failed("making the table of migrations", err)
		}
		var have int
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM migrations`).Scan(&have); err != nil {
			return failed("reading the version", err)
		}
		if have > len(files) {
			return fmt.Errorf("the database has version %d and this program knows %d: it belongs to a newer one", have, len(files))
		}
		for i, file := range files[have:] {
			if err := apply(ctx, tx, have+i+1, file.Name()); err != nil {
				return failed(file.Name(), err)
			}
		}
		return nil
	})
}

// apply claims a version before it makes it: of several processes that start at
// once, the others wait here, and then find it made.
func apply(ctx context.Context, tx *sql.Tx, version int, file string) error {
	const claim = `INSERT INTO migrations (version, applied_at) VALUES ($1, $2)`
	if _, err := tx.ExecContext(ctx, claim, version, time.Now().UnixMilli()); err != nil {
		return err
	}
	text, err := migrations.ReadFile("migrations/" + file)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, string(text))
	return err
}
