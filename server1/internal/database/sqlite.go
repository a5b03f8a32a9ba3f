package database

import (
	"context"
	"database/sql"
	"encoding/json"
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
	live, err := file.Read.PrepareContext(ctx, selectEachLive)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	client, err := file.Read.PrepareContext(ctx, selectEachClient)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &DB{
		Now: time.Now, read: file.Read, writer: fileWriter{file}, prepared: prepared, changed: make(chan struct{}, 1),
		dialect: dialect{holdInOrder: ` ORDER BY id`, isDuplicate: sqlite.IsDuplicate}, copyTo: file.Copy,
		live: reader("reading sessions", each(live).sessions), client: reader("reading clients", each(client).clients),
	}, nil
}

// A CROSS JOIN has SQLite look the rows up in this order, each by its key.
const (
	selectEachLive = `SELECT asked.key + 1, ` + sessionColumns + ` FROM json_each($1) AS asked
		CROSS JOIN sessions ON sessions.id_sha256 = asked.value
		CROSS JOIN users ON users.id = sessions.user_id
		WHERE users.disabled_at IS NULL`
	selectEachClient = `SELECT asked.key + 1, client_keys.jwk, ` + userColumns + ` FROM json_each($1) AS asked
		CROSS JOIN client_keys ON client_keys.kid = asked.value
		CROSS JOIN users ON users.id = client_keys.client_id
		WHERE users.disabled_at IS NULL`
)

func each(statement *sql.Stmt) many {
	return func(ctx context.Context, ids []string) (*sql.Rows, error) {
		list, err := json.Marshal(ids)
		if err != nil {
			return nil, err
		}
		return statement.QueryContext(ctx, string(list))
	}
}

// fileWriter is SQLite's changer.
type fileWriter struct{ *sqlite.File }

func (f fileWriter) ready(ctx context.Context) error {
	return f.Ready(ctx, neededTables...)
}

func (fileWriter) limit(int) {}
