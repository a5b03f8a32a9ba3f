package ledger

import (
	"context"
	"database/sql"

	"github.com/handoff-auth/handoff/shared/serving/sqlite"
)

// file is the engine of a file. Its transactions take their turns, and its commits
// are made in this process.
type file struct{ *sqlite.File }

func (file) conflicts(error) bool { return false }
func (file) uncertain(error) bool { return false }
func (file) limit(int)            {}

func (f file) ready(ctx context.Context) error { return f.Ready(ctx, "invoices", "payments") }

func (f file) attempt(ctx context.Context, when turn, do func(context.Context, *sql.Tx) error) error {
	change := f.Change
	switch when {
	case first:
		change = f.ChangeFirst
	case atStart:
		change = f.ChangeAtStart
	}
	var own error
	err := change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		own = do(ctx, tx)
		return own
	})
	if err == own {
		return err
	}
	return failed("changing", err) // or a change that was to be committed with it
}

// openSQLite opens the file at path, and makes it (0600) where there is none.
func openSQLite(ctx context.Context, path string) (*DB, error) {
	opened, err := sqlite.Open(ctx, path, answered)
	if err != nil {
		return nil, err
	}
	return &DB{read: opened.Read, engine: file{opened}}, nil
}
