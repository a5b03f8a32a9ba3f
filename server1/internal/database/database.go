// Package database keeps what SERVER1 knows: the users, their sessions, the audit
// of what was done in their names, what has been taken back, and the issuer's
// signing keys and trust list, as far as its processes must agree on them. It is a
// SQLite file or, for several processes on several machines, PostgreSQL.
//
//	db, err := database.Open(ctx, "server1.db") // or "postgres://…"
//	err = db.AddUser(ctx, database.User{Name: "alice", …})
//	err = db.StartSession(ctx, session)
//	err = db.RecordHandoff(ctx, session, claims, now) // before the token is handed out
//	err = db.EndSession(ctx, session, now)            // takes the session's handoffs back
//
// # Invariants
//
// A method that changes something returns nil only when the change, with its
// audit row, is on disk; any error means that it must not be acknowledged. What
// must still be true for a change (the session lives, the user is not disabled or
// cut off) is checked in the change's own transaction, under the lock of the
// user's row, so that a sign-out which was acknowledged cannot be overtaken. An
// error other than those named here means that the database does not answer.
//
// All that takes handoffs back records it in the transaction that ends the
// session or the user; and as every handoff is recorded before it is handed out,
// the record knows until when that matters: what touches no live token is not
// listed.
//
// # What it does not do
//
// It has no private key. It deletes from the audit only what Sweep is told: a row that
// is older than the longest token life matters to no promise.
//
// # Clocks
//
// PostgreSQL has a clock of its own. A process whose clock differs from it by more
// than --skew changes nothing and is not ready. On SQLite there is one clock, the
// machine's, and nothing to hold it against: it must be right before a server starts.
//
// # Dialects
//
// The SQL is what SQLite and PostgreSQL have in common. What only one of them has
// stands in sqlite.go and postgres.go. SQLite has one writer at a time; on PostgreSQL,
// a change first locks the row of the user whom it concerns, and then sees what is
// committed by then. A change that locks more has one order, so that no two wait for
// each other: users, then grants, both by the bytes of their ids, then anything else, and
// last what counts the changes of the trust list.
//
// On both, what takes something back goes ahead of what hands something out: it does
// not wait for the callers that are queued, in this process or in another.
package database

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

//go:embed migrations/*.sql
var migrations embed.FS

// What the methods answer when the database does.
var (
	// ErrNotFound means that there is no such user, live session or handoff.
	ErrNotFound = errors.New("not found")
	// ErrNameTaken means that another user has the name.
	ErrNameTaken = errors.New("the name is taken")
	// ErrTooMany means that a user has as many as can be: of handoffs that are taken
	// back one by one, of grants, or of a client's keys.
	ErrTooMany = errors.New("there are as many as can be")
	// ErrKeyTaken means that a key is another client's, or signs handoffs.
	ErrKeyTaken = errors.New("the key is another client's, or signs handoffs")
	// ErrNoClient means that there is no such client, or it is disabled.
	ErrNoClient = errors.New("no such client")
	// errNotAFile is Backup's on PostgreSQL.
	errNotAFile = errors.New("the database is a PostgreSQL: pg_dump copies it")
	// ErrNoGrant means that there is no such grant, or it does not stand.
	ErrNoGrant = errors.New("no such grant")
	// ErrRoles means that a user has other roles than those by which a token was signed.
	ErrRoles = errors.New("the user has other roles by now")
	// ErrSpent means that an assertion has been spent before.
	ErrSpent = errors.New("the assertion has been spent before")
	// ErrNoIssuer means that no server has run on the database yet.
	ErrNoIssuer = errors.New("no server has run on this database yet")
	// ErrClock means that the clocks of this machine and of the database differ by more
	// than they may (--skew): nothing is done by such a clock.
	ErrClock = errors.New("the clocks of this machine and of the database differ by more than they may (--skew)")
)

// CutOffError is why a handoff cannot be recorded whose user was cut off: it was
// issued at or before that.
type CutOffError struct {
	// At is the latest `iat` that is taken back.
	At time.Time
}

// Error says so.
func (*CutOffError) Error() string { return "the handoff is taken back with all others of its user" }

// refused reports whether err is an answer, and nothing has failed.
func refused(err error) bool {
	answers := []error{ErrNotFound, ErrNameTaken, ErrTooMany, ErrKeyTaken, ErrNoClient, ErrNoGrant, ErrRoles, ErrSpent, ErrNoIssuer, ErrClock}
	return errors.As(err, new(*CutOffError)) || slices.ContainsFunc(answers, func(answer error) bool { return errors.Is(err, answer) })
}

// DB is SERVER1's database. It is safe for concurrent use, in several processes
// too.
type DB struct {
	// Now is the clock of this process, which is held against the database's own:
	// time.Now, unless set before use.
	Now func() time.Time

	read    *sql.DB
	live    func(context.Context, sessionAt) (Session, error)            // or ErrNotFound
	client  func(ctx context.Context, kid string) (clientWithKey, error) // likewise
	writer  changer
	dialect dialect
	// prepared are statements of the writer's, by their text.
	prepared map[string]*sql.Stmt
	together *group[issued, bool] // records handoffs; nil: the writer commits them together
	entries  knownEntries
	changed  chan struct{}
	copyTo   func(ctx context.Context, file string) error // nil: it is no file
	ring     sync.Mutex                                   // held by ChangeRing
	skew     atomic.Int64                                 // of the terms that this process keeps to, in milliseconds
	wrong    atomic.Bool                                  // by the last look, the clocks differ by more than they may
}

