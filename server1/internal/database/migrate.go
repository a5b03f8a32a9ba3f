package database

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"time"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate applies what the database does not have yet, in order, all with their
// numbers in one transaction, which alone, if not empty, has one process at a time
// make. A file once released is never edited.
func migrate(ctx context.Context, write *sql.DB, alone string) error {
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return err
	}
	tx, err := write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if alone != "" {
		if _, err := tx.ExecContext(ctx, alone); err != nil {
			return err
		}
	}
	const journal = `CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)`
	if _, err := tx.ExecContext(ctx, journal); err != nil {
		return err
	}
	var have int
	if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM migrations`).Scan(&have); err != nil {
		return err
	}
	if have > len(files) {
		return fmt.Errorf("the database has version %d and this program knows %d: it belongs to a newer one", have, len(files))
	}
	for i, file := range files[have:] {
		text, err := migrations.ReadFile("migrations/" + file.Name())
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, string(text)); err != nil {
			return fmt.Errorf("%s: %w", file.Name(), err)
		}
		const applied = `INSERT INTO migrations (version, applied_at) VALUES ($1, $2)`
		if _, err := tx.ExecContext(ctx, applied, have+i+1, toMillis(time.Now())); err != nil {
			return err
		}
	}
	return tx.Commit()
}
