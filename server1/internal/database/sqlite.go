package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// openSQLite opens the file at path.
func openSQLite(ctx context.Context, path string) (*DB, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	write, err := sql.Open("sqlite", source(path, "immediate", "synchronous(FULL)"))
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	if err := migrate(ctx, write, ""); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read, err := sql.Open("sqlite", source(path, "deferred", "query_only(1)"))
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	live, err := read.PrepareContext(ctx, selectLive)
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	return &DB{read: read, live: live, writer: newWriter(write), dialect: dialect{clock: `0`, isDuplicate: isDuplicate}, changed: make(chan struct{}, 1), opened: time.Now()}, nil
}

// source returns the data source name. WAL lets reads go on beside the writer;
// busy_timeout, in milliseconds, waits for another process's writer.
func source(path, lock string, pragmas ...string) string {
	query := url.Values{
		"_txlock": {lock},
		"_pragma": append([]string{"busy_timeout(2000)", "journal_mode(WAL)", "foreign_keys(1)"}, pragmas...),
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}).String()
}

// private makes the file, so that it and the journals that SQLite makes in its
// image belong to their owner alone.
func private(path string) error {
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %#o: others can read password hashes (chmod 600)", path, info.Mode().Perm())
	}
	return nil
}

// isDuplicate reports whether a row was refused because its key exists.
func isDuplicate(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) &&
		(e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}
