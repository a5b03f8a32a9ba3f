package database

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/handoff-auth/handoff/shared/serving/migration"
	"github.com/handoff-auth/handoff/shared/serving/sqlite"
)

// openSQLite opens the file at path.
func openSQLite(ctx context.Context, path string) (*DB, error) {
	file, err := sqlite.Open(ctx, path, refused)
	if err != nil {
		return nil, err
	}
	err = migration.Apply(ctx, migration.Config{Files: migrations, Read: file.Read, Change: file.ChangeAtStart, InOrder: `INTEGER PRIMARY KEY`})
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	prepared := map[string]*sql.Stmt{}
	for _, statement := range []string{recordHandoff, recordByClient, recordByGrant, noteHandoff, noteGrant} {
		if prepared[statement], err = file.Prepare(ctx, statement); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	db := &DB{
		Now: time.Now, read: file.Read, writer: fileWriter{file}, prepared: prepared, changed: make(chan struct{}, 1),
		dialect: dialect{holdInOrder: ` ORDER BY id`, isDuplicate: sqlite.IsDuplicate}, copyTo: file.Copy,
	}
	return db.prepare(ctx)
}

// fileWriter is SQLite's changer.
type fileWriter struct{ *sqlite.File }

func (f fileWriter) ready(ctx context.Context) error {
	return f.Ready(ctx, neededTables...)
}

func (fileWriter) limit(int) {}