// changer makes changes.
type changer interface {
	// Change runs do in a transaction. It returns nil when that is on disk. What do did
	// can be undone, and do run again.
	Change(ctx context.Context, do func(context.Context, *sql.Tx) error) error
	// ChangeFirst is Change, ahead of what waits there.
	ChangeFirst(ctx context.Context, do func(context.Context, *sql.Tx) error) error
	// ChangeOrNothing is Change for a do that has changed nothing when it returns an
	// answer.
	ChangeOrNothing(ctx context.Context, do func(context.Context, *sql.Tx) error) error
	// ready needs what a change needs, and changes nothing.
	ready(ctx context.Context) error
	// limit sets how many connections may be open. It is called before the first change.
	limit(connections int)
	// Close closes the database, for readers too.
	Close() error
}

// patience is how long a change may take once it is its turn, and how long a
// read may take. It is well under any caller's deadline.
const patience = 3 * time.Second

// dialect is where the databases differ otherwise.
type dialect struct {
	hold        string           // ends a SELECT whose rows are to stand until the change ends
	holdInOrder string           // likewise, by their ids, in the order of holdAll
	holdFree    string           // likewise, and leaves out the rows that others hold
	clock       string           // the database's own time, in Unix milliseconds; empty: it is this machine's
	snapshot    *sql.TxOptions   // of a transaction that reads what was there at one moment
	isDuplicate func(error) bool // a row was refused because its key exists
}

// Open opens a database, and brings its tables up to date.
//
// A location that begins with postgres:// or postgresql:// is that of a PostgreSQL
// database. Off this machine it must say sslmode=verify-full; a server that would
// lose what it has acknowledged, as fsync or synchronous_commit is off, is refused.
//
// Any other is the path of a SQLite file, which is made (0600) where there is none,
// and refused if others can read it: it holds password hashes.
//
// The error names no setting, and repeats no URL, which can have a password.
func Open(ctx context.Context, location string) (*DB, error) {
	at, err := locate(location)
	if err != nil {
		return nil, err
	}
	if at.URL != nil {
		return openPostgres(ctx, at.URL)
	}
	return openSQLite(ctx, at.Path)
}

// OpenExisting is Open, but makes no file.
func OpenExisting(ctx context.Context, location string) (*DB, error) {
	at, err := locate(location)
	if err != nil {
		return nil, err
	}
	if at.Path != "" {
		if _, err := os.Stat(at.Path); errors.Is(err, fs.ErrNotExist) {
			return nil, errors.New("has no such file: \"user add\" and \"serve\" make one")
		}
	}
	return Open(ctx, location)
}

// Limit sets how many connections to a PostgreSQL may be open at once, at least 2.
// Of a SQLite file it changes nothing.
func (db *DB) Limit(connections int) { db.writer.limit(connections) }

func locate(location string) (serving.Location, error) {
	return serving.ParseLocation(location, "a file, or a URL that begins with postgres://", "postgres", "postgresql")
}

func (db *DB) change(ctx context.Context, do func(context.Context, *transaction) error) error {
	return db.writer.Change(ctx, db.inTime(do))
}

// changeFirst is change for what must not wait for those who are handed something: it
// takes back, tells of what is taken back, or is an operator's.
func (db *DB) changeFirst(ctx context.Context, do func(context.Context, *transaction) error) error {
	return db.writer.ChangeFirst(ctx, db.inTime(do))
}

// Changed is signalled when this process has changed what the trust list states.
// One signal can stand for several changes. Others' changes show in Changes.
func (db *DB) Changed() <-chan struct{} { return db.changed }

// tell signals Changed.
func (db *DB) tell() {
	select {
	case db.changed <- struct{}{}:
	default: // a signal that is still waiting covers this change too
	}
}

// transaction is one in the making.
type transaction struct {
	*sql.Tx
	listed bool // it has changed what the trust list states
}

// look has do read what was there at one moment.
func (db *DB) look(ctx context.Context, do func(context.Context, *transaction) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tx, err := db.read.BeginTx(ctx, db.dialect.snapshot)
	if err != nil {
		return wrap("looking", err)
	}
	defer tx.Rollback() // it has changed nothing
	return do(ctx, &transaction{Tx: tx})
}

// Close waits for running calls and closes the database.
func (db *DB) Close() error {
	return db.writer.Close()
}

// neededTables are those that the server's work changes.
var neededTables = []string{"users", "sessions", "audit", "revocations", "grants"}

// Ready returns nil if the database takes the changes that the server's work needs,
// and goes by the same clock.
func (db *DB) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := db.writer.ready(ctx); err != nil {
		return wrap("asking for changes", err)
	}
	return db.checkClock(ctx, db.read)
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

// texts reads rows of one text each.
func texts(rows *sql.Rows, err error) ([]string, error) {
	return serving.Rows(rows, err, func() (text string, err error) {
		err = rows.Scan(&text)
		return text, err
	})
}

// affected returns how many rows a statement has changed.
func affected(result sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// The zero time is kept as 0.
func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func fromNull(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}
