package ledger

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"

	_ "modernc.org/sqlite"
)

// sqlite is the engine of a file. Its transactions take their turns, and its
// commits are made in this process.
type sqlite struct{}

func (sqlite) transaction() *sql.TxOptions { return nil }
func (sqlite) conflicts(error) bool        { return false }
func (sqlite) uncertain(error) bool        { return false }

// openSQLite opens the file at path, and makes it (0600) where there is none.
func openSQLite(path string) (*DB, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	write, err := sql.Open("sqlite", source(path, "immediate", "synchronous(FULL)"))
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", source(path, "deferred", "query_only(1)"))
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return &DB{read: read, write: write, engine: sqlite{}}, nil
}

// source returns the data source name. WAL lets reads go on beside the writer;
// busy_timeout, in milliseconds, waits for another process's writer.
func source(path, lock string, pragmas ...string) string {
	query := url.Values{
		"_txlock": {lock},
		"_pragma": append([]string{"busy_timeout(1000)", "journal_mode(WAL)", "foreign_keys(1)"}, pragmas...),
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}).String()
}

// private makes the file, so that it and the journals that SQLite makes in its
// image belong to their owner alone.
func private(path string) error {
	if path == "" {
		return errors.New("no file is given")
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
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
		return fmt.Errorf("%s: others can read or change it (mode %04o): chmod 600", path, info.Mode().Perm())
	}
	return nil
}
