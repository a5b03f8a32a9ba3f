// Package sqlite opens the SQLite file of a demo server.
//
//	file, err := sqlite.Open(ctx, "server1.db", isAnswer)
//	err = file.Change(ctx, func(ctx context.Context, tx *sql.Tx) error { … })
//	err = file.ChangeFirst(ctx, revoke) // ahead of everything that waits
//	row := file.Read.QueryRowContext(ctx, …)
//
// # Turns
//
// SQLite has one writer at a time, and its lock has no queue: a process that writes
// without a pause takes the lock again before a waiting one looks. So a process that
// wants to write first takes a second lock, on the file PATH-turn, and holds it only
// until its transaction has begun: a busy process lets a waiting one pass there. One
// that waits to make a change of ChangeFirst also locks the file PATH-first, and the
// others do not begin until it has. It waits for two transactions of others at most,
// or for those of others that go first too.
//
// Within a process, changes that come while another is being committed are committed
// together, and those of ChangeFirst before all others.
//
// # Room
//
// On a disk that is nearly full, only changes of ChangeFirst are made, and Ready says
// so. After a transaction that failed, the next one writes even if it changes nothing: on
// a disk that takes nothing Ready fails, and so does an empty Change.
//
// # Invariants
//
// A change that returns nil is on disk. One that returns an error has left nothing
// behind. The file, the journals and the lock file belong to their owner only.
//
// # What it does not do
//
// The turns are for programs that use this package. Another program, such as the
// sqlite3 shell, still waits for SQLite's own lock.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// patience is how long a transaction may take, with the wait for other processes.
// It is well under any caller's deadline.
const patience = 3 * time.Second

// patienceAtStart is likewise, for what a program does before it serves anybody: a
// large table is changed, or the machine has just begun itself.
const patienceAtStart = 30 * time.Second

// File is an open database. It is safe for concurrent use.
type File struct {
	// Read runs statements that change nothing. They go on beside a change, and see
	// what is on disk.
	Read *sql.DB

	writer *writer
}

// Open opens the file at path, or makes it with mode 0600. It refuses a file that
// others can read. answer reports whether an error of a change is an answer: nothing
// has failed, and the changes that are committed with it stand.
func Open(ctx context.Context, path string, answer func(error) bool) (*File, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	turn, err := openTurn(path)
	if err != nil {
		return nil, err
	}
	write, err := openWriter(ctx, path, turn)
	if err != nil {
		return nil, errors.Join(err, turn.close())
	}
	read, err := sql.Open("sqlite", Source(path, "deferred", "query_only(1)"))
	if err != nil {
		return nil, errors.Join(err, write.Close(), turn.close())
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return &File{Read: read, writer: newWriter(write, turn, answer, func() (uint64, error) { return roomAt(path) })}, nil
}

// writerCache has the writer keep 32 MB of pages. Ids are random, so each row touches
// pages anywhere in their indexes: with the usual 2 MB, those of a large table are read
// again each time.
const writerCache = "cache_size(-32000)"

// writerLog has the write-ahead log grow to 8,000 pages, 32 MB, before they are copied to
// the file: a page that changes often is copied less often than with the usual 1,000. It is
// well under reserve, as the copies can need as much room again.
const writerLog = "wal_autocheckpoint(8000)"

// openWriter opens the connection that writes. To turn a new file into one with a
// write-ahead log takes SQLite's lock too.
func openWriter(ctx context.Context, path string, turn *turn) (*sql.DB, error) {
	write, err := sql.Open("sqlite", Source(path, "immediate", "synchronous(FULL)", writerCache, writerLog))
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(ctx, patienceAtStart)
	defer cancel()
	err = turn.take(ctx, true)
	if err == nil {
		err = errors.Join(write.PingContext(ctx), turn.leave())
	}
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	return write, nil
}

// Close waits for running calls and closes the database.
func (f *File) Close() error {
	return errors.Join(f.Read.Close(), f.writer.close())
}

// Copy writes the database, as it is at one moment, to an empty file. Other processes
// go on.
func (f *File) Copy(ctx context.Context, file string) error {
	file, err := filepath.Abs(file) // for SQLite, file:… is a URI and :memory: no file
	if err == nil {
		_, err = f.writer.pool.ExecContext(ctx, `VACUUM INTO $1`, file)
	}
	return err
}

// Source returns the data source name of the file at path. lock is "immediate",
// "deferred" or "exclusive", as SQLite's BEGIN has it. The write-ahead log lets reads
// go on beside the writer; busy_timeout, in milliseconds, waits for other processes.
func Source(path, lock string, pragmas ...string) string {
	query := url.Values{
		"_txlock": {lock},
		"_pragma": append([]string{"busy_timeout(2000)", "journal_mode(WAL)", "foreign_keys(1)"}, pragmas...),
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}).String()
}

// private makes the file, so that it and the journals that SQLite makes in its
// image belong to their owner only. It opens no file that is there: to close it
// would drop the locks that SQLite has on it in this process.
func private(path string) error {
	if path == "" {
		return errors.New("no file is given")
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		var f *os.File
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return f.Close()
		}
		if errors.Is(err, fs.ErrExist) { // another process was first
			info, err = os.Stat(path)
		}
	}
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %#o: others can read or change it (chmod 600)", path, info.Mode().Perm())
	}
	return nil
}

// IsDuplicate reports whether a row was refused because its key exists.
func IsDuplicate(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) &&
		(e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}
